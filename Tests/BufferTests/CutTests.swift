import NIOCore
import SyncModel
import Testing

@testable import Buffer

@Suite struct CutTests {
    let scratch: Scratch

    init() throws { scratch = try Scratch() }

    @Test func sequencesAndCutsSurviveARestart() async throws {
        let first = try scratch.open(epoch: 1)
        let receipt = try await first.commit(drafts([0, 1, 0]))
        #expect(receipt.firstSequence == 1 && receipt.lastSequence == 3 && receipt.messageCount == 3)
        #expect(try await first.commit(drafts([1])).firstSequence == 4)
        let cut = try #require(try await first.nextCut(maximumBytes: 1 << 20, maximumMessages: 3))
        #expect(cut.messageCount == 3 && cut.firstFrame == 1 && cut.lastFrame == 1)
        await first.close()

        let second = try scratch.open(epoch: 2)
        #expect(second.fill().messages == 4)
        #expect(try await second.nextCut(maximumBytes: 1, maximumMessages: 1) == cut)
        let (frames, accounts, ledger) = try await second.contents(of: cut)
        #expect(frames.map(\.count) == [3])
        #expect(accounts == [EpochAccount(epoch: Epoch(high: 0, low: 1), lastSequence: 4, isClosed: true)])
        #expect(ledger.isEmpty)
        try await second.acknowledge(cut)
        let next = try #require(try await second.nextCut(maximumBytes: 1 << 20, maximumMessages: 100))
        #expect(next.firstFrame == 2 && next.messageCount == 1)
        try await second.acknowledge(next)
        #expect(try await second.nextCut(maximumBytes: 1 << 20, maximumMessages: 100) == nil)
        await second.close()
    }

    @Test func aCutKeepsToItsLimitsAndNoFrameIsInTwo() async throws {
        let buffer = try scratch.open { $0.readSlice = 500 }
        for size in [100, 100, 5_000, 100, 100, 100] { try await buffer.commit(drafts([0], payload: size)) }
        var runs: [ClosedRange<Int64>] = []
        while let cut = try await buffer.nextCut(maximumBytes: 700, maximumMessages: 2) {
            #expect(try await buffer.nextCut(maximumBytes: 9_999, maximumMessages: 9) == cut, "one waits at a time")
            let frames = try await buffer.contents(of: cut).frames
            #expect(frames.map(\.id) == Array(cut.firstFrame...cut.lastFrame))
            #expect(frames.reduce(0) { $0 + $1.header.readableBytes + $1.records.readableBytes } == cut.byteCount)
            runs.append(cut.firstFrame...cut.lastFrame)
            try await buffer.acknowledge(cut)
        }
        #expect(runs == [1...2, 3...3, 4...5, 6...6])
        await buffer.close()
    }

    @Test func answersAreIdempotentAndUnknownCutsRefused() async throws {
        let buffer = try scratch.open()
        try await buffer.commit(drafts([0]))
        let cut = try #require(try await buffer.nextCut(maximumBytes: 100, maximumMessages: 1))
        let invented = Cut(id: 7, firstFrame: 1, lastFrame: 1, messageCount: 1, byteCount: 1)
        await #expect(throws: BufferError.unknownCut(7)) { try await buffer.acknowledge(invented) }
        await #expect(throws: BufferError.unknownCut(7)) { _ = try await buffer.contents(of: invented) }
        try await buffer.acknowledge(cut)
        try await buffer.acknowledge(cut)
        await #expect(throws: BufferError.unknownCut(1)) { _ = try await buffer.contents(of: cut) }
        await buffer.close()
    }

    /// Until it is answered a frame stays, over any number of restarts; once answered it never comes back.
    @Test func onlyAnAnswerDeletes() async throws {
        for epoch in UInt64(1)...3 {
            let buffer = try scratch.open(epoch: epoch)
            try await buffer.commit(drafts([0]))
            #expect(try await buffer.nextCut(maximumBytes: 9_999, maximumMessages: 1)?.id == 1)
            await buffer.close()
        }
        let buffer = try scratch.open(epoch: 4) { $0.deletionSlice = (bytes: 1, frames: 4) }
        let frames = try await buffer.everything()
        #expect(frames.map(\.epoch.low) == [1, 2, 3])
        await buffer.close()
        let again = try scratch.open(epoch: 5)
        #expect(try await again.everything().isEmpty)
        await again.close()
    }

