import Flow
import Foundation
import MQTTSession
import MQTTWire
import NIOCore
import SyncModel
import Testing

@testable import Buffer

/// What a buffer was given, and what it may be asked for later: each message with its identity.
struct BufferModel {
    struct Message: Hashable {
        var epoch: Epoch
        var sequence: UInt64
        var device: String
        var number: UInt64
        var payload: String
    }

    private(set) var messages: Set<Message> = []
    var answered: Set<Message> = []
    private var numbers: [String: UInt64] = [:]

    var waiting: Set<Message> { messages.subtracting(answered) }

    /// Frames as they are read back.
    static func messages(of frames: [Frame]) -> [Message] {
        frames.flatMap { frame in
            var next = frame.devices.map(\.firstNumber)
            return frame.records.enumerated().map { index, record in
                defer { next[record.device] += 1 }
                return Message(
                    epoch: frame.epoch, sequence: frame.firstSequence + UInt64(index),
                    device: frame.devices[record.device].id, number: next[record.device],
                    payload: String(buffer: record.payload))
            }
        }
    }

    /// Commits a group of messages of some devices, each with a payload of its own.
    mutating func commit(
        _ count: Int, payload: Int, to buffer: Buffer, _ generator: inout SplitMix64
    ) async throws {
        var builder = FrameBuilder()
        let clock = FrameClock(wallTime: 1, monotonicTime: 1, bootHigh: 1, bootLow: 1, isSynchronised: true)
        var sent: [(device: String, payload: String)] = []
        for _ in 0..<count {
            let device = DeviceHandle(generator.next() % 5)
            let text = "\(generator.next())-" + String(repeating: "x", count: payload)
            sent.append(("device-\(device)", text))
            builder.append(
                device: device, deviceID: "device-\(device)", qos: 1, retain: false, duplicate: false,
                topic: ByteBuffer(string: "t"), payload: ByteBuffer(string: text), properties: ByteBuffer(),
                clock: clock)
        }
        let retained = StoredPublish(
            topic: ByteBuffer(string: "last"), payload: ByteBuffer(string: "x"), qos: .atLeastOnce)
        let receipt = try await buffer.commit(builder.take(), changes: [.retained(retained)])
        for (index, message) in sent.enumerated() {
            let name = "\(receipt.epoch) \(message.device)"
            numbers[name, default: 0] += 1
            messages.insert(
                Message(
                    epoch: receipt.epoch, sequence: receipt.firstSequence + UInt64(index), device: message.device,
                    number: numbers[name]!, payload: message.payload))
        }
    }
}

/// A buffer's files as they were at one moment.
struct BufferFiles {
    var database: [UInt8]
    var log: [UInt8]

    init() { (database, log) = ([], []) }

    init(at path: String) throws {
        database = Array(try Data(contentsOf: URL(fileURLWithPath: path)))
        log = Array((try? Data(contentsOf: URL(fileURLWithPath: path + "-wal"))) ?? Data())
    }

    /// Puts them to a path, and nothing else beside them.
    func put(to path: String) throws {
        let directory = (path as NSString).deletingLastPathComponent
        let name = (path as NSString).lastPathComponent
        for file in try FileManager.default.contentsOfDirectory(atPath: directory) where file.hasPrefix(name) {
            try FileManager.default.removeItem(atPath: directory + "/" + file)
        }
        try Data(database).write(to: URL(fileURLWithPath: path))
        // A daemon has had it.
        try Data().write(to: URL(fileURLWithPath: path + ".lock"))
        if !log.isEmpty { try Data(log).write(to: URL(fileURLWithPath: path + "-wal")) }
    }

    var pages: Int { database.count / 4_096 }

    func kind(ofPage page: Int) -> TreePage.Kind? {
        TreePage(Array(database[(page * 4_096)..<(page * 4_096 + 4_096)]), isFirst: page == 0)?.kind
    }

    mutating func overwritePage(_ page: Int, with byte: UInt8) {
        for index in page * 4_096..<(page + 1) * 4_096 { database[index] = byte }
    }

    /// All versions of a page; 1 is the first.
    mutating func lose(page number: Int64) {
        if number <= pages { overwritePage(Int(number) - 1, with: 0) }
        guard let scan = LogScan(log, pageSize: 4_096) else { return }
        for (index, entry) in scan.entries.enumerated() where Int64(entry.page) == number {
            log[scan.offset(of: index) + 200] ^= 1
        }
    }
}

/// All that a buffer would send, answered as it goes.
struct Drained {
    var messages: [BufferModel.Message] = []
    var ledger: [LedgerLine] = []

    mutating func drain(_ buffer: Buffer) async throws {
        while let cut = try await buffer.nextCut(maximumBytes: 1 << 20, maximumMessages: 10_000) {
            let contents = try await buffer.contents(of: cut)
            var frames: [Frame] = []
            for stored in contents.frames {
                var bytes = stored.header
                bytes.writeImmutableBuffer(stored.records)
                frames.append(try Frame.decode(bytes))
            }
            messages += BufferModel.messages(of: frames)
            ledger += contents.ledger
            try await buffer.acknowledge(cut)
        }
    }

    /// Sequences of an epoch that were sent, or that a line names.
    func ended(_ epoch: UInt64, _ range: ClosedRange<UInt64>) -> Set<UInt64> {
        let epoch = Epoch(high: 0, low: epoch)
        let lines = ledger.filter { $0.epoch == epoch }.map(\.sequences)
        let sent = Set(messages.filter { $0.epoch == epoch }.map(\.sequence))
        return Set(range.filter { sequence in sent.contains(sequence) || lines.contains { $0 ~= sequence } })
    }

    /// The audit of a cloud that has stored `answered` before, and then what was drained, each message once.
    func audit(
        _ accounting: GatewayAccounting, answered: Set<BufferModel.Message>
    ) -> AuditReport {
        var tally = AuditTally()
        let isGood = tally.add(accounting)
        #expect(isGood)
        func end(_ numbers: ClosedRange<UInt64>, of device: String, _ source: AuditTally.Source) {
            var ended = IntervalSet()
            _ = try? ended.insert(numbers)
            tally.add(ended: ended, of: source, device: device)
        }
        for message in Set(messages).union(answered) {
            let source = AuditTally.Source(gateway: accounting.gateway, epoch: message.epoch)
            _ = tally.add(row: source, sequence: message.sequence, part: 0, parts: 1)
            end(1...1, of: "d", source)
        }
        for line in ledger {
            let source = AuditTally.Source(gateway: accounting.gateway, epoch: line.epoch)
            tally.add(
                ledger: source, device: line.device, sequences: line.sequences, numbers: line.numbers,
                reason: line.reason)
            end(line.numbers, of: line.device, source)
        }
        return tally.report()
    }
}

extension Buffer {
    /// The page where a table begins.
    func root(of table: String) async throws -> Int64 {
        try await perform { store throws(SQLiteError) in
            try store.connection.integer("SELECT rootpage FROM sqlite_schema WHERE name = '\(table)'") ?? 0
        }
    }
}
