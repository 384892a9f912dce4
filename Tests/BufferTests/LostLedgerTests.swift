import Foundation
import SyncModel
import Testing

@testable import Buffer

/// Answers pass over what was dropped. Where the line that said so is lost before the cloud has it, a row or a line of
/// the salvage stands for the message; that the cloud may have it is no harm.
@Suite struct LostLedgerTests {
    let scratch: Scratch

    init() throws { scratch = try Scratch() }

    private func open(_ epoch: UInt64) throws -> Buffer {
        try scratch.open(epoch: epoch) {
            // The log keeps all that was written.
            $0.checkpointPages = 1 << 20
            $0.idleCheckpointPages = 1 << 20
        }
    }

    /// Commits frames of a message each, and drops every second of them while a batch is on its way that had them. The
    /// answer passes over those; the lane of the batch has no lines.
    private func dropHalf(of frames: Int, in buffer: Buffer) async throws {
        let receipt = try await buffer.commit((0..<frames).flatMap { _ in drafts([0]) })
        #expect(receipt.messageCount == frames)
        #expect(try await buffer.startLive())
        let cut = try #require(try await buffer.nextCut(in: .backlog, maximumBytes: 1 << 20, maximumMessages: 1_000))
        #expect(cut.messageCount == frames)
        _ = try await buffer.contents(of: cut)
        try await buffer.drop(Array(stride(from: cut.firstFrame + 1, through: cut.lastFrame, by: 2)))
        try await buffer.acknowledge(cut)
    }

    private func salvage(_ files: BufferFiles, isNoticed: Bool = true) async throws -> Drained {
        try files.put(to: scratch.path)
        if !isNoticed { try SalvageFiles(scratch.configuration()).write(.suspect("a test")) }
        let buffer = try scratch.open(epoch: 9)
        let report = try #require(buffer.salvage)
        #expect(!report.isLedgerWhole && report.description.contains("may be in the cloud"))
        var drained = Drained()
        try await drained.drain(buffer)
        await buffer.close()
        #expect(Set(drained.messages).count == drained.messages.count)
        return drained
    }

    enum Loss: CaseIterable { case ledger, sequence, schema }

    /// The table of tables is on the first page.
    @Test(arguments: Loss.allCases) func aLostPageDoesNotMakeAnsweredWhatWasDropped(_ loss: Loss) async throws {
        let buffer = try open(1)
        try await dropHalf(of: 4, in: buffer)
        let root =
            switch loss {
            case .ledger: try await buffer.root(of: "ledger")
            case .sequence: try await buffer.root(of: "sqlite_sequence")
            case .schema: Int64(1)
            }
        await buffer.close()
        var files = try BufferFiles(at: scratch.path)
        #expect(files.log.isEmpty)
        files.lose(page: root)
        let drained = try await salvage(files, isNoticed: loss == .schema)
        #expect(drained.ended(1, 1...4) == [1, 2, 3, 4])
    }

    /// The log has pages on which they still were.
    @Test func whatWasDroppedIsSentAgainWhereItsLineIsLost() async throws {
        let buffer = try open(1)
        try await dropHalf(of: 4, in: buffer)
        let roots = try await [buffer.root(of: "ledger"), buffer.root(of: "sqlite_sequence")]
        var files = try BufferFiles(at: scratch.path)
        await buffer.close()
        for root in roots { files.lose(page: root) }
        let drained = try await salvage(files)
        #expect(Set([2, 4]).isSubset(of: drained.messages.map(\.sequence)))
        #expect(drained.ended(1, 1...4) == [1, 2, 3, 4])
        #expect(drained.messages.allSatisfy { $0.device == "device-0" && $0.number == $0.sequence })
    }

    /// Lines wait for their lane while the answers of the other go on, so they may be of any epoch.
    @Test func linesOfEpochsThatAreAllAnsweredMayBeLost() async throws {
        for (epoch, frames) in [(UInt64(1), 20), (2, 600)] {
            let buffer = try open(epoch)
            try await dropHalf(of: frames, in: buffer)
            await buffer.close()
        }
        for epoch in UInt64(3)...4 {
            let buffer = try open(epoch)
            try await buffer.commit(drafts([0]))
            await buffer.close()
        }
        let last = try open(5)
        let root = try await last.root(of: "ledger")
        #expect(try await last.accounting().epochs.prefix(2).allSatisfy { $0.buffered.isEmpty })
        await last.close()
        var files = try BufferFiles(at: scratch.path)
        let begin = Int(root - 1) * 4_096
        let interior = try #require(TreePage(Array(files.database[begin..<begin + 4_096]), isFirst: false))
        // The first lines, and with them all of the first epoch.
        let leaf = try #require(interior.kind == .tableInterior ? interior.cell(0)?.child : nil)
        files.lose(page: Int64(leaf))
        let drained = try await salvage(files, isNoticed: false)
        #expect(drained.ledger.contains { $0.epoch.low == 2 && $0.reason == .bufferFull })
        #expect(!drained.ledger.contains { $0.epoch.low == 1 && $0.reason == .bufferFull })
        #expect(drained.ended(1, 1...20).count == 20)
        #expect(drained.ended(2, 1...600).count == 600)
        #expect(drained.messages.filter { $0.epoch.low >= 3 }.count == 2)
    }
}
