import Foundation
import NIOCore
import Operations
import SyncModel
import Testing

@testable import Buffer

/// Corrections of the clock in the buffer's file: over restarts, failures and the way to the cloud.
@Suite struct ClockCorrectionTests {
    let scratch: Scratch
    let clock = SetClock(wall: 5_000_000, synchronised: false)
    private static let today: Int64 = 1_780_000_000_000_000

    init() throws { scratch = try Scratch() }

    private func open(epoch: UInt64) throws -> Buffer { try scratch.open(epoch: epoch) { $0.clock = clock.clock } }

    private func commit(_ count: Int, to buffer: Buffer) async throws {
        var builder = FrameBuilder()
        for _ in 0..<count {
            builder.append(
                device: 0, deviceID: "d", qos: 1, retain: false, duplicate: false, topic: ByteBuffer(string: "t"),
                payload: ByteBuffer(string: "p"), properties: ByteBuffer(), clock: clock.clock.now())
        }
        _ = try await buffer.commit(builder.take())
    }

    /// Sets the clock right and lets it be so for long enough.
    private func synchronise(_ buffer: Buffer) async throws {
        clock.set(wall: Self.today, synchronised: true)
        try await stamp(buffer)
        clock.pass(seconds: 61)
        try await stamp(buffer)
    }

    private func stamp(_ buffer: Buffer) async throws {
        try await buffer.perform { store throws(SQLiteError) in store.stamp() }
    }

    private func waiting(_ buffer: Buffer) async throws -> [ClockCorrection] {
        guard let cut = try await buffer.nextCut(maximumBytes: 1 << 20, maximumMessages: 1_000) else { return [] }
        return try await buffer.corrections(of: cut)
    }

    @Test func aCorrectionIsSentWithTheNextBatchAndForgottenWithItsAnswer() async throws {
        let buffer = try open(epoch: 1)
        try await commit(3, to: buffer)
        let offset = Self.today - clock.clock.now().wallTime
        let first = try #require(try await buffer.nextCut(maximumBytes: 1 << 20, maximumMessages: 1_000))
        try await synchronise(buffer)
        #expect(try await buffer.corrections(of: first) == [], "the cut was made before")
        try await buffer.acknowledge(first)
        let cut = try #require(try await buffer.nextCut(maximumBytes: 1 << 20, maximumMessages: 1_000))
        #expect(cut.messageCount == 0, "a correction travels alone where nothing else waits")
        let expected = [ClockCorrection(epoch: Epoch(high: 0, low: 1), sequences: 1...3, offset: offset)]
        #expect(try await buffer.corrections(of: cut) == expected)
        #expect(try await buffer.corrections(of: cut) == expected, "each time it is sent")
        try await buffer.acknowledge(cut)
        #expect(try await buffer.nextCut(maximumBytes: 1 << 20, maximumMessages: 1_000) == nil)
        await buffer.close()
    }

    /// It has the time of a message that it stands for, and a sequence of its own.
    @Test func anAggregateIsCorrectedAsItsMessagesAre() async throws {
        let clock = clock.clock
        let buffer = try scratch.open(epoch: 1) {
            $0.clock = clock
            $0.localRules = [.aggregate(seconds: 10)]
        }
        try await buffer.commit(["1", "2"], at: self.clock)
        self.clock.pass(seconds: 21)
        try await buffer.work()
        try await commit(1, to: buffer)
        let offset = Self.today - clock.now().wallTime
        try await synchronise(buffer)
        let expected = [ClockCorrection(epoch: Epoch(high: 0, low: 1), sequences: 1...4, offset: offset)]
        #expect(try await waiting(buffer) == expected)
        await buffer.close()
    }

