import Flow
import Foundation
import SyncModel
import Testing

@testable import Buffer

/// Wrong bits in the rows on which the accounting rests.
@Suite struct RowChecksumTests {
    let scratch: Scratch

    init() throws { scratch = try Scratch() }

    /// Messages that wait, some that are answered, and a line of the ledger.
    private func make(_ tables: [String]) async throws -> (files: BufferFiles, roots: [Int64]) {
        let buffer = try scratch.open()
        let receipt = try await buffer.commit((0..<4).flatMap { _ in drafts([0, 1]) })
        let cut = try #require(try await buffer.nextCut(maximumBytes: 1, maximumMessages: 2))
        try await buffer.acknowledge(cut)
        try await buffer.drop([cut.lastFrame + 1])
        #expect(receipt.messageCount == 8)
        var roots: [Int64] = []
        for table in tables { roots.append(try await buffer.root(of: table)) }
        await buffer.close()
        return (try BufferFiles(at: scratch.path), roots)
    }

    @Test func aWrongBitInARowOfTheAccountingIsFoundAtTheStart() async throws {
        let tables = ["progress", "epoch", "ledger"]
        let (files, roots) = try await make(tables)
        var random = SplitMix64(seed: 1)
        for (table, root) in zip(tables, roots) {
            for _ in 0..<12 {
                var damaged = files
                let page = Int(root - 1) * 4_096
                // The cells lie at the page's end (SQLite file format, section 1.6), rows of one here.
                let start = page + Int(damaged.database[page + 5]) << 8 + Int(damaged.database[page + 6])
                let place = Int.random(in: start..<(page + 4_096), using: &random)
                damaged.database[place] ^= 1 << UInt8.random(in: 0..<8, using: &random)
                try damaged.put(to: scratch.path)
                let buffer = try scratch.open(epoch: 2)
                #expect(buffer.salvage != nil, "\(table), byte \(place - page)")
                var drained = Drained()
                try await drained.drain(buffer)
                let known = Set(drained.messages.filter { $0.epoch == Epoch(high: 0, low: 1) }.map(\.sequence))
                #expect(known.isSuperset(of: 5...8), "\(table), byte \(place - page)")
                await buffer.close()
            }
        }
    }

    @Test func eachTableHasThem() async throws {
        let buffer = try scratch.open()
        let tables = try await buffer.perform { store throws(SQLiteError) in
            var found: [String: Bool] = [:]
            for table in RowChecksum.tables {
                let sql = try store.connection.text("SELECT sql FROM sqlite_schema WHERE name = '\(table)'")
                found[table] = sql.map { RowChecksum.isPart(of: $0) }
            }
            return found
        }
        #expect(tables.count == RowChecksum.tables.count && tables.values.allSatisfy { $0 })
        #expect(
            try await buffer.perform { store throws(SQLiteError) in
                try RowChecksum.damagedTable(in: store.connection, hasFrames: true)
            } == nil)
        await buffer.close()
    }
}
