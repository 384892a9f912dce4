import Flow
import Foundation
import MQTTSession
import MQTTWire
import NIOCore
import SyncModel
import Testing

@testable import Buffer

/// What a power cut may leave of the write-ahead log: cut off anywhere, its end torn, bits of it wrong. Whatever had its
/// receipt before that place is there, nothing of a transaction that is not whole, and the file opens.
@Suite struct TornLogTests {
    let scratch: Scratch

    init() throws { scratch = try Scratch() }

    private static let firstEpoch = Epoch(high: 3, low: 1)
    private static let secondEpoch = Epoch(high: 3, low: 2)
    private static let firstCount: UInt64 = 25

    /// A buffer's files while its daemon was at work, and how long the log was at each receipt.
    private struct Log {
        var database: Data
        var bytes: [UInt8]
        var receipts: [(end: Int, last: UInt64)]
        var last: UInt64 { receipts.last?.last ?? 0 }

        /// The last message that has its receipt when the log ends, or is wrong, at `offset`.
        func promised(before offset: Int) -> UInt64 { receipts.last { $0.end <= offset }?.last ?? 0 }
    }

    private static func group(_ range: Range<UInt64>) -> ([FrameDraft], [DurableChange]) {
        var builder = FrameBuilder()
        let clock = FrameClock(wallTime: 1, monotonicTime: 1, bootHigh: 1, bootLow: 1, isSynchronised: true)
        for value in range {
            builder.append(
                device: 1, deviceID: "device-1", qos: 2, retain: false, duplicate: false,
                topic: ByteBuffer(string: "t"), payload: ByteBuffer(string: "\(value)"), properties: ByteBuffer(),
                clock: clock)
        }
        let retained = StoredPublish(
            topic: ByteBuffer(string: "last"), payload: ByteBuffer(string: "\(range.upperBound - 1)"), qos: .atLeastOnce
        )
        return (builder.take(), [.retained(retained)])
    }

    /// Nothing is copied into the database file but what an earlier life left.
    private func configuration(_ path: String) -> Buffer.Configuration {
        var configuration = scratch.configuration()
        configuration.path = path
        configuration.checkpointPages = 1 << 20
        configuration.idleCheckpointPages = 1 << 20
        return configuration
    }

    private func writeLog(_ generator: inout SplitMix64) async throws -> Log {
        let earlier = try Buffer.open(configuration(scratch.path), epoch: Self.firstEpoch, logger: quiet).buffer
        let (drafts, changes) = Self.group(1..<Self.firstCount + 1)
        try await earlier.commit(drafts, changes: changes)
        await earlier.close()

        let buffer = try Buffer.open(configuration(scratch.path), epoch: Self.secondEpoch, logger: quiet).buffer
        var receipts: [(end: Int, last: UInt64)] = []
        var next: UInt64 = 1
        for _ in 0..<60 {
            let count = 1 + generator.next() % 40
            let (drafts, changes) = Self.group(next..<next + count)
            try await buffer.commit(drafts, changes: changes)
            next += count
            receipts.append((try Data(contentsOf: URL(fileURLWithPath: scratch.path + "-wal")).count, next - 1))
        }
        let database = try Data(contentsOf: URL(fileURLWithPath: scratch.path))
        let bytes = Array(try Data(contentsOf: URL(fileURLWithPath: scratch.path + "-wal")))
        await buffer.close()
        #expect(zip(receipts, receipts.dropFirst()).allSatisfy { $0.end < $1.end }, "the log only grows")
        #expect(receipts.last?.end == bytes.count)
        return Log(database: database, bytes: bytes, receipts: receipts)
    }

    /// Opens a copy with this log, and says how far it goes.
    private func recover(_ log: Log, _ bytes: [UInt8], _ what: String) async throws -> UInt64 {
        let path = scratch.directory + "/copy.db"
        for suffix in ["", "-wal", "-shm"] { try? FileManager.default.removeItem(atPath: path + suffix) }
        try log.database.write(to: URL(fileURLWithPath: path))
        try Data(bytes).write(to: URL(fileURLWithPath: path + "-wal"))
        let (buffer, restored) = try Buffer.open(
            configuration(path), epoch: Epoch(high: 3, low: 3), logger: quiet)
        let name = Self.secondEpoch.hexadecimal
        let last = try await buffer.accounting().epochs.first { $0.epoch == name }?.lastSequence ?? 0
        // The retained message of a transaction names its last message: both or neither are there.
        let retained = restored.retained.first.map { String(buffer: $0.payload) }
        #expect(retained == "\(last > 0 ? last : Self.firstCount)", "\(what)")
        let payloads = try await buffer.everything().flatMap { $0.records.map { String(buffer: $0.payload) } }
        #expect(payloads == (1...Self.firstCount).map(String.init) + (1..<last + 1).map(String.init), "\(what)")
        await buffer.close()
        return last
    }

    @Test func aCheckpointThatIsCutOffIsNoDamage() async throws {
        var generator = SplitMix64(seed: 12)
        var log = try await writeLog(&generator)
        // The first bytes of a page that the log has whole.
        log.database.append(contentsOf: [13, 0, 0, 0])
        #expect(try await recover(log, log.bytes, "a cut off page") == log.last)
        let marks = try FileManager.default.contentsOfDirectory(atPath: scratch.directory)
        #expect(!marks.contains { $0.contains("damaged") })
    }

