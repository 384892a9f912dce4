import NIOConcurrencyHelpers
import NIOCore
import NIOPosix
import Operations
import SyncModel
import Testing

@testable import Buffer

@Suite struct DeadLetterTests {
    let scratch: Scratch

    init() throws { scratch = try Scratch() }

    private func suspect(_ frame: Int64, _ record: Int, reason: String = "no") -> BatchSplit.Suspect {
        var split = BatchSplit(cut: 1, pieces: [.init(frame: frame, records: record..<(record + 1))], status: 422)
        split.accepted()
        split.refused(status: 422, reason: reason)
        guard case .bury(let suspect) = split.next(mayBury: true) else { preconditionFailure("one is suspected") }
        return suspect
    }

    private func sequences(_ frames: [StoredFrame]) throws -> [UInt64] {
        try frames.flatMap { frame in
            var bytes = frame.header
            bytes.writeImmutableBuffer(frame.records)
            let decoded = try Frame.decode(bytes)
            #expect(decoded.records.count == frame.count)
            return decoded.records.indices.map { decoded.firstSequence + UInt64($0) }
        }
    }

    /// One line for each message, whichever of the two came first.
    @Test func aMessageIsBuriedOrDropped() async throws {
        let buffer = try scratch.open(epoch: 1)
        for _ in 0..<2 { try await buffer.commit(drafts([0, 0, 0])) }
        let cut = try #require(try await buffer.nextCut(maximumBytes: 1 << 20, maximumMessages: 100))
        #expect(try await buffer.bury(suspect(1, 1), in: cut))
        try await buffer.drop([1, 2])
        #expect(try await buffer.bury(suspect(2, 0), in: cut) == false, "its line is written")
        try await buffer.acknowledge(cut)
        let next = try #require(try await buffer.nextCut(maximumBytes: 1 << 20, maximumMessages: 100))
        let ledger = try await buffer.contents(of: next).ledger
        #expect(ledger.map(\.numbers) == [2...2, 1...1, 3...6])
        #expect(ledger.map(\.reason) == [.malformed, .bufferFull, .bufferFull])
        await buffer.close()
    }

    /// In one transaction: out of the batch, among the dead letters and in the ledger, over a restart as well.
    @Test func aBuriedMessageIsNeverSentAgain() async throws {
        let buffer = try scratch.open(epoch: 1)
        try await buffer.commit(drafts([0, 1, 0]))
        try await buffer.commit(drafts([1, 0, 1]))
        let cut = try #require(try await buffer.nextCut(maximumBytes: 1 << 20, maximumMessages: 100))
        #expect(try await buffer.bury(suspect(2, 1, reason: "frames[0]: bad"), in: cut))
        #expect(try await buffer.bury(suspect(2, 1), in: cut))
        #expect(buffer.concerns().deadLetters == 1)
        await #expect(throws: BufferError.self) { try await buffer.bury(suspect(3, 0), in: cut) }
        await #expect(throws: BufferError.self) { try await buffer.bury(suspect(2, 3), in: cut) }
        #expect(try sequences(try await buffer.contents(of: cut).frames) == [1, 2, 3, 4, 6])
        await buffer.close()

        let again = try scratch.open(epoch: 2)
        let same = try #require(try await again.nextCut(maximumBytes: 1 << 20, maximumMessages: 100))
        #expect(same == cut)
        #expect(try sequences(try await again.contents(of: same).frames) == [1, 2, 3, 4, 6])
        let (letters, last) = try await again.deadLetters()
        #expect(last == 1 && letters.map(\.sequence) == [5] && letters[0].device == "device-0")
        #expect(letters[0].number == 3 && letters[0].topic == ByteBuffer(string: "t/1"))
        #expect(letters[0].payload.readableBytes == 100 && letters[0].reason == "frames[0]: bad")
        #expect(letters[0].status == 422 && letters[0].epoch == Epoch(high: 0, low: 1) && letters[0].time > 0)
        try await again.acknowledge(same)
        try await again.commit(drafts([2]))
        let concerns = again.concerns()
        #expect(concerns.deadLetters == 1 && concerns.newestDeadLetter == letters[0].time, "over a restart too")
        #expect(concerns.deadLetterHealth(at: letters[0].time + 6 * 86_400_000_000) != .good)
        #expect(concerns.deadLetterHealth(at: letters[0].time + 7 * 86_400_000_000) == .good)
        let next = try #require(try await again.nextCut(maximumBytes: 1 << 20, maximumMessages: 100))
        let line = LedgerLine(
            epoch: Epoch(high: 0, low: 1), device: "device-0", sequences: 5...5, numbers: 3...3, reason: .malformed)
        #expect(try await again.contents(of: next).ledger == [line])
        try await again.acknowledge(next)
        #expect(try await again.nextCut(maximumBytes: 1 << 20, maximumMessages: 100) == nil)
        let rows = try await again.perform { store throws(SQLiteError) in
            try store.connection.integer("SELECT count(*) FROM buried")
        }
        #expect(rows == 0, "what is answered needs no mark")
        await again.close()
    }

