import Crypto
import Foundation
import NIOCore
import Testing

@testable import SyncModel

/// What `docs/sync-protocol.md` promises to strangers, read out of the page itself.
private struct ProtocolPage {
    static let folder = URL(filePath: #filePath).deletingLastPathComponent().deletingLastPathComponent()
        .deletingLastPathComponent().appending(path: "docs")

    let text: String

    init() throws { text = try String(contentsOf: Self.folder.appending(path: "sync-protocol.md"), encoding: .utf8) }

    /// The one code block with this info string.
    func block(_ info: String) throws -> String {
        let parts = text.components(separatedBy: "\n```\(info)\n")
        try #require(parts.count == 2, "one block ```\(info)")
        return try #require(parts[1].components(separatedBy: "\n```").first)
    }

    func bytes(_ info: String) throws -> ByteBuffer {
        let digits = Array(try block(info).utf8.filter { $0 != UInt8(ascii: "\n") })
        try #require(digits.count % 2 == 0)
        let bytes = try stride(from: 0, to: digits.count, by: 2).map { index in
            UInt8(try #require(hexadecimalValue(digits[index..<(index + 2)])))
        }
        return ByteBuffer(bytes: bytes)
    }
}

@Suite struct VectorTests {
    private let batch = Batch(
        gateway: "plant-7",
        accounts: [
            EpochAccount(epoch: Epoch(high: 1, low: 2), lastSequence: 900, isClosed: true),
            EpochAccount(epoch: sampleEpoch, lastSequence: 9, isClosed: false),
        ],
        frames: [
            Frame(
                epoch: sampleEpoch, firstSequence: 7, clock: sampleClock(),
                devices: [FrameDevice(id: "pump-1", firstNumber: 3), FrameDevice(id: "pump-2", firstNumber: 1)],
                records: [
                    FrameRecord(device: 0, qos: 1, topic: bytes("plant/pump-1"), payload: bytes("{\"rpm\":1500}")),
                    FrameRecord(
                        device: 1, qos: 2, retain: true, duplicate: true, offset: 1_500, topic: bytes("plant/pümp-2"),
                        payload: ByteBuffer(), properties: ByteBuffer(bytes: [0x26, 0, 1, 0x6B, 0, 1, 0x76])),
                    FrameRecord(
                        device: 0, qos: 0, isWill: true, offset: -20, topic: bytes("plant/pump-1"),
                        payload: bytes("gone")),
                ])
        ],
        ledger: [
            LedgerLine(epoch: sampleEpoch, device: "pump-1", sequences: 1...6, numbers: 1...2, reason: .bufferFull),
            LedgerLine(
                epoch: Epoch(high: 1, low: 2), device: "pump-2", sequences: 880...899, numbers: 41...50,
                reason: .aggregated, aggregate: AggregateReference(epoch: sampleEpoch, sequences: 8...8)),
        ],
        corrections: [ClockCorrection(epoch: sampleEpoch, sequences: 4...6, offset: -2_500_000)])

    @Test func theBatchOfThePageIsOurs() throws {
        let page = try ProtocolPage()
        let vector = try page.bytes("hex batch")
        #expect(try Batch.decode(vector) == batch)
        #expect(batch.encoded() == vector)
        let digest = SHA256.hash(data: Array(vector.readableBytesView))
        #expect(try page.block("digest batch") == SyncProtocol.digestHeaderValue(digest))
    }

    @Test func theLogEntryOfThePageIsOurs() throws {
        let page = try ProtocolPage()
        let entries = try Batch.decode(page.bytes("hex batch")).logEntries()
        let first = try #require(entries.first)
        let vector = try page.bytes("hex entry")
        #expect(first.encoded() == vector)
        #expect(try LogEntry.decode(vector) == first)
        guard case .messages(let group) = first else {
            Issue.record("messages come first")
            return
        }
        #expect(group.messages.map(\.sequence) == [7, 9] && group.messages.map(\.number) == [3, 4])
        #expect(try page.block("trace first") == group.messages[0].traceparent(epoch: group.epoch))
    }

    @Test func theSchemaOfThePageIsTheFile() throws {
        let file = try String(contentsOf: ProtocolPage.folder.appending(path: "sync.proto"), encoding: .utf8)
        #expect(try ProtocolPage().block("protobuf") + "\n" == file)
    }

    @Test func theBoundsOfThePageAreOurs() throws {
        let text = try ProtocolPage().text.replacingOccurrences(of: ",", with: "")
        let limits = SyncLimits()
        for bound in [
            "\(limits.maximumFrames) frames", "\(limits.maximumRecords) records", "\(limits.maximumAccounts) accounts",
            "\(limits.maximumLedgerLines) ledger lines",
            "\(limits.maximumCorrections) corrections", "1 to \(Identifier.maximumBytes) bytes",
            "\(SyncProtocol.maximumSentBytes >> 20) MiB as sent",
            "\(SyncProtocol.maximumUnpackedBytes >> 20) MiB unpacked",
            "\(LogEntry.maximumBytes >> 10) KiB an entry", "POST \(SyncProtocol.path)",
            "Content-Type: \(SyncProtocol.contentType)", "Content-Encoding: \(SyncProtocol.contentEncoding)",
            "\(SyncProtocol.digestHeader): \(SyncProtocol.digestPrefix)",
        ] {
            #expect(text.contains(bound), "\(bound)")
        }
        #expect(limits.maximumDevices == limits.maximumRecords, "\"and as many devices\"")
    }
}

/// Our bytes through protobuf's own compiler, where Debian's protobuf-compiler is installed.
@Suite struct SchemaTests {
    static let protoc = ["/usr/bin/protoc", "/usr/local/bin/protoc"].first(
        where: FileManager.default.isExecutableFile(atPath:))

    @Test(.enabled(if: protoc != nil, "needs protoc (Debian package protobuf-compiler)"))
    func anotherImplementationReadsAndWritesTheSameBytes() throws {
        let page = try ProtocolPage()
        let vector = Data(try page.bytes("hex batch").readableBytesView)
        let text = try Self.run(["--decode=sluice.sync.v1.Batch"], input: vector)
        #expect(try String(decoding: text, as: UTF8.self) == page.block("textproto batch") + "\n")
        // It leaves defaults out, where our encoder writes an empty payload: decoded, both are the same.
        let encoded = try Self.run(["--encode=sluice.sync.v1.Batch"], input: text)
        #expect(try Batch.decode(ByteBuffer(bytes: encoded)) == Batch.decode(page.bytes("hex batch")))
        let entry = Data(try page.bytes("hex entry").readableBytesView)
        let entryText = try Self.run(["--decode=sluice.sync.v1.LogEntry"], input: entry)
        #expect(try Self.run(["--encode=sluice.sync.v1.LogEntry"], input: entryText) == entry)
    }

    @Test(.enabled(if: protoc != nil, "needs protoc (Debian package protobuf-compiler)"))
    func randomBatchesGoThroughIt() throws {
        for seed in 1...5 as ClosedRange<UInt64> {
            var generator = SeededGenerator(seed: seed)
            let batch = randomBatch(using: &generator)
            let text = try Self.run(["--decode=sluice.sync.v1.Batch"], input: Data(batch.encoded().readableBytesView))
            let encoded = try Self.run(["--encode=sluice.sync.v1.Batch"], input: text)
            #expect(try Batch.decode(ByteBuffer(bytes: encoded)) == batch)
        }
    }

    private static func run(_ arguments: [String], input: Data) throws -> Data {
        let files = FileManager.default
        let file = files.temporaryDirectory.appending(path: "sync-\(UUID().uuidString)")
        try input.write(to: file)
        defer { try? files.removeItem(at: file) }
        let process = Process()
        process.executableURL = URL(filePath: try #require(protoc))
        process.arguments = ["--proto_path=\(ProtocolPage.folder.path())"] + arguments + ["sync.proto"]
        process.standardInput = try FileHandle(forReadingFrom: file)
        let output = Pipe()
        process.standardOutput = output
        try process.run()
        let data = try #require(try output.fileHandleForReading.readToEnd())
        process.waitUntilExit()
        try #require(process.terminationStatus == 0)
        return data
    }
}