    @Test func aLogThatIsCutOffHoldsEveryReceiptBeforeTheCut() async throws {
        var generator = SplitMix64(seed: 11)
        let log = try await writeLog(&generator)
        var cuts = (0..<140).map { _ in Int(generator.next() % UInt64(log.bytes.count + 1)) }
        // Around each receipt: the last byte of a commit decides.
        for receipt in log.receipts { cuts += [receipt.end - 1, receipt.end, min(receipt.end + 1, log.bytes.count)] }
        for cut in cuts {
            let last = try await recover(log, Array(log.bytes[..<cut]), "cut at \(cut)")
            #expect(last == log.promised(before: cut), "cut at \(cut) of \(log.bytes.count)")
        }
        #expect(cuts.count == 320)
    }

    /// A copy of the log up to a receipt, its last transaction torn by a power cut.
    private func torn(_ log: Log, round: Int, _ generator: inout SplitMix64) -> (bytes: [UInt8], receipt: Int) {
        let receipt = 1 + Int(generator.next() % UInt64(log.receipts.count - 1))
        let begin = log.receipts[receipt - 1].end
        var bytes = Array(log.bytes[..<log.receipts[receipt].end])
        let offset = begin + Int(generator.next() % UInt64(bytes.count - begin))
        switch round % 3 {
        case 0: bytes[offset] ^= 1 << UInt8(generator.next() % 8)
        case 1:
            // The sectors of the last write come in any order: some of them are not there.
            for sector in stride(from: begin, to: bytes.count, by: 512)
            where generator.next() % 2 == 0 || sector == begin {
                for index in sector..<min(sector + 512, bytes.count) { bytes[index] = 0 }
            }
        default:
            for index in offset..<bytes.count { bytes[index] = UInt8(truncatingIfNeeded: generator.next()) }
        }
        return (bytes, receipt)
    }

    @Test func aLogWithATornEndHoldsEveryReceiptBeforeIt() async throws {
        var generator = SplitMix64(seed: 12)
        let log = try await writeLog(&generator)
        for round in 0..<200 {
            let (bytes, receipt) = torn(log, round: round, &generator)
            let last = try await recover(log, bytes, "round \(round), torn after receipt \(receipt - 1)")
            #expect(last == log.receipts[receipt - 1].last, "round \(round), torn after receipt \(receipt - 1)")
        }
    }

    // MARK: Telling a torn end from damage

    @Test func whatAPowerCutLeavesIsNoDamage() async throws {
        var generator = SplitMix64(seed: 13)
        let log = try await writeLog(&generator)
        for cut in stride(from: 0, to: log.bytes.count, by: 1_237) {
            let scan = LogScan(Array(log.bytes[..<cut]), pageSize: 4_096)
            #expect(scan?.isDamaged != true, "cut at \(cut)")
        }
        for round in 0..<600 {
            let (bytes, receipt) = torn(log, round: round, &generator)
            let scan = try #require(LogScan(bytes, pageSize: 4_096))
            #expect(!scan.isDamaged, "round \(round)")
            #expect(scan.offset(of: scan.recoveredEnd) - 24 == log.receipts[receipt - 1].end, "round \(round)")
            #expect(scan.committedEnd == scan.recoveredEnd, "round \(round)")
        }
    }

    /// Recovery would end there and lose what was acknowledged after it.
    @Test func aWrongBitBeforeTheLastTransactionIsDamage() async throws {
        var generator = SplitMix64(seed: 14)
        let log = try await writeLog(&generator)
        let whole = try #require(LogScan(log.bytes, pageSize: 4_096))
        #expect(!whole.isDamaged && whole.isHeaderValid && whole.recoveredEnd == whole.entries.count)
        let last = log.receipts[log.receipts.count - 2].end
        for _ in 0..<600 {
            var bytes = log.bytes
            let offset = Int(generator.next() % UInt64(last))
            bytes[offset] ^= 1 << UInt8(generator.next() % 8)
            let scan = try #require(LogScan(bytes, pageSize: 4_096))
            #expect(scan.isDamaged, "bit of byte \(offset)")
            #expect(scan.committedEnd == whole.entries.count)
            // One frame is wrong, and the one after it where the stored checksum is.
            let wrong = scan.entries.filter { !$0.isValid }.count
            #expect(wrong <= (scan.isHeaderValid ? 2 : 1), "bit of byte \(offset)")
        }
    }

    @Test func missingSectorsBeforeTheLastTransactionsAreDamage() async throws {
        var generator = SplitMix64(seed: 15)
        let log = try await writeLog(&generator)
        let last = log.receipts[log.receipts.count - 3].end
        for round in 0..<300 {
            var bytes = log.bytes
            let length = 512 * (1 + Int(generator.next() % 64))
            let begin = Int(generator.next() % UInt64(last - length)) / 512 * 512
            for index in begin..<begin + length {
                bytes[index] = round % 2 == 0 ? 0 : UInt8(truncatingIfNeeded: generator.next())
            }
            // Parts of pages are zeros as they are.
            guard bytes != log.bytes else { continue }
            #expect(LogScan(bytes, pageSize: 4_096)?.isDamaged == true, "\(length) bytes from \(begin)")
        }
    }
}