    /// The daemon ended after its last batch was answered: that its epoch is closed still has to travel.
    @Test func aClosedEpochIsReportedOnceWithoutMessages() async throws {
        let first = try scratch.open(epoch: 1)
        try await first.commit(drafts([0, 0]))
        _ = try await first.everything()
        await first.close()

        let second = try scratch.open(epoch: 2)
        let cut = try #require(try await second.nextCut(maximumBytes: 1, maximumMessages: 1))
        #expect(cut.messageCount == 0 && cut.byteCount == 0 && cut.lastFrame < cut.firstFrame)
        let (frames, accounts, _) = try await second.contents(of: cut)
        #expect(frames.isEmpty)
        #expect(accounts == [EpochAccount(epoch: Epoch(high: 0, low: 1), lastSequence: 2, isClosed: true)])
        try await second.acknowledge(cut)
        #expect(try await second.nextCut(maximumBytes: 1, maximumMessages: 1) == nil)
        try await second.commit(drafts([0]))
        let next = try #require(try await second.nextCut(maximumBytes: 1, maximumMessages: 1))
        #expect(
            try await second.contents(of: next).accounts == [
                EpochAccount(epoch: Epoch(high: 0, low: 2), lastSequence: 1, isClosed: false)
            ])
        await second.close()
    }

    @Test func ledgerLinesTravelWithACut() async throws {
        let first = try scratch.open(epoch: 1)
        try await first.commit(drafts([0, 0, 0]))
        _ = try await first.everything()
        await first.close()
        do {
            let connection = try SQLiteConnection(path: scratch.path)
            try connection.execute("INSERT INTO ledger VALUES (NULL, 1, 'device-0', 2, 3, 2, 3, 1, NULL, NULL, NULL)")
        }
        let second = try scratch.open(epoch: 2)
        let cut = try #require(try await second.nextCut(maximumBytes: 1, maximumMessages: 1))
        let line = LedgerLine(
            epoch: Epoch(high: 0, low: 1), device: "device-0", sequences: 2...3, numbers: 2...3, reason: .bufferFull)
        #expect(try await second.contents(of: cut).ledger == [line])
        try await second.acknowledge(cut)
        #expect(try await second.nextCut(maximumBytes: 1, maximumMessages: 1) == nil)
        await second.close()
    }

    @Test func theAccountingListsWhatIsLeftOfEachEpoch() async throws {
        let first = try scratch.open(epoch: 1)
        for _ in 0..<3 { try await first.commit(drafts([0, 1])) }
        await first.close()
        let second = try scratch.open(epoch: 2)
        try await second.commit(drafts([0]))
        let cut = try #require(try await second.nextCut(maximumBytes: 9_999, maximumMessages: 2))
        try await second.acknowledge(cut)
        let accounting = try await second.accounting()
        let epochs = (1...2).map { String(repeating: "0", count: 31) + "\($0)" }
        #expect(accounting.gateway == "plant-7" && accounting.bufferedMessages == 5)
        #expect(
            accounting.epochs == [
                .init(epoch: epochs[0], lastSequence: 6, buffered: [[3, 6]]),
                .init(epoch: epochs[1], lastSequence: 1, buffered: [[1, 1]]),
            ])
        await second.close()
    }

    @Test func epochsAreKeptForTheAuditAndBounded() async throws {
        for epoch in UInt64(1)...6 {
            let buffer = try scratch.open(epoch: epoch) { $0.keptEpochs = 2 }
            // Every other one commits nothing and leaves no row.
            if epoch % 2 == 1 { try await buffer.commit(drafts([0])) }
            _ = try await buffer.everything()
            await buffer.close()
        }
        let buffer = try scratch.open(epoch: 7) { $0.keptEpochs = 2 }
        let low = try await buffer.accounting().epochs.map { $0.epoch.suffix(1) }
        #expect(low.last == "5" && low.count <= 3)
        await buffer.close()
    }
}