    @Test func aFrameMayBeBuriedWhole() async throws {
        let buffer = try scratch.open()
        try await buffer.commit(drafts([0]))
        let cut = try #require(try await buffer.nextCut(maximumBytes: 1 << 20, maximumMessages: 100))
        _ = try await buffer.bury(suspect(1, 0), in: cut)
        #expect(try await buffer.contents(of: cut).frames.isEmpty)
        try await buffer.acknowledge(cut)
        await buffer.close()
    }

    @Test func deadLettersAreBoundedTheOldestMakeRoom() async throws {
        let buffer = try scratch.open { $0.deadLetters = (count: 3, bytes: 250) }
        try await buffer.commit(drafts([0, 0, 0, 0, 0, 0], payload: 40))
        let cut = try #require(try await buffer.nextCut(maximumBytes: 1 << 20, maximumMessages: 100))
        for record in 0..<4 { _ = try await buffer.bury(suspect(1, record), in: cut) }
        #expect(try await buffer.deadLetters().letters.map(\.sequence) == [2, 3, 4])
        _ = try await buffer.bury(suspect(1, 4, reason: String(repeating: "x", count: 150)), in: cut)
        let (letters, last) = try await buffer.deadLetters()
        #expect(letters.map(\.sequence) == [4, 5] && last == 5, "by bytes as well; all are counted")
        await buffer.close()
    }

    /// The daemon tells them while it runs, the file afterwards; a slice takes some of them.
    @Test(arguments: [true, false]) func deadLettersAreShown(isRunning: Bool) async throws {
        let buffer = try scratch.open { $0.readSlice = 200 }
        try await buffer.commit(drafts([0, 1, 0, 1], payload: 40))
        let cut = try #require(try await buffer.nextCut(maximumBytes: 1 << 20, maximumMessages: 100))
        for record in 0..<3 { _ = try await buffer.bury(suspect(1, record, reason: "no \"row\""), in: cut) }
        let group = MultiThreadedEventLoopGroup(numberOfThreads: 1)
        let server = try await ControlServer.start(
            bufferPath: scratch.path, buffer: buffer, group: group, logger: quiet)
        if !isRunning {
            await server.stop()
            await buffer.close()
        }
        let text = NIOLockedValueBox("")
        let count = try await ControlClient.export(.deadLetters, ofBuffer: scratch.path) { part in
            text.withLockedValue { $0 += String(buffer: part) }
        }
        let lines = text.withLockedValue { $0 }.split(separator: "\n")
        #expect(count == 3 && lines.count == 3)
        #expect(lines[0].contains(#""sequence":1,"device":"device-0","number":1,"buried":""#))
        #expect(lines[1].contains(#""status":422,"reason":"no \"row\"","topic":"t/1","payload":"aaa"#))
        #expect(try await ControlClient.stats(ofBuffer: scratch.path).deadLetters == 3)
        if isRunning {
            await server.stop()
            await buffer.close()
        }
        try await group.shutdownGracefully()
    }
}

extension Buffer {
    /// All of them, and the id of the last.
    fileprivate func deadLetters() async throws -> (letters: [DeadLetter], last: Int64) {
        try await perform { store throws(SQLiteError) in try store.deadLetters(after: 0, maximumBytes: 1 << 20) }
    }
}
