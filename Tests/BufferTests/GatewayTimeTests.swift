import Foundation
import MQTTSession
import MQTTWire
import NIOConcurrencyHelpers
import NIOCore
import Operations
import SyncModel
import Testing

@testable import Buffer

/// Clocks that a test sets.
final class SetClock: Sendable {
    private let time: NIOLockedValueBox<FrameClock>

    init(wall: Int64 = 1_780_000_000_000_000, monotonic: Int64 = 1_000_000, boot: UInt64 = 1, synchronised: Bool = true)
    {
        time = NIOLockedValueBox(
            FrameClock(
                wallTime: wall, monotonicTime: monotonic, bootHigh: boot, bootLow: boot, isSynchronised: synchronised))
    }

    /// Of the boot as it is now.
    var clock: SystemClock {
        let time = time
        let boot = time.withLockedValue { ($0.bootHigh, $0.bootLow) }
        return SystemClock(
            bootHigh: boot.0, bootLow: boot.1, wall: { time.withLockedValue { $0.wallTime } },
            monotonic: { time.withLockedValue { $0.monotonicTime } },
            synchronised: { time.withLockedValue { $0.isSynchronised } },
            sinceBoot: { time.withLockedValue { $0.bootTime } })
    }

    func pass(seconds: Int64) {
        time.withLockedValue {
            $0.wallTime += seconds * 1_000_000
            $0.monotonicTime += seconds * 1_000_000
        }
    }

    /// The machine is suspended.
    func sleep(seconds: Int64) {
        time.withLockedValue {
            $0.wallTime += seconds * 1_000_000
            $0.asleepTime += seconds * 1_000_000
        }
    }

    func step(seconds: Int64) { time.withLockedValue { $0.wallTime += seconds * 1_000_000 } }

    func set(wall: Int64? = nil, synchronised: Bool) {
        time.withLockedValue {
            $0.wallTime = wall ?? $0.wallTime
            $0.isSynchronised = synchronised
        }
    }

    func boot(wall: Int64, synchronised: Bool) {
        time.withLockedValue {
            $0 = FrameClock(
                wallTime: wall, monotonicTime: 1_000_000, bootHigh: $0.bootHigh + 1, bootLow: $0.bootLow + 1,
                isSynchronised: synchronised)
        }
    }
}

extension Buffer {
    func gatewayNow() async throws -> Int64 {
        try await perform { store throws(SQLiteError) in store.gatewayNow() }
    }
}

@Suite struct GatewayTimeTests {
    let scratch: Scratch
    let clock = SetClock()
    private static let fiftyYears: Int64 = 50 * 365 * 86_400

    init() throws { scratch = try Scratch() }

    private func open(epoch: UInt64, _ change: (inout Buffer.Configuration) -> Void = { _ in }) throws -> Buffer {
        try scratch.open(epoch: epoch) {
            $0.clock = clock.clock
            change(&$0)
        }
    }

    @Test func itGoesOnWhereTheDaemonEndedInOrder() async throws {
        let first = try open(epoch: 1)
        clock.pass(seconds: 40)
        clock.step(seconds: Self.fiftyYears)
        #expect(try await first.gatewayNow() == 40_000_000)
        await first.close()
        clock.pass(seconds: 2)
        clock.step(seconds: -2 * Self.fiftyYears)
        let second = try open(epoch: 2)
        #expect(try await second.gatewayNow() == 42_000_000, "the same boot: the monotonic clock tells")
        await second.close()
        clock.boot(wall: 0, synchronised: false)
        let third = try open(epoch: 3)
        #expect(try await third.gatewayNow() == 42_000_000, "without a clock, the time off does not count")
        await third.close()
    }

    /// Without an end in order, the stamp of the last commit with messages is what the next boot has.
    @Test func aPowerCutLosesNoMoreThanSinceTheLastMessage() async throws {
        let running = try open(epoch: 1)
        clock.pass(seconds: 30)
        try await running.commit(drafts([0]))
        clock.pass(seconds: 10)
        let copy = try Scratch()
        for suffix in ["", "-wal"] {
            try FileManager.default.copyItem(atPath: scratch.path + suffix, toPath: copy.path + suffix)
        }
        await running.close()
        clock.boot(wall: 0, synchronised: false)
        let clock = clock.clock
        let again = try copy.open(epoch: 2) { $0.clock = clock }
        #expect(try await again.gatewayNow() == 30_000_000)
        await again.close()
    }

    /// Session changes alone, and an idle gateway, write no stamp of their own: flash wears out.
    @Test func stampsCostNoWritesOfTheirOwn() async throws {
        let buffer = try open(epoch: 1)
        func stamp() async throws -> Int64? {
            try await buffer.perform { store throws(SQLiteError) in try store.lastStamp()?.stamp.gatewayTime }
        }
        clock.pass(seconds: 5)
        let record = SessionRecord(
            id: 1, key: SessionKey(deviceID: "d", clientID: "c"), version: .v5, expiryInterval: 60)
        try await buffer.commit([], changes: [.sessionSaved(record)])
        #expect(try await stamp() == 0)
        try await buffer.perform { store throws(SQLiteError) in
            #expect(!store.isStampDue && (store.timeToStamp ?? 0) > 590)
            store.nextStamp = 0
            #expect(store.isStampDue && store.timeToStamp == 0)
            store.maintainIdle()
            #expect(!store.isStampDue)
        }
        #expect(try await stamp() == 5_000_000)
        await buffer.close()
    }

    @Test func theLastKnownGoodTimeIsKeptOverBoots() async throws {
        let good = clock.clock.now().wallTime / 1_000_000
        let first = try open(epoch: 1)
        #expect(first.judgingSeconds() == good && first.isClockBelieved())
        await first.close()
        for boot in 2...4 as ClosedRange<UInt64> {
            clock.boot(wall: 0, synchronised: false)
            let later = try open(epoch: boot)
            #expect(later.judgingSeconds() == good && !later.isClockBelieved())
            await later.close()
        }
    }

    /// Files of the first two layouts say by the wall clock when something expires.
    @Test func whatAnOlderFileHoldsExpiresWhenItWouldHave() async throws {
        let wall = clock.clock.now().wallTime
        let message = StoredPublish(
            topic: ByteBuffer(string: "t"), payload: ByteBuffer(string: "p"), qos: .atLeastOnce,
            expiresAt: wall + 7_000_000)
        let buffer = try open(epoch: 1)
        let record = SessionRecord(
            id: 1, key: SessionKey(deviceID: "d", clientID: "c"), version: .v5, expiryInterval: 60)
        try await buffer.commit(
            [],
            changes: [
                .sessionSaved(record), .sessionDisconnected(1, at: wall - 5_000_000),
                .queued(1, order: 1, message, packetID: 0), .retained(message),
            ])
        await buffer.close()
        let file = try SQLiteConnection(path: scratch.path)
        try Schema.expireInGatewayTime(file, at: clock.clock.now())
        file.close()
        let opened = try Buffer.open(scratch.configuration(), epoch: Epoch(high: 2, low: 2), logger: quiet)
        await opened.buffer.close()
        #expect(opened.restored.sessions[0].disconnectedAt == -5_000_000)
        #expect(opened.restored.sessions[0].queue[0].message.expiresAt == 7_000_000)
        #expect(opened.restored.retained[0].expiresAt == 7_000_000)
    }
}
