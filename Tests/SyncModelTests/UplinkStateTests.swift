import Flow
import Testing

@testable import SyncModel

/// The state with a clock and generator of the test's own.
private struct Uplink {
    var state: UplinkState
    var now: Int64 = 0
    var generator = SeededGenerator(seed: 5)

    init(linger: Int64 = 1_000, backoff: Backoff = Backoff(base: 1_000_000, cap: 120_000_000)) {
        var settings = UplinkState.Settings()
        settings.linger = linger
        settings.fullBatch = 100
        settings.requestTimeout = 60_000_000
        settings.shutdownTimeout = 3_000_000
        settings.refusedDelay = 120_000_000
        state = UplinkState(settings: settings, backoff: backoff)
    }

    mutating func after(_ event: UplinkState.Event, at time: Int64? = nil) -> [UplinkState.Action] {
        if let time { now = time }
        return state.handle(event, now: now, using: &generator)
    }

    /// Brings it to `sending`.
    mutating func sending() {
        _ = state.start()
        _ = after(.cut(true))
    }

    /// The time it waits for; fails the test in any other state.
    func waitingUntil() throws -> Int64 {
        guard case .waiting(let until) = state.state else {
            Issue.record("\(state.state) instead of waiting")
            return 0
        }
        return until
    }
}

@Suite struct UplinkStateTests {
    @Test func atStartItAsksForAnUnansweredCut() {
        var uplink = Uplink()
        #expect(uplink.state.start() == [.cut])
        #expect(uplink.after(.cut(false)) == [])
        #expect(uplink.state.state == .idle)
    }

    @Test func aSmallBatchLingersAndAFullOneDoesNot() {
        var uplink = Uplink()
        _ = uplink.state.start()
        _ = uplink.after(.cut(false))
        #expect(uplink.after(.dataAvailable(bytes: 99), at: 5) == [.wake(at: 1_005)])
        #expect(uplink.after(.dataAvailable(bytes: 99), at: 6) == [], "the first message's time counts")
        #expect(uplink.after(.timer, at: 1_004) == [.wake(at: 1_005)], "a timer that comes too early")
        #expect(uplink.after(.timer, at: 1_005) == [.cut])
        _ = uplink.after(.cut(false))
        #expect(uplink.after(.dataAvailable(bytes: 10)) == [.wake(at: 2_005)])
        #expect(uplink.after(.dataAvailable(bytes: 100)) == [.cut], "full while lingering")
        _ = uplink.after(.cut(false))
        #expect(uplink.after(.dataAvailable(bytes: 100)) == [.cut])
    }

    @Test func withoutLingerEveryBatchIsCutAtOnce() {
        var uplink = Uplink(linger: 0)
        _ = uplink.state.start()
        _ = uplink.after(.cut(false))
        #expect(uplink.after(.dataAvailable(bytes: 1)) == [.cut])
    }

    @Test func onlyA200LetsTheBufferDelete() {
        for status in [100, 201, 202, 204, 301, 400, 401, 403, 404, 408, 413, 422, 429, 500, 503] {
            var uplink = Uplink()
            uplink.sending()
            #expect(!uplink.after(.answer(status: status, retryAfter: nil)).contains(.acknowledge), "\(status)")
        }
        var uplink = Uplink()
        uplink.sending()
        #expect(uplink.after(.answer(status: 200, retryAfter: nil)) == [.acknowledge])
        #expect(uplink.state.state == .acknowledging)
    }

