import Flow
import Testing

@testable import SyncModel

/// The state with a clock and generator of the test's own.
private struct Uplink {
    var state: UplinkState
    var now: Int64 = 0
    var generator = SeededGenerator(seed: 5)
    var cuts: Int64 = 0

    init(
        linger: Int64 = 1_000, backoff: Backoff = Backoff(base: 1_000_000, cap: 120_000_000),
        breaks: Bool = false, change: (inout UplinkState.Settings) -> Void = { _ in }
    ) {
        var settings = UplinkState.Settings()
        settings.linger = linger
        settings.fullBatch = 100
        settings.smallBacklog = 1_000
        settings.requestTimeout = 60_000_000
        settings.shutdownTimeout = 3_000_000
        settings.refusedDelay = 120_000_000
        change(&settings)
        var breaker = CircuitBreaker.Settings()
        if !breaks { breaker.minimumCalls = .max }
        state = UplinkState(settings: settings, backoff: backoff, breaker: breaker)
    }

    mutating func after(_ event: UplinkState.Event, at time: Int64? = nil) -> [UplinkState.Action] {
        if let time { now = time }
        return state.handle(event, now: now, using: &generator)
    }

    mutating func found(bytes: Int = 10, at time: Int64? = nil) -> [UplinkState.Action] {
        cuts += 1
        return after(.cut(.init(id: cuts, bytes: bytes)), at: time)
    }

    mutating func nothing() -> [UplinkState.Action] { after(.cut(nil)) }

    mutating func status(_ status: Int, retryAfter: Int64? = nil, sent: Int = 0) -> [UplinkState.Action] {
        after(.answer(.init(status: status, retryAfter: retryAfter, sentBytes: sent)))
    }

    /// Brings it to `sending`.
    mutating func sending(bytes: Int = 10) {
        _ = state.start(now: now)
        _ = found(bytes: bytes)
    }

    /// A live batch goes through; then so much waits.
    mutating func returned(live: Int = 0, backlog: Int = 0) -> [UplinkState.Action] {
        sending()
        _ = status(200)
        return after(.acknowledged(.init(live: live, backlog: backlog)))
    }

    /// The time it waits for; fails the test in any other state.
    func waitingUntil() throws -> Int64 {
        guard case .idle(let until?) = state.state else {
            Issue.record("\(state.state) instead of waiting")
            return 0
        }
        return until
    }
}

extension [UplinkState.Action] {
    fileprivate var lane: Lane? {
        for case .cut(let lane, _) in self { return lane }
        return nil
    }

    fileprivate var timeout: Int64? {
        for case .send(_, let timeout) in self { return timeout }
        return nil
    }

    fileprivate var content: UplinkState.Content? {
        for case .send(let content, _) in self { return content }
        return nil
    }
}

@Suite struct UplinkStateTests {
    @Test func atStartItAsksForAnUnansweredCut() {
        var uplink = Uplink()
        #expect(uplink.state.start().lane == .live)
        #expect(uplink.nothing() == [])
        #expect(uplink.state.state == .idle(until: nil))
    }

    @Test func aSmallBatchLingersAndAFullOneDoesNot() {
        var uplink = Uplink()
        _ = uplink.state.start()
        _ = uplink.nothing()
        #expect(uplink.after(.dataAvailable(.init(live: 99)), at: 5) == [.wake(at: 1_005)])
        #expect(uplink.after(.dataAvailable(.init(live: 99)), at: 6) == [], "the first message's time counts")
        #expect(uplink.after(.timer, at: 1_004) == [.wake(at: 1_005)], "a timer that comes too early")
        #expect(uplink.after(.timer, at: 1_005).lane == .live)
        _ = uplink.nothing()
        #expect(uplink.after(.dataAvailable(.init(live: 10))) == [.wake(at: 2_005)])
        #expect(uplink.after(.dataAvailable(.init(live: 100))).lane == .live, "full while lingering")
        _ = uplink.nothing()
        #expect(uplink.after(.dataAvailable(.init(live: 100))).lane == .live)
    }

    @Test func withoutLingerEveryBatchIsCutAtOnce() {
        var uplink = Uplink(linger: 0)
        _ = uplink.state.start()
        _ = uplink.nothing()
        #expect(uplink.after(.dataAvailable(.init(live: 1))).lane == .live)
    }

