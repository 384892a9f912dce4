import Foundation
import LocalWork
import NIOCore
import SyncModel
import Testing

@testable import Buffer

/// What waits for the end of a window is salvaged like all else.
@Suite struct LocalSalvageTests {
    let scratch: Scratch
    let clock = SetClock()

    init() throws { scratch = try Scratch() }

    private static let first = Epoch(high: 0, low: 1)

    private func open(epoch: UInt64, rules: [LocalRule] = [.aggregate()]) throws -> Buffer {
        try scratch.open(epoch: epoch) {
            $0.clock = clock.clock
            $0.localRules = rules
        }
    }

    /// 40 held messages of two devices, and others between them that are answered, so that the answers have passed over
    /// what is held; then three more.
    private func make() async throws -> BufferFiles {
        let buffer = try open(epoch: 1)
        for value in 0..<40 {
            try await buffer.commit(["\(value)"], of: DeviceHandle(value % 2), at: clock)
            try await buffer.commit(["up"], of: 2, .direct, at: clock)
        }
        let sent = try await buffer.outcome()
        #expect(sent.frames.count == 40 && sent.ledger.isEmpty)
        for _ in 0..<3 { try await buffer.commit(["late"], of: 2, .direct, at: clock) }
        await buffer.close()
        return try BufferFiles(at: scratch.path)
    }

    private func suspect() throws {
        try SalvageFiles(scratch.configuration()).write(.suspect("a test says so"))
    }

    @Test func heldMessagesGoUpAsTheyAre() async throws {
        try (try await make()).put(to: scratch.path)
        try suspect()
        let buffer = try open(epoch: 2)
        #expect(buffer.salvage?.missing == 0 && buffer.salvage?.messages == 43)
        #expect(buffer.fill().held.messages == 0)
        let outcome = try await buffer.outcome()
        #expect(outcome.ledger.isEmpty)
        #expect(outcome.payloads(of: "device-0") == (0..<20).map { "\($0 * 2)" })
        #expect(outcome.payloads(of: "device-2") == ["late", "late", "late"])
        let numbers = outcome.frames.flatMap(\.deviceRuns).filter { $0.device == "device-1" }.map(\.numbers.lowerBound)
        #expect(numbers == Array(1...20))
        await buffer.close()
    }

    @Test func whatIsLostOfThemIsInTheLedger() async throws {
        var files = try await make()
        let payload: [UInt8] = [0x2A, 0x01, UInt8(ascii: "9")]
        // The page that has the held message with the payload 9: field 5 of its record.
        let page = try #require(
            (1..<files.pages).first { page in
                guard files.kind(ofPage: page) == .tableLeaf else { return false }
                let bytes = files.database[(page * 4_096)..<(page * 4_096 + 4_096)]
                return bytes.indices.dropLast(3).contains { Array(bytes[$0..<($0 + 3)]) == payload }
            })
        files.overwritePage(page, with: 0)
        try files.put(to: scratch.path)
        try suspect()
        let buffer = try open(epoch: 2)
        let missing = try #require(buffer.salvage?.missing)
        #expect(missing > 0 && missing < 40)
        let outcome = try await buffer.outcome()
        let found = outcome.frames.filter { $0.epoch == Self.first }.reduce(0) { $0 + $1.records.count }
        #expect(outcome.ledger.reduce(0) { $0 + UInt64($1.numbers.count) } == missing)
        #expect(UInt64(found) + missing == 43, "what was answered is neither sent nor called lost")
        #expect(outcome.ledger.allSatisfy { $0.reason == .damaged })
        await buffer.close()
    }

    /// The marks that say what is held are gone, and the answers have passed over it: what they say of others is not trusted
    /// either. What is found of those comes again, and the rest of the 83 is named.
    @Test func withoutTheirMarksTheyAreFoundAllTheSame() async throws {
        var files = try await make()
        let page = try #require(
            (1..<files.pages).last { page in
                guard files.kind(ofPage: page) == .indexLeaf else { return false }
                let bytes = Array(files.database[(page * 4_096)..<(page * 4_096 + 4_096)])
                return TreePage(bytes, isFirst: false)?.cellCount == 40
            }, "a table without rowids of 40 rows")
        files.overwritePage(page, with: 0)
        try files.put(to: scratch.path)
        try suspect()
        let buffer = try open(epoch: 2)
        let salvage = try #require(buffer.salvage)
        #expect(salvage.messages >= 43 && UInt64(salvage.messages) + salvage.missing == 83)
        let outcome = try await buffer.outcome()
        #expect(outcome.payloads(of: "device-0").count == 20 && outcome.payloads(of: "device-1").count == 20)
        await buffer.close()
    }

    @Test func aggregatedMessagesAreNotCalledLostAndTheirLinesStay() async throws {
        let before = try open(epoch: 1)
        for value in 0..<10 {
            try await before.commit(["\(value)"], of: DeviceHandle(value % 2), at: clock)
            try await before.commit(["x"], of: 2, .direct, at: clock)
        }
        clock.pass(seconds: 60)
        try await before.work()
        try await before.workToTheEnd()
        await before.close()
        try suspect()
        let after = try open(epoch: 2)
        #expect(after.salvage?.missing == 0)
        let outcome = try await after.outcome()
        try outcome.check(Self.first, count: 22)
        outcome.checkAggregates()
        #expect(outcome.ledger.map(\.reason) == [.aggregated, .aggregated])
        await after.close()
    }

    /// The marks tell that they are done with, and nothing else does any more.
    @Test func aggregatedMessagesWhoseLinesAreLostComeBackFromOldPages() async throws {
        let before = try scratch.open(epoch: 1) {
            $0.clock = clock.clock
            $0.localRules = [.aggregate()]
            $0.checkpointPages = 1 << 20
            $0.idleCheckpointPages = 1 << 20
        }
        for value in 0..<10 {
            try await before.commit(["\(value)"], of: DeviceHandle(value % 2), at: clock)
            try await before.commit(["up"], of: 2, .direct, at: clock)
        }
        #expect(try await before.outcome().frames.count == 10)
        clock.pass(seconds: 60)
        try await before.work()
        try await before.workToTheEnd()
        let roots = try await [before.root(of: "ledger"), before.root(of: "sqlite_sequence")]
        var files = try BufferFiles(at: scratch.path)
        await before.close()
        for root in roots { files.lose(page: root) }
        try files.put(to: scratch.path)
        let after = try open(epoch: 2)
        #expect(after.salvage?.isLedgerWhole == false)
        let outcome = try await after.outcome()
        #expect(Set((0..<5).map { "\($0 * 2)" }).isSubset(of: outcome.payloads(of: "device-0")))
        #expect(Set((0..<5).map { "\($0 * 2 + 1)" }).isSubset(of: outcome.payloads(of: "device-1")))
        await after.close()
    }
}
