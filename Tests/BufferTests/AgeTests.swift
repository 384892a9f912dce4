import Foundation
import SyncModel
import Testing

@testable import Buffer
@testable import Operations

/// What is too old goes, by the gateway's own time alone.
@Suite struct AgeTests {
    let scratch: Scratch

    init() throws { scratch = try Scratch() }

    private func open(epoch: UInt64 = 1, maximumAge: Int64) throws -> Buffer {
        try scratch.open(epoch: epoch) { $0.maximumAge = maximumAge }
    }

    @Test func messagesOfTheirAgeGoIntoTheLedger() async throws {
        let buffer = try open(maximumAge: 1_500_000)
        for _ in 1...3 { try await buffer.commit(drafts([0, 1])) }
        let cut = try #require(try await buffer.nextCut(maximumBytes: 1, maximumMessages: 1))
        try await buffer.acknowledge(cut)
        try await eventuallyEmpty(buffer)
        let outcome = try await buffer.outcome()
        #expect(outcome.frames.isEmpty)
        #expect(outcome.ledger.map(\.reason) == [.expiredByAge, .expiredByAge])
        #expect(outcome.ledger.map(\.numbers) == [2...3, 2...3])
        #expect(buffer.concerns().expired == 4 && buffer.concerns().droppedForRoom == 0)
        try await buffer.commit(drafts([0]))
        #expect(buffer.fill().messages == 1, "what comes after is of no age")
        await buffer.close()
    }

    @Test func aRestartWithNothingLeftGoesOn() async throws {
        let buffer = try open(maximumAge: 1_000_000)
        try await buffer.commit(drafts([0]))
        try await eventuallyEmpty(buffer)
        await buffer.close()
        let again = try open(epoch: 2, maximumAge: 1_000_000)
        #expect(again.fill().messages == 0)
        try await again.commit(drafts([0, 1]))
        let outcome = try await again.outcome()
        #expect(outcome.frames.map(\.records.count) == [2] && outcome.ledger.map(\.reason) == [.expiredByAge])
        await again.close()
    }

    /// The newest is gone and an older one is there: the end of the run of all frames is known all the same.
    @Test func aRestartAfterTheNewestHasExpiredIsNoDamage() async throws {
        let buffer = try open(maximumAge: 1_000_000)
        for _ in 1...4 { try await buffer.commit(drafts([0])) }
        let cut = try #require(try await buffer.nextCut(maximumBytes: 1 << 20, maximumMessages: 2))
        for _ in 0..<100 where buffer.fill().messages > 2 { try await Task.sleep(for: .milliseconds(100)) }
        await buffer.close()
        let again = try open(epoch: 2, maximumAge: 100_000_000)
        #expect(again.salvage == nil && again.fill().messages == 2)
        try await again.commit(drafts([0]))
        try await again.acknowledge(cut)
        let outcome = try await again.outcome()
        #expect(outcome.frames.map(\.firstSequence) == [1] && outcome.ledger.map(\.numbers) == [3...4])
        #expect(again.fill().messages == 0 && again.fill().bytes == 0)
        await again.close()
    }

    /// What a cut holds may be stored by the cloud already; an outage must not keep the rest from growing old.
    @Test func ageSparesTheOpenCutAlone() async throws {
        let buffer = try open(maximumAge: 1_000_000)
        for _ in 1...4 { try await buffer.commit(drafts([0])) }
        let cut = try #require(try await buffer.nextCut(maximumBytes: 1 << 20, maximumMessages: 2))
        var news = buffer.dataAvailable().makeAsyncIterator()
        await news.next()
        for _ in 0..<100 where buffer.fill().messages > 2 { try await Task.sleep(for: .milliseconds(100)) }
        #expect(buffer.fill().messages == 2)
        #expect(try await buffer.contents(of: cut).frames.map(\.id) == [1, 2])
        await news.next()  // The uplink is woken: without it the lines would wait for the next message.
        try await buffer.acknowledge(cut)
        let outcome = try await buffer.outcome()
        #expect(outcome.frames.isEmpty && outcome.ledger.map(\.numbers) == [3...4])
        await buffer.close()
    }

    @Test func withoutALimitNothingGrowsOld() async throws {
        let buffer = try scratch.open()
        try await buffer.commit(drafts([0]))
        await buffer.close()
        let connection = try SQLiteConnection(path: scratch.path)
        #expect(try connection.integer("SELECT count(*) FROM age_mark") == 0)
    }

    private func eventuallyEmpty(_ buffer: Buffer) async throws {
        for _ in 0..<100 where buffer.fill().messages > 0 { try await Task.sleep(for: .milliseconds(100)) }
        #expect(buffer.fill().messages == 0)
    }
}
