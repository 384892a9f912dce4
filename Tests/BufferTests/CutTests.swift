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
}