    @Test func onlyA200LetsTheBufferDelete() {
        for status in [100, 201, 202, 204, 301, 400, 401, 403, 404, 408, 413, 422, 429, 500, 503] {
            var uplink = Uplink()
            uplink.sending()
            #expect(!uplink.status(status).contains(.acknowledge), "\(status)")
        }
        var uplink = Uplink()
        uplink.sending()
        #expect(uplink.status(200) == [.acknowledge])
        #expect(uplink.state.state == .acknowledging(.live))
    }

    @Test func whatWaitsAfterAnAcknowledgementIsSentNext() {
        for (bytes, news, wake) in [(0, false, nil), (50, false, 1_000), (0, true, 1_000)] as [(Int, Bool, Int64?)] {
            var uplink = Uplink()
            uplink.sending()
            if news { #expect(uplink.after(.dataAvailable(.init(live: 50))) == []) }
            _ = uplink.status(200)
            #expect(uplink.after(.acknowledged(.init(live: bytes))) == (wake.map { [.wake(at: $0)] } ?? []))
            #expect(uplink.state.attempt(in: .live) == 0)
        }
        var uplink = Uplink()
        #expect(uplink.returned(live: 100).lane == .live)
    }

    @Test func newsThatCameWhileNothingWasFoundIsNotForgotten() {
        var uplink = Uplink()
        _ = uplink.state.start()
        _ = uplink.after(.dataAvailable(.init(live: 5)))
        #expect(uplink.nothing() == [.wake(at: 1_000)])
    }

    @Test func waitsGrowToTheCapWithFullJitter() throws {
        var uplink = Uplink()
        uplink.sending()
        var bound: Int64 = 1_000_000
        var waits: Set<Int64> = []
        for attempt in 1...12 {
            #expect(uplink.state.state == .sending(.live, attempt: attempt))
            _ = uplink.after(.failure(sentBytes: 0))
            let until = try uplink.waitingUntil()
            #expect(0...bound ~= until - uplink.now)
            waits.insert(until - uplink.now)
            bound = min(bound * 2, 120_000_000)
            #expect(uplink.after(.timer, at: until).lane == .live, "the same cut is asked for again")
            #expect(uplink.found().timeout == 60_000_000)
        }
        #expect(waits.count > 10, "jitter")
        _ = uplink.status(200)
        _ = uplink.after(.acknowledged(.init(live: 100)))
        _ = uplink.found()
        _ = uplink.after(.failure(sentBytes: 0))
        #expect(try uplink.waitingUntil() - uplink.now <= 1_000_000, "a success starts anew")
    }

    @Test(arguments: [408, 429, 500, 503, 599])
    func retryAfterIsTheLeast(status: Int) throws {
        var uplink = Uplink()
        uplink.sending()
        #expect(uplink.status(status, retryAfter: 600_000_000) == [.wake(at: 600_000_000)])
        #expect(
            uplink.after(.dataAvailable(.init(live: 1_000)), at: 1) == [], "new data does not shorten the wait")
        #expect(uplink.after(.timer, at: 600_000_000).lane == .live)
        _ = uplink.found()
        _ = uplink.status(status, retryAfter: 0)
        #expect(try uplink.waitingUntil() - uplink.now <= 2_000_000)
    }

    @Test(arguments: [201, 302, 401, 403, 404])
    func aRefusedBatchIsAnAlarmAndTriedAtTheCap(status: Int) {
        var uplink = Uplink()
        uplink.sending()
        #expect(uplink.status(status, retryAfter: 1) == [.alarm(status: status), .wake(at: 120_000_000)])
        #expect(uplink.after(.timer, at: 120_000_000).lane == .live)
        _ = uplink.found()
        #expect(uplink.status(status, retryAfter: 300_000_000) == [.alarm(status: status), .wake(at: 420_000_000)])
    }

    @Test func aBufferThatFailsIsAskedAgain() throws {
        var uplink = Uplink()
        _ = uplink.state.start()
        _ = uplink.after(.bufferFailed)
        #expect(uplink.after(.timer, at: try uplink.waitingUntil()).lane == .live)
        _ = uplink.found()
        _ = uplink.status(200)
        _ = uplink.after(.bufferFailed)
        #expect(uplink.after(.timer, at: try uplink.waitingUntil()).lane == .live, "the batch is sent again")
    }

