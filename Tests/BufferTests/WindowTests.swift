import Foundation
import LocalWork
import NIOCore
import SyncModel
import TestSupport
import Testing

@testable import Buffer

/// Messages that wait for the end of a window, and what becomes of them.
@Suite struct WindowTests {
    let scratch: Scratch
    let clock = SetClock()

    init() throws { scratch = try Scratch() }

    private static let first = Epoch(high: 0, low: 1)

    private func open(
        _ rules: [LocalRule] = [.aggregate()], epoch: UInt64 = 1,
        _ change: (inout Buffer.Configuration) -> Void = { _ in }
    ) throws -> Buffer {
        try scratch.open(epoch: epoch) {
            $0.clock = clock.clock
            $0.localRules = rules
            change(&$0)
        }
    }

    @Test func aWindowEndsAsAggregatesAndLedgerLinesThatNameThem() async throws {
        let buffer = try open()
        try await buffer.commit(["1", "2"], at: clock)
        try await buffer.commit(["6"], at: clock)
        try await buffer.commit(["10"], of: 1, at: clock)
        try await buffer.commit(["raw"], .direct, at: clock)
        #expect(buffer.fill().messages == 5 && buffer.fill().held.messages == 4)
        #expect(await buffer.waiting().live.messages == 1, "what is held does not wait for the uplink")
        var outcome = try await buffer.outcome()
        #expect(outcome.frames.map(\.firstSequence) == [5] && outcome.ledger.isEmpty)
        clock.pass(seconds: 60)
        try await buffer.work()
        let rest = try await buffer.outcome()
        outcome.frames += rest.frames
        outcome.ledger += rest.ledger
        #expect(outcome.payloads() == ["raw", #"{"mean":3,"count":3}"#])
        #expect(outcome.payloads(of: "device-1") == [#"{"mean":10,"count":1}"#])
        #expect(
            outcome.ledger == [
                LedgerLine(
                    epoch: Self.first, device: "device-0", sequences: 1...3, numbers: 1...3, reason: .aggregated,
                    aggregate: AggregateReference(epoch: Self.first, sequences: 6...6)),
                LedgerLine(
                    epoch: Self.first, device: "device-1", sequences: 4...4, numbers: 1...1, reason: .aggregated,
                    aggregate: AggregateReference(epoch: Self.first, sequences: 7...7)),
            ])
        try outcome.check(Self.first, count: 7)
        #expect(buffer.fill().messages == 0)
        try await buffer.workToTheEnd()
        await buffer.close()
    }

    @Test func aWindowOutlivesARestartAndAnAggregateMayBeOfALaterEpoch() async throws {
        let before = try open()
        try await before.commit(["1", "3"], at: clock)
        await before.close()
        let after = try open(epoch: 2)
        #expect(after.fill().held.messages == 2)
        try await after.commit(["8"], of: 0, at: clock)
        clock.pass(seconds: 60)
        try await after.work()
        let outcome = try await after.outcome()
        #expect(outcome.payloads() == [#"{"mean":4,"count":3}"#])
        let aggregate = AggregateReference(epoch: Epoch(high: 0, low: 2), sequences: 2...2)
        #expect(outcome.ledger.map(\.aggregate) == [aggregate, aggregate])
        #expect(outcome.ledger.map(\.epoch) == [Self.first, Epoch(high: 0, low: 2)])
        try outcome.check(Self.first, count: 2)
        try outcome.check(Epoch(high: 0, low: 2), count: 2)
        await after.close()
    }

    @Test func aWindowThatIsNotOverWaits() async throws {
        let buffer = try open([.aggregate(seconds: 60), .aggregate("slow", seconds: 3_600)])
        try await buffer.commit(["1"], at: clock)
        try await buffer.commit(["1"], of: 1, .held(rule: 1), at: clock)
        clock.pass(seconds: 59)
        _ = try await buffer.stats()
        try await Task.sleep(for: .milliseconds(50))
        #expect(buffer.fill().held.messages == 2)
        clock.pass(seconds: 1)
        try await buffer.work { $0.held.messages == 1 }
        #expect(buffer.localWork().map(\.held) == [0, 1])
        #expect(buffer.localWork().map(\.aggregates) == [1, 0])
        await buffer.close()
    }

    @Test func aLongWindowIsReadInSlices() async throws {
        let buffer = try open { $0.readSlice = 10_000 }
        for value in 0..<400 {
            try await buffer.commit((0..<10).map { "\(value * 10 + $0)" }, at: clock)
        }
        clock.pass(seconds: 60)
        try await buffer.work()
        let outcome = try await buffer.outcome()
        #expect(outcome.payloads() == [#"{"mean":1999.5,"count":4000}"#])
        #expect(outcome.ledger.map(\.numbers) == [1...4_000])
        try await buffer.workToTheEnd()
        await buffer.close()
    }

    @Test func whatADeadBandKeepsBackStandsUnderTheLastThatWasSent() async throws {
        let rules = [LocalRule.aggregate(deadBand: 0.5)]
        var buffer = try open(rules)
        var outcome = Outcome()
        for (window, value) in ["10", "10.4", "9.6", "11"].enumerated() {
            try await buffer.commit([value], at: clock)
            if window == 1 {
                await buffer.close()
                buffer = try open(rules, epoch: 2)
            }
            clock.pass(seconds: 60)
            try await buffer.work()
            let part = try await buffer.outcome()
            outcome.frames += part.frames
            outcome.ledger += part.ledger
        }
        #expect(outcome.payloads() == [#"{"mean":10,"count":1}"#, #"{"mean":11,"count":1}"#])
        let sent = AggregateReference(epoch: Self.first, sequences: 2...2)
        let last = AggregateReference(epoch: Epoch(high: 0, low: 2), sequences: 3...3)
        #expect(outcome.ledger.map(\.aggregate) == [sent, sent, sent, last])
        #expect(buffer.localWork().map(\.unsent) == [2])
        try outcome.check(Self.first, count: 3)
        try outcome.check(Epoch(high: 0, low: 2), count: 3)
        await buffer.close()
    }

    @Test func whatARuleHeldThatIsGoneGoesUpAsItIs() async throws {
        let before = try open()
        try await before.commit(["1", "2"], topic: "a/b", at: clock)
        await before.close()
        let after = try open([], epoch: 2)
        try await after.work()
        let outcome = try await after.outcome()
        #expect(outcome.payloads() == ["1", "2"])
        #expect(outcome.frames[0].records.map { String(buffer: $0.topic) } == ["a/b", "a/b"])
        #expect(
            outcome.ledger.map(\.aggregate) == [
                AggregateReference(epoch: Epoch(high: 0, low: 2), sequences: 1...2)
            ])
        try outcome.check(Self.first, count: 2)
        try await after.workToTheEnd()
        await after.close()
        let connection = try SQLiteConnection(path: scratch.path)
        #expect(try connection.integer("SELECT count(*) FROM held_mark") == 0)
    }

    @Test func discardedMessagesAreLedgerLinesFromTheStart() async throws {
        let buffer = try open([LocalRule(name: "noise", action: .discard)])
        for _ in 0..<5 {
            let receipt = try await buffer.commit(["x", "y"], .discarded(rule: 0), at: clock)
            #expect(receipt.messageCount == 2)
        }
        try await buffer.commit(["z"], .direct, at: clock)
        #expect(buffer.fill().messages == 1)
        #expect(buffer.localWork().map(\.consumed) == [10])
        await buffer.close()
        let again = try open([], epoch: 2)
        let outcome = try await again.outcome()
        #expect(
            outcome.ledger == [
                LedgerLine(
                    epoch: Self.first, device: "device-0", sequences: 1...10, numbers: 1...10, reason: .filtered)
            ])
        #expect(outcome.payloads() == ["z"])
        try outcome.check(Self.first, count: 11)
        await again.close()
    }

    /// However many devices take turns, the ledger has a line of each; and when it has no room, they go up.
    @Test func discardedMessagesDoNotFillTheLedger() async throws {
        let buffer = try open([LocalRule(name: "noise", action: .discard)])
        let devices = 6_000
        for _ in 0..<2 {
            for part in 0..<4 {
                var group = LocalGroup(at: clock)
                for device in 0..<(devices / 4) {
                    group.add(DeviceHandle(part * devices / 4 + device), "x", .discarded(rule: 0))
                }
                _ = try await buffer.commit(group.take())
            }
        }
        let lines = try await buffer.perform { store throws(SQLiteError) in
            let lines = try store.connection.integer("SELECT count(*) FROM ledger")
            // As if as many had been written as may.
            try store.connection.execute("UPDATE ledger SET id = 1000001 WHERE id = (SELECT max(id) FROM ledger)")
            return lines
        }
        #expect(lines == Int64(devices) && buffer.fill().messages == 0)
        try await buffer.commit(["kept"], .discarded(rule: 0), at: clock)
        #expect(buffer.fill().messages == 1 && buffer.localWork().map(\.consumed) == [2 * devices])
        #expect(try await buffer.outcome().payloads() == ["kept"])
        await buffer.close()
    }

    @Test func aFileWhoseNewestMessagesWereHeldOrDiscardedOpens() async throws {
        let rules = [LocalRule.aggregate(), LocalRule(name: "noise", action: .discard)]
        var epoch: UInt64 = 1
        var outcome = Outcome()
        for handling in [.direct, .held(rule: 0), .discarded(rule: 1), .direct, .held(rule: 0)] as [MessageHandling] {
            let buffer = try open(rules, epoch: epoch)
            try await buffer.commit(["1"], handling, at: clock)
            if epoch == 4 {
                let part = try await buffer.outcome()
                outcome.frames += part.frames
                outcome.ledger += part.ledger
            }
            await buffer.close()
            epoch += 1
        }
        let buffer = try open([], epoch: epoch)
        try await buffer.work()
        let part = try await buffer.outcome()
        outcome.frames += part.frames
        outcome.ledger += part.ledger
        for epoch in 1..<epoch { try outcome.check(Epoch(high: 0, low: epoch), count: 1) }
        await buffer.close()
    }

    // MARK: Limits

    @Test func whatIsHeldFillsTheBufferAndGoesLast() async throws {
        let buffer = try open {
            $0.dropsOldest = true
            $0.maximumBytes = 10_000
        }
        for _ in 0..<4 { try await buffer.commit([String(repeating: "1", count: 15)], at: clock) }
        let held = buffer.fill().held
        #expect(held.messages == 4)
        let large = String(repeating: "x", count: 1_000)
        for _ in 0..<40 { try await buffer.commit([large], .direct, at: clock) }
        // A header is not foreseen.
        #expect(buffer.fill().bytes <= 10_200 && buffer.fill().held == held, "others go before it")
        // Nothing else is left to go but the newest.
        let huge = String(repeating: "x", count: 9_800)
        try await buffer.commit([huge], .direct, at: clock)
        #expect(buffer.fill().held.messages < 4)
        clock.pass(seconds: 60)
        try await buffer.work()
        let outcome = try await buffer.outcome()
        let receipt = try await buffer.commit(["1"], .direct, at: clock)
        try outcome.check(Self.first, count: Int(receipt.lastSequence) - 1)
        #expect(outcome.ledger.contains { $0.reason == .bufferFull })
        outcome.checkAggregates()
        await buffer.close()
    }

    @Test func aBufferFullOfHeldMessagesIsFull() async throws {
        let buffer = try open { $0.maximumBytes = 3_000 }
        for _ in 0..<40 { try await buffer.commit([String(repeating: "1", count: 15)], at: clock) }
        #expect(buffer.fill().isFull)
        let stats = try await buffer.stats()
        #expect(stats.heldMessages == 40 && stats.heldBytes == stats.bytes && stats.messages == 40)
        clock.pass(seconds: 60)
        try await buffer.work()
        #expect(!buffer.fill().isFull)
        await buffer.close()
    }

    @Test func whatIsHeldGrowsOld() async throws {
        let buffer = try open([.aggregate(seconds: 86_400)]) { $0.maximumAge = 10_000_000 }
        try await buffer.commit(["1", "2"], at: clock)
        // A mark is written a second after the first message at the earliest.
        for _ in 0..<100 where buffer.fill().messages > 0 {
            clock.pass(seconds: 6)
            _ = try await buffer.stats()
            try await Task.sleep(for: .milliseconds(100))
        }
        let outcome = try await buffer.outcome()
        #expect(outcome.ledger.map(\.reason) == [.expiredByAge] && outcome.ledger.map(\.numbers) == [1...2])
        try outcome.check(Self.first, count: 2)
        await buffer.close()
    }

    @Test func theAccountingKnowsWhatIsHeld() async throws {
        let buffer = try open()
        try await buffer.commit(["1", "2"], at: clock)
        try await buffer.commit(["x"], .direct, at: clock)
        try await buffer.commit(["3"], at: clock)
        _ = try await buffer.outcome()
        let accounting = try await buffer.accounting()
        #expect(accounting.epochs.map(\.buffered) == [[[1, 2], [4, 4]]])
        #expect(accounting.bufferedMessages == 3)
        await buffer.close()
        #expect(try Buffer.offlineAccounting(path: scratch.path).epochs.map(\.buffered) == [[[1, 2], [4, 4]]])
    }

    // MARK: A failing disk

    /// A group whose commit failed is stored, as the file says; until it is given again its sequences are taken.
    @Test func aWindowWaitsForAGroupInDoubt() throws {
        let configuration = scratch.configuration {
            $0.clock = clock.clock
            $0.localRules = [.aggregate()]
        }
        try FileSystem.create(configuration.path)
        let connection = try Schema.open(configuration, for: .start)
        let former = try BufferStore(configuration, connection: connection, shared: BufferShared())
        try former.begin(Self.first)
        var group = LocalGroup(at: clock)
        group.add(0, "1")
        _ = try former.commit(group.take(), changes: []).get()
        var doubted = LocalGroup(at: clock)
        doubted.add(0, "x", .direct)
        let drafts = doubted.take()
        _ = try former.commit(drafts, changes: []).get()
        // As it was before the commit whose end is not known.
        former.lastSequence -= 1
        former.takeBackNumbers(of: drafts[0])
        former.doubtful = 1
        former.abandon()
        let fresh = try Writer.open(insteadOf: former)
        clock.pass(seconds: 60)
        fresh.workLocally()
        #expect(fresh.lastSequence == 1 && fresh.timeToLocalWork == nil)
        #expect(try fresh.commit(drafts, changes: []).get().lastSequence == 2)
        fresh.workLocally()
        #expect(fresh.lastSequence == 3 && fresh.drops.held.queues.isEmpty)
        fresh.close()
    }

    /// The transaction that closed a window failed without telling whether it is stored; the file, opened anew, tells.
    @Test(arguments: [true, false]) func aWindowWhoseEndIsInDoubtIsClosedOnce(isStored: Bool) throws {
        let configuration = scratch.configuration {
            $0.clock = clock.clock
            $0.localRules = [.aggregate()]
        }
        try FileSystem.create(configuration.path)
        let connection = try Schema.open(configuration, for: .start)
        let former = try BufferStore(configuration, connection: connection, shared: BufferShared())
        try former.begin(Self.first)
        var group = LocalGroup(at: clock)
        group.add(0, "1")
        group.add(0, "3")
        _ = try former.commit(group.take(), changes: []).get()
        clock.pass(seconds: 60)
        if isStored {
            former.workLocally()
            #expect(former.lastSequence == 3 && former.drops.held.queues.isEmpty)
        }
        var aggregate = LocalGroup(at: clock)
        aggregate.add(0, "its bytes do not matter", .direct)
        var draft = aggregate.take()[0]
        draft.devices[0].handle = FrameDraft.Device.noHandle
        former.local.doubt = [draft]
        if isStored {
            // As it was before the commit whose end is not known.
            former.lastSequence -= 1
            former.takeBackNumbers(of: draft)
        }
        former.abandon()
        let fresh = try Writer.open(insteadOf: former)
        #expect(fresh.lastSequence == (isStored ? 3 : 2))
        while let time = fresh.timeToLocalWork, time <= 0 { fresh.workLocally() }
        #expect(fresh.lastSequence == 3 && fresh.drops.held.queues.isEmpty)
        var later = LocalGroup(at: clock)
        later.add(0, "up", .direct)
        let receipt = try fresh.commit(later.take(), changes: []).get()
        #expect(receipt.firstSequence == 4)
        let cut = try #require(try fresh.nextCut(in: .live, maximumBytes: 1 << 20, maximumMessages: 100))
        let frames = try fresh.frames(from: cut.firstFrame, through: cut.lastFrame, maximumBytes: 1 << 20).frames
        var numbers: [ClosedRange<UInt64>] = []
        for frame in frames {
            var bytes = frame.header
            bytes.writeImmutableBuffer(frame.records)
            numbers += try Frame.decode(bytes).deviceRuns.map(\.numbers)
        }
        #expect(numbers == [3...3, 4...4])
        #expect(try fresh.accountsAndLedger(of: cut).ledger?.map(\.numbers) == [1...2])
        fresh.close()
    }

    /// Something that is no failure of the disk; it is said once, tried ever more seldom, and nothing is lost by it.
    @Test func aWindowThatCannotBeEndedIsTriedLessAndLessOften() throws {
        let configuration = scratch.configuration {
            $0.clock = clock.clock
            $0.localRules = [.aggregate()]
        }
        try FileSystem.create(configuration.path)
        let connection = try Schema.open(configuration, for: .start)
        let store = try BufferStore(configuration, connection: connection, shared: BufferShared())
        try store.begin(Self.first)
        let lines = LogLines()
        var writer = Writer(store: store, logger: lines.logger)
        var group = LocalGroup(at: clock)
        group.add(0, "1")
        _ = try store.commit(group.take(), changes: []).get()
        try connection.execute(
            "CREATE TRIGGER no BEFORE UPDATE ON held_mark BEGIN SELECT RAISE(ABORT, 'not now'); END")
        clock.pass(seconds: 60)
        var attempts = 0
        for _ in 0..<300 {
            let failures = store.local.failures
            _ = writer.take(.idle)
            if store.local.failures > failures { attempts += 1 }
            clock.pass(seconds: 1)
        }
        #expect((8...12).contains(attempts), "after 1, 2, 4, … 60 s")
        #expect(lines.all.count { $0.contains("Local work cannot go on") } == 1)
        #expect(store.lastSequence == 1 && store.failure == nil)
        try connection.execute("DROP TRIGGER no")
        clock.pass(seconds: 60)
        for _ in 0..<3 { _ = writer.take(.idle) }
        #expect(store.lastSequence == 2 && store.drops.held.queues.isEmpty)
        #expect(lines.all.last?.contains("goes on again") == true)
        store.close()
    }

    // MARK: Numbers

    @Test func numbersBelongToTheDeviceWhateverItsHandle() {
        var numbers = DeviceNumbers()
        func device(_ id: String, _ handle: DeviceHandle, _ count: UInt64 = 1) -> FrameDraft.Device {
            .init(handle: handle, id: id, count: count)
        }
        #expect(numbers.give(device("a", 0, 2)) == 1)
        #expect(numbers.give(device("a", FrameDraft.Device.noHandle)) == 3)
        #expect(numbers.give(device("b", FrameDraft.Device.noHandle, 5)) == 1)
        #expect(numbers.give(device("b", 3)) == 6)
        numbers.takeBack(device("b", 3))
        #expect(numbers.give(device("b", 3)) == 6)
        // The handle passes to another, and the first device comes back with one of its own.
        #expect(numbers.give(device("c", 0)) == 1)
        #expect(numbers.give(device("a", 1)) == 4)
        #expect(numbers.give(device("a", 7)) == 5)
        #expect(numbers.give(device("d", 1)) == 1)
    }
}