    /// What was held while the machine slept before has its sleep in the file, over a restart too.
    @Test func sleepIsKnownOfWhatIsHeld() async throws {
        let clock = clock.clock
        func configure(_ configuration: inout Buffer.Configuration) {
            configuration.clock = clock
            configuration.localRules = [.aggregate(seconds: 10)]
        }
        let first = try scratch.open(epoch: 1, configure)
        try await commit(1, to: first)
        self.clock.sleep(seconds: 500)
        try await first.commit(["1", "2"], at: self.clock)
        await first.close()
        self.clock.sleep(seconds: 3_000)
        let second = try scratch.open(epoch: 2, configure)
        self.clock.pass(seconds: 21)
        try await second.work()
        try await commit(1, to: second)
        let offset = Self.today - clock.now().wallTime
        try await synchronise(second)
        #expect(
            try await waiting(second) == [
                ClockCorrection(epoch: Epoch(high: 0, low: 1), sequences: 1...3, offset: offset),
                ClockCorrection(epoch: Epoch(high: 0, low: 2), sequences: 1...2, offset: offset),
            ])
        await second.close()
    }

    /// Two daemons and a power cut of the first in one boot, steps in both directions; the second daemon sees the time.
    @Test func stretchesOfEarlierDaemonsOfTheBootAreCorrected() async throws {
        let first = try open(epoch: 1)
        try await commit(2, to: first)
        clock.step(seconds: -3)
        clock.pass(seconds: 2)
        try await commit(1, to: first)
        clock.step(seconds: 1_000)
        try await commit(4, to: first)
        // What is in the files now is all that the next daemon has.
        let copy = try Scratch()
        for suffix in ["", "-wal"] {
            try FileManager.default.copyItem(atPath: scratch.path + suffix, toPath: copy.path + suffix)
        }
        await first.close()
        let clock = clock.clock
        let second = try copy.open(epoch: 2) { $0.clock = clock }
        try await commit(2, to: second)
        let wrong = self.clock.clock.now()
        try await synchronise(second)
        let offset = Self.today - wrong.wallTime
        let a = Epoch(high: 0, low: 1)
        #expect(
            try await waiting(second) == [
                ClockCorrection(epoch: a, sequences: 1...2, offset: offset + 997_000_000),
                ClockCorrection(epoch: a, sequences: 3...3, offset: offset + 1_000_000_000),
                ClockCorrection(epoch: a, sequences: 4...7, offset: offset),
                ClockCorrection(epoch: Epoch(high: 0, low: 2), sequences: 1...2, offset: offset),
            ])
        await second.close()
        let third = try copy.open(epoch: 3) { $0.clock = clock }
        #expect(try await waiting(third).count == 4, "what was not answered is sent again")
        await third.close()
    }

    @Test func anotherBootKnowsNothingOfTheTimeBefore() async throws {
        let first = try open(epoch: 1)
        try await commit(2, to: first)
        await first.close()
        clock.boot(wall: 1_000_000, synchronised: false)
        let second = try open(epoch: 2)
        try await commit(1, to: second)
        try await synchronise(second)
        #expect(try await waiting(second).map(\.epoch) == [Epoch(high: 0, low: 2)])
        await second.close()
    }

    /// A running stretch is no row to be written: a gateway without time servers would wear out its flash.
    @Test func messagesOfARunningStretchWriteNoRows() async throws {
        let buffer = try open(epoch: 1)
        func changes() async throws -> Int64 {
            try await buffer.perform { store throws(SQLiteError) in
                try store.connection.integer("SELECT total_changes()") ?? 0
            }
        }
        try await commit(1, to: buffer)
        let before = try await changes()
        try await commit(1, to: buffer)
        // The frame, and the epoch's row twice.
        #expect(try await changes() - before == 3)
        await buffer.close()
    }

    @Test func aStoreThatTakesOverGoesOnWithTheStretch() async throws {
        let configuration = scratch.configuration { $0.clock = clock.clock }
        func store() throws -> BufferStore {
            try BufferStore(
                configuration, connection: try Schema.open(configuration, for: .start), shared: BufferShared())
        }
        try Data().write(to: URL(fileURLWithPath: scratch.path))
        let former = try store()
        try former.begin(Epoch(high: 1, low: 1))
        var builder = FrameBuilder()
        func frames() -> [FrameDraft] {
            builder.append(
                device: 0, deviceID: "d", qos: 1, retain: false, duplicate: false, topic: ByteBuffer(string: "t"),
                payload: ByteBuffer(string: "p"), properties: ByteBuffer(), clock: clock.clock.now())
            return builder.take()
        }
        _ = try former.commit(frames(), changes: []).get()
        former.abandon()
        let next = try store()
        try next.resume(former)
        #expect(next.clockWatch.stretches == former.clockWatch.stretches)
        _ = try next.commit(frames(), changes: []).get()
        #expect(next.clockWatch.stretches.map(\.lastSequence) == [2], "one stretch, not two")
        next.close()
    }

    @Test func aBatchThatIsOnItsWayAnswersForWhatItCarriesAlone() throws {
        let configuration = scratch.configuration { $0.clock = clock.clock }
        func store() throws -> BufferStore {
            try BufferStore(
                configuration, connection: try Schema.open(configuration, for: .start), shared: BufferShared())
        }
        try Data().write(to: URL(fileURLWithPath: scratch.path))
        let former = try store()
        try former.begin(Epoch(high: 1, low: 1))
        func correct() throws {
            clock.set(wall: Self.today - 7_000_000, synchronised: false)
            _ = try former.commit(drafts([0]), changes: []).get()
            var builder = FrameBuilder()
            builder.append(
                device: 0, deviceID: "d", qos: 1, retain: false, duplicate: false, topic: ByteBuffer(string: "t"),
                payload: ByteBuffer(string: "p"), properties: ByteBuffer(), clock: clock.clock.now())
            _ = try former.commit(builder.take(), changes: []).get()
            clock.set(wall: Self.today, synchronised: true)
            former.stamp()
            clock.pass(seconds: 61)
            former.stamp()
        }
        try correct()
        let cut = try #require(try former.nextCut(in: .live, maximumBytes: 1 << 20, maximumMessages: 100))
        #expect(try former.corrections(of: cut).map(\.sequences) == [2...2])
        try correct()
        former.abandon()
        let next = try store()
        try next.resume(former)
        #expect(try next.acknowledge(cut))
        let later = try #require(try next.nextCut(in: .live, maximumBytes: 1 << 20, maximumMessages: 100))
        #expect(try next.corrections(of: later).map(\.sequences) == [4...4])
        next.close()
    }

    @Test func aSalvagedFileStillHasThem() async throws {
        let buffer = try open(epoch: 1)
        try await commit(2, to: buffer)
        try await synchronise(buffer)
        clock.set(synchronised: false)
        try await commit(1, to: buffer)
        await buffer.close()
        var files = try BufferFiles(at: scratch.path)
        // The first page's count of pages: the file seems to end early, and is salvaged.
        for index in 28..<32 { files.database[index] = 0x7F }
        try files.put(to: scratch.path)
        let salvaged = try open(epoch: 2)
        #expect(salvaged.salvage != nil)
        #expect(try await waiting(salvaged).map(\.sequences) == [1...2])
        #expect(
            try await salvaged.perform { store throws(SQLiteError) in store.clockWatch.stretches.map(\.firstSequence) }
                == [3])
        await salvaged.close()
    }
}