    @Test func aShutdownAllowsOneLastAttempt() {
        for prepare in [
            { uplink in _ = uplink.nothing() },
            { uplink in
                _ = uplink.nothing()
                _ = uplink.after(.dataAvailable(.init(live: 1)))
            },
            { uplink in
                _ = uplink.found()
                _ = uplink.after(.failure(sentBytes: 0))
            },
        ] as [(inout Uplink) -> Void] {
            var uplink = Uplink()
            _ = uplink.state.start()
            prepare(&uplink)
            let last = uplink.after(.shutdown, at: 10)
            #expect(last.lane == .live && last.last == .wake(at: 3_000_010))
            #expect(uplink.after(.shutdown, at: 11) == [], "twice is once")
            var empty = uplink
            #expect(empty.nothing() == [.stop])
            #expect(uplink.found(at: 1_000_010).timeout == 2_000_000)
            var failed = uplink
            #expect(failed.after(.failure(sentBytes: 0)) == [.stop])
            var busy = uplink
            #expect(busy.status(503, retryAfter: 1) == [.stop])
            var late = uplink
            #expect(late.after(.timer, at: 3_000_010) == [.stop])
            #expect(uplink.status(200) == [.acknowledge])
            #expect(uplink.after(.acknowledged(.init(live: 1_000))) == [.stop])
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
        #expect(uplink.status(200) == [.acknowledge])
        #expect(uplink.after(.bufferFailed) == [.stop])
    }

    // MARK: Lanes

    @Test func afterAnOutageNewDataIsLiveAndTheRestBacklog() {
        var uplink = Uplink()
        #expect(uplink.returned(live: 5_000) == [.startLive], "after a start")
        #expect(uplink.after(.liveStarted(.init(backlog: 5_000))).lane == .backlog, "live has just had its turn")
        #expect(uplink.nothing().lane == .live, "a live cut may be open still")
        _ = uplink.found()
        _ = uplink.status(200)
        #expect(uplink.after(.acknowledged(.init(live: 5_000, backlog: 4_000))) != [.startLive], "no outage since")
        _ = uplink.found()
        _ = uplink.after(.failure(sentBytes: 0))
        _ = uplink.after(.timer, at: 10_000_000)
        _ = uplink.found()
        _ = uplink.status(200)
        #expect(uplink.after(.acknowledged(.init(live: 5_000, backlog: 4_000))) == [.startLive])
    }

    /// On a slow link little takes long, and new data would wait for it.
    @Test func howMuchIsABacklogDependsOnTheLink() {
        for (bandwidth, isBacklog) in [(Int?.none, false), (32 * 1_024, true)] {
            var uplink = Uplink {
                $0.fullBatch = 1 << 20
                $0.smallBacklog = 4 << 20
                $0.bandwidth = bandwidth
            }
            #expect(uplink.returned(live: 200_000).contains(.startLive) == isBacklog, "\(bandwidth ?? 0)")
        }
    }

    @Test func aShortStutterMakesNoBacklog() {
        var uplink = Uplink()
        #expect(uplink.returned(live: 1_000).lane == .live)
        var busy = Uplink()
        _ = busy.returned(backlog: 500)
        _ = busy.found()
        _ = busy.status(429, retryAfter: 1)
        _ = busy.after(.timer, at: 5_000_000)
        _ = busy.found()
        _ = busy.status(200)
        #expect(busy.after(.acknowledged(.init(live: 5_000, backlog: 400))).lane == .live, "a busy backlog is none")
    }

    /// nanomq#1980 and thingsboard#2124: neither is the backlog starved by new data, nor new data by the backlog.
    @Test(arguments: [(20, 0.2), (50, 0.5), (90, 0.9)])
    func neitherLaneStarves(share: Int, expected: Double) {
        var uplink = Uplink { $0.backlogShare = share }
        var lane = uplink.returned(live: 500, backlog: 500).lane
        var count = [Lane.live: 0, .backlog: 0]
        for _ in 0..<1_000 {
            count[lane ?? .live, default: 0] += 1
            _ = uplink.found()
            uplink.now += 1_000_000
            _ = uplink.status(200)
            lane = uplink.after(.acknowledged(.init(live: 500, backlog: 500))).lane
        }
        #expect(abs(Double(count[.backlog] ?? 0) / 1_000 - expected) < 0.02)
    }

    @Test func aLaneThatHasNothingToSendSavesNothingUp() {
        var uplink = Uplink()
        var lane = uplink.returned(live: 500).lane
        for _ in 0..<100 {
            _ = uplink.found()
            uplink.now += 1_000_000
            _ = uplink.status(200)
            lane = uplink.after(.acknowledged(.init(live: 500, backlog: 0))).lane
        }
        var order: [Lane?] = []
        for _ in 0..<6 {
            _ = uplink.found()
            uplink.now += 1_000_000
            _ = uplink.status(200)
            lane = uplink.after(.acknowledged(.init(live: 500, backlog: 500))).lane
            order.append(lane)
        }
        #expect(order.contains(.live) && order.filter { $0 == .backlog }.count <= 4, "\(order)")
    }

    @Test func aBusyBacklogDoesNotHoldLiveDataUp() {
        var uplink = Uplink()
        #expect(uplink.returned(backlog: 500).lane == .backlog)
        _ = uplink.found()
        _ = uplink.status(429, retryAfter: 60_000_000)
        #expect(uplink.after(.dataAvailable(.init(live: 100, backlog: 500)), at: 1_000).lane == .live)
        _ = uplink.found()
        _ = uplink.status(200)
        let wake = uplink.after(.acknowledged(.init(backlog: 500)))
        #expect(wake.lane == nil && uplink.state.state == .idle(until: 60_000_000))
    }

    // MARK: Bounds

    @Test func theBreakerOpensForBothLanesAndProbesOnce() throws {
        var uplink = Uplink(backoff: Backoff(base: 1, cap: 1), breaks: true)
        uplink.sending()
        var opened = false
        for _ in 0..<5 {
            opened = uplink.after(.failure(sentBytes: 0), at: uplink.now + 10).contains(.breaker(.open))
            guard !opened else { break }
            _ = uplink.after(.timer, at: uplink.now + 10)
            _ = uplink.found()
        }
        #expect(opened && uplink.state.breaker.state == .open)
        _ = uplink.after(.timer, at: uplink.now + 10)
        let refused = uplink.found()
        #expect(refused.content == nil, "nothing is sent while it is open")
        let until = try uplink.waitingUntil()
        #expect(29_000_000...30_000_000 ~= until - uplink.now)
        _ = uplink.after(.timer, at: until)
        let probe = uplink.found()
        #expect(probe.contains(.breaker(.halfOpen)) && probe.content == .whole)
        #expect(uplink.status(200) == [.breaker(.closed), .acknowledge])
    }

    @Test func aCloudThatIsBusyDoesNotOpenTheBreaker() {
        var uplink = Uplink(backoff: Backoff(base: 1, cap: 1), breaks: true)
        uplink.sending()
        for _ in 0..<20 {
            #expect(!uplink.status(429).contains(.breaker(.open)))
            _ = uplink.after(.timer, at: uplink.now + 10)
            _ = uplink.found()
        }
        #expect(uplink.state.breaker.state == .closed)
    }

    @Test func theBandwidthIsKeptOverManyBatches() {
        var uplink = Uplink(linger: 0) { $0.bandwidth = 10_000 }
        _ = uplink.state.start()
        var sent = 0
        for _ in 0..<200 {
            _ = uplink.found()
            _ = uplink.status(200, sent: 2_500)
            sent += 2_500
            if uplink.after(.acknowledged(.init(live: 500))).lane == nil, case .idle(let until?) = uplink.state.state {
                _ = uplink.after(.timer, at: until)
            }
        }
        let seconds = Double(uplink.now) / 1e6
        #expect(Double(sent) / seconds < 10_200 && Double(sent) / seconds > 9_800, "\(sent) in \(seconds) s")
    }

    @Test func withACapBatchesAreSmall() {
        var uplink = Uplink {
            $0.bandwidth = 50_000
            $0.fullBatch = 1 << 20
        }
        #expect(uplink.state.start() == [.cut(.live, maximumBytes: 100_000)])
        var slow = Uplink {
            $0.bandwidth = 1_000
            $0.fullBatch = 1 << 20
        }
        #expect(slow.state.start() == [.cut(.live, maximumBytes: 65_536)])
    }

    @Test func anHoursBytesAreForLiveDataAtLast() throws {
        var uplink = Uplink(linger: 0) { $0.bytesPerHour = 10_000 }
        var lane = uplink.returned(live: 500, backlog: 500).lane
        var bytes = [Lane.live: 0, .backlog: 0]
        while let next = lane {
            bytes[next, default: 0] += 500
            _ = uplink.found()
            uplink.now += 1_000
            _ = uplink.status(200, sent: 500)
            // Live data comes slowly: without the limit the backlog would take nearly all.
            let live = bytes[.backlog, default: 0] >= 5_000 || bytes[.live, default: 0] < 1_000 ? 500 : 0
            lane = uplink.after(.acknowledged(.init(live: live, backlog: 500))).lane
        }
        #expect(bytes == [.live: 5_000, .backlog: 5_000])
        #expect(try uplink.waitingUntil() == 3_600_000_000, "until the next hour, for both")
        let spent = [Lane.live, .backlog].map { uplink.state.isHourSpent($0, at: uplink.now) }
        #expect(spent == [true, true])
        #expect(uplink.after(.timer, at: 3_600_000_000).lane != nil)
        let isSpent = uplink.state.isHourSpent(.live, at: uplink.now)
        #expect(!isSpent)
        #expect(uplink.state.hours(at: uplink.now) == (0, 10_000))
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
            let waiting = UplinkState.Waiting(
                live: Int.random(in: 0...200, using: &generator), backlog: Int.random(in: 0...50, using: &generator))
            let events: [UplinkState.Event] = [
                .dataAvailable(waiting), .cut(Bool.random(using: &generator) ? .init(id: 1, bytes: 5) : nil),
                .answer(.init(status: statuses[Int.random(in: 0..<6, using: &generator)])), .failure(sentBytes: 5),
                .bufferFailed, .acknowledged(waiting), .liveStarted(waiting), .buried, .timer,
                seed % 5 == 0 ? .shutdown : .timer,
            ]
            let event = events[Int.random(in: 0..<events.count, using: &generator)]
            let actions = uplink.after(event, at: uplink.now + Int64.random(in: 0...5_000_000, using: &generator))
            if actions.contains(.acknowledge) {
                guard case .sending = before, case .answer(let answer) = event, answer.status == 200 else {
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

    /// 1 MiB over a link of 17 kB/s: the whole of it never fits into a request's minute, and it begins anew each time.
    @Test(arguments: [17_000, 1_000_000])
    func aBatchThatIsTooLargeForTheLinkArrivesInParts(bytesPerSecond: Int) throws {
        let (messages, size) = (10_000, 105)
        var uplink = Uplink()
        uplink.sending(bytes: messages * size)
        let frame = BatchSplit.Piece(frame: 1, records: 0..<messages)
        var (arrived, sent) = (0, messages)
        for _ in 0..<1_000 {
            let time = Int64(sent * size) * 1_000_000 / Int64(bytesPerSecond)
            let fits = time < 60_000_000
            uplink.now += min(time, 60_000_000)
            var actions: [UplinkState.Action]
            if fits {
                arrived += sent
                actions = uplink.status(200)
            } else {
                actions = uplink.after(.failure(sentBytes: 1, pieces: sent == messages ? [frame] : []))
            }
            if actions.contains(.acknowledge) { break }
            if actions.lane == nil { actions = uplink.after(.timer, at: try uplink.waitingUntil()) }
            actions = uplink.after(.cut(.init(id: uplink.cuts, bytes: messages * size)))
            if actions.contains(.acknowledge) { break }
            switch actions.content {
            case .pieces(let pieces): sent = pieces.messages
            case .probe: sent = 0
            case .whole: sent = messages
            case nil:
                Issue.record("\(actions)")
                return
            }
        }
        #expect(arrived == messages)
        #expect(uplink.now < 200_000_000, "\(uplink.now) µs")
    }

    /// A short failure is no sign of it, nor is a connection that does not come about (10 s).
    @Test func aFailureThatIsShortSendsAllOfItAgain() throws {
        var uplink = Uplink()
        uplink.sending(bytes: 100_000)
        let pieces = [BatchSplit.Piece(frame: 1, records: 0..<10)]
        _ = uplink.after(.failure(sentBytes: 1, pieces: pieces), at: uplink.now + 10_100_000)
        _ = uplink.after(.timer, at: try uplink.waitingUntil())
        #expect(uplink.after(.cut(.init(id: uplink.cuts, bytes: 100_000))).content == .whole)
        // The cloud's 408 is one, however soon it comes.
        _ = uplink.after(.failure(sentBytes: 1, pieces: pieces, isTooSlow: true), at: uplink.now + 1_000)
        _ = uplink.after(.timer, at: try uplink.waitingUntil())
        #expect(uplink.after(.cut(.init(id: uplink.cuts, bytes: 100_000))).content == .probe)
    }

    /// It came while a batch of the backlog was under way, and nothing comes after it: a backlog that cannot be sent must not
    /// keep it.
    @Test func aLoneLiveMessageDoesNotWaitForAFailingBacklog() throws {
        var uplink = Uplink()
        #expect(uplink.returned(backlog: 5_000).lane == .backlog)
        _ = uplink.found(bytes: 5_000)
        _ = uplink.after(.dataAvailable(.init(live: 10, backlog: 5_000)))
        _ = uplink.status(429, retryAfter: 3_600_000_000)
        let time = try uplink.waitingUntil()
        #expect(time <= uplink.now + 2_000)
        #expect(uplink.after(.timer, at: time).lane == .live)
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