    @Test func whatWaitsAfterAnAcknowledgementIsSentNext() {
        for (bytes, news, actions) in [
            (0, false, []), (50, false, [.wake(at: 1_000)]), (0, true, [.wake(at: 1_000)]), (100, false, [.cut]),
        ] as [(Int, Bool, [UplinkState.Action])] {
            var uplink = Uplink()
            uplink.sending()
            if news { #expect(uplink.after(.dataAvailable(bytes: 50)) == []) }
            _ = uplink.after(.answer(status: 200, retryAfter: nil))
            #expect(uplink.after(.acknowledged(bytes: bytes)) == actions)
            #expect(uplink.state.attempts == 0)
        }
    }

    @Test func newsThatCameWhileNothingWasFoundIsNotForgotten() {
        var uplink = Uplink()
        _ = uplink.state.start()
        _ = uplink.after(.dataAvailable(bytes: 5))
        #expect(uplink.after(.cut(false)) == [.wake(at: 1_000)])
    }

    @Test func waitsGrowToTheCapWithFullJitter() throws {
        var uplink = Uplink()
        uplink.sending()
        var bound: Int64 = 1_000_000
        var waits: Set<Int64> = []
        for attempt in 1...12 {
            #expect(uplink.state.state == .sending(attempt: attempt))
            _ = uplink.after(.failure)
            let until = try uplink.waitingUntil()
            #expect(0...bound ~= until - uplink.now)
            waits.insert(until - uplink.now)
            bound = min(bound * 2, 120_000_000)
            #expect(uplink.after(.timer, at: until) == [.cut], "the same cut is asked for again")
            #expect(uplink.after(.cut(true)) == [.send(timeout: 60_000_000)])
        }
        #expect(waits.count > 10, "jitter")
        _ = uplink.after(.answer(status: 200, retryAfter: nil))
        _ = uplink.after(.acknowledged(bytes: 100))
        _ = uplink.after(.cut(true))
        _ = uplink.after(.failure)
        #expect(try uplink.waitingUntil() - uplink.now <= 1_000_000, "a success starts anew")
    }

    @Test(arguments: [408, 429, 500, 503, 599])
    func retryAfterIsTheLeast(status: Int) throws {
        var uplink = Uplink()
        uplink.sending()
        let actions = uplink.after(.answer(status: status, retryAfter: 600_000_000))
        #expect(actions == [.wake(at: 600_000_000)])
        #expect(uplink.after(.dataAvailable(bytes: 1_000), at: 1) == [], "new data does not shorten the wait")
        #expect(uplink.after(.timer, at: 600_000_000) == [.cut])
        _ = uplink.after(.cut(true))
        _ = uplink.after(.answer(status: status, retryAfter: 0))
        #expect(try uplink.waitingUntil() - uplink.now <= 2_000_000)
    }

    @Test(arguments: [201, 302, 400, 401, 403, 404, 413, 422])
    func aRefusedBatchIsAnAlarmAndTriedAtTheCap(status: Int) {
        var uplink = Uplink()
        uplink.sending()
        #expect(
            uplink.after(.answer(status: status, retryAfter: 1)) == [.alarm(status: status), .wake(at: 120_000_000)])
        #expect(uplink.after(.timer, at: 120_000_000) == [.cut])
        _ = uplink.after(.cut(true))
        #expect(
            uplink.after(.answer(status: status, retryAfter: 300_000_000))
                == [.alarm(status: status), .wake(at: 420_000_000)])
    }

    @Test func aBufferThatFailsIsAskedAgain() throws {
        var uplink = Uplink()
        _ = uplink.state.start()
        _ = uplink.after(.bufferFailed)
        #expect(uplink.after(.timer, at: try uplink.waitingUntil()) == [.cut])
        _ = uplink.after(.cut(true))
        _ = uplink.after(.answer(status: 200, retryAfter: nil))
        _ = uplink.after(.bufferFailed)
        #expect(uplink.after(.timer, at: try uplink.waitingUntil()) == [.cut], "the batch is sent again")
    }

    @Test func aShutdownAllowsOneLastAttempt() {
        for prepare in [
            { uplink in _ = uplink.after(.cut(false)) },
            { uplink in
                _ = uplink.after(.cut(false))
                _ = uplink.after(.dataAvailable(bytes: 1))
            },
            { uplink in
                _ = uplink.after(.cut(true))
                _ = uplink.after(.failure)
            },
        ] as [(inout Uplink) -> Void] {
            var uplink = Uplink()
            _ = uplink.state.start()
            prepare(&uplink)
            #expect(uplink.after(.shutdown, at: 10) == [.cut, .wake(at: 3_000_010)])
            #expect(uplink.after(.shutdown, at: 11) == [], "twice is once")
            var empty = uplink
            #expect(empty.after(.cut(false)) == [.stop])
            #expect(uplink.after(.cut(true), at: 1_000_010) == [.send(timeout: 2_000_000)])
            var failed = uplink
            #expect(failed.after(.failure) == [.stop])
            var busy = uplink
            #expect(busy.after(.answer(status: 503, retryAfter: 1)) == [.stop])
            var late = uplink
            #expect(late.after(.timer, at: 3_000_010) == [.stop])
            #expect(uplink.after(.answer(status: 200, retryAfter: nil)) == [.acknowledge])
            #expect(uplink.after(.acknowledged(bytes: 1_000)) == [.stop])
            #expect(uplink.state.state == .stopped)
        }
    }

    @Test func aShutdownLetsWhatIsUnderWayEndInTime() {
        var uplink = Uplink()
        uplink.sending()
        #expect(uplink.after(.shutdown, at: 10) == [.wake(at: 3_000_010)])
        #expect(uplink.after(.timer, at: 20) == [])
        var late = uplink
        #expect(late.after(.timer, at: 3_000_010) == [.stop])
        #expect(uplink.after(.answer(status: 200, retryAfter: nil)) == [.acknowledge])
        #expect(uplink.after(.bufferFailed) == [.stop])
    }

    /// Whatever comes in whatever order: a batch is deleted only after its own 200, and a stopped uplink does nothing.
    @Test(arguments: 1...50 as ClosedRange<UInt64>)
    func noOrderOfEventsDeletesWithoutA200(seed: UInt64) {
        var generator = SeededGenerator(seed: seed)
        var uplink = Uplink()
        _ = uplink.state.start()
        for _ in 0..<400 {
            let before = uplink.state.state
            let statuses = [200, 200, 204, 403, 429, 503]
            let events: [UplinkState.Event] = [
                .dataAvailable(bytes: Int.random(in: 0...200, using: &generator)),
                .cut(Bool.random(using: &generator)),
                .answer(status: statuses[Int.random(in: 0..<6, using: &generator)], retryAfter: nil), .failure,
                .bufferFailed, .acknowledged(bytes: Int.random(in: 0...200, using: &generator)), .timer,
                seed % 5 == 0 ? .shutdown : .timer,
            ]
            let event = events[Int.random(in: 0..<events.count, using: &generator)]
            let actions = uplink.after(event, at: uplink.now + Int64.random(in: 0...5_000_000, using: &generator))
            if actions.contains(.acknowledge) {
                guard case .sending = before, case .answer(200, _) = event else {
                    Issue.record("deleted after \(event) in \(before)")
                    return
                }
            }
            if case .stopped = before {
                #expect(actions == [] && uplink.state.state == .stopped)
                return
            }
        }
    }
}

@Suite struct RetryAfterTests {
    @Test func secondsAreBounded() {
        #expect(RetryAfter.delay("0", now: 0) == 0)
        #expect(RetryAfter.delay("7", now: 0) == 7_000_000)
        #expect(RetryAfter.delay("601", now: 0) == 600_000_000)
        #expect(RetryAfter.delay("99999999999999999999999", now: 0) == 600_000_000)
    }

    @Test func datesAreTimes() {
        #expect(RetryAfter.delay("Sun, 06 Nov 1994 08:49:37 GMT", now: 784_111_770) == 7_000_000)
        #expect(RetryAfter.delay("Sun, 06 Nov 1994 08:49:37 GMT", now: 784_111_999) == 0)
        #expect(RetryAfter.delay("Thu, 29 Feb 2024 00:00:00 GMT", now: 1_709_164_795) == 5_000_000)
        #expect(RetryAfter.delay("Thu, 01 Jan 1970 00:00:09 GMT", now: 0) == 9_000_000)
        #expect(RetryAfter.delay("Fri, 31 Dec 2100 23:59:59 GMT", now: 4_133_980_789) == 10_000_000)
    }

    @Test(arguments: [
        "", "-1", "1.5", "soon", " 7", "Sun, 06 Nov 1994 08:49:37 CET", "Sun, 06 Nov 1994 24:49:37 GMT",
        "Sun, 6 Nov 1994 08:49:37 GMT", "Sun, 00 Nov 1994 08:49:37 GMT", "Sun, 06 Nix 1994 08:49:37 GMT",
        "Sunday, 06-Nov-94 08:49:37 GMT",
    ])
    func otherTextIsNone(text: String) {
        #expect(RetryAfter.delay(text, now: 0) == nil)
    }
}
