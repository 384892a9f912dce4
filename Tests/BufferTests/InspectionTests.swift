import Foundation
import MQTTSession
import NIOConcurrencyHelpers
import NIOCore
import NIOPosix
import Operations
import SyncModel
import Testing

@testable import Buffer

/// What an operator sees of a buffer, from a daemon that runs and from the file alone.
@Suite struct InspectionTests {
    let scratch: Scratch

    init() throws { scratch = try Scratch() }

    private struct Line: Decodable, Equatable {
        var epoch: String
        var sequence: UInt64
        var device: String
        var number: UInt64
        var time: String
        var synchronised: Bool
        var topic: String
        var qos: Int
        var payload: String?
        var payloadBase64: String?
    }

    private func messages(newest: Int? = nil) async throws -> [Line] {
        let text = NIOLockedValueBox(Data())
        let count = try await ControlClient.export(.messages(newest: newest), ofBuffer: scratch.path) { part in
            text.withLockedValue { $0.append(contentsOf: part.readableBytesView) }
        }
        let lines = try text.withLockedValue { $0 }.split(separator: UInt8(ascii: "\n")).map {
            try JSONDecoder().decode(Line.self, from: Data($0))
        }
        #expect(lines.count == count)
        return lines
    }

    /// Runs a body while a daemon serves the buffer, and again on the file when it is gone.
    private func onlineAndOffline(_ buffer: Buffer, _ body: () async throws -> Void) async throws {
        let server = try await ControlServer.start(
            bufferPath: scratch.path, buffer: buffer, group: MultiThreadedEventLoopGroup.singleton, logger: quiet)
        try await body()
        await server.stop()
        await buffer.close()
        try await body()
    }

    /// SQLite forgets what lies behind a wrong frame of its log, and with that the sign that something is missing.
    @Test func whoLooksLeavesALogAsItIs() async throws {
        let buffer = try scratch.open()
        for _ in 0..<20 { try await buffer.commit(drafts([0])) }
        let files = try BufferFiles(at: scratch.path)
        await buffer.close()

        try files.put(to: scratch.path)
        #expect(try Buffer.statsOffline(path: scratch.path).messages == 20)
        #expect(try BufferFiles(at: scratch.path).log == files.log)
        #expect(try FileManager.default.contentsOfDirectory(atPath: scratch.directory).count == 3, "file, log and lock")

        var damaged = files
        damaged.log[damaged.log.count / 2] ^= 1
        try damaged.put(to: scratch.path)
        let told = await #expect(throws: BufferError.self) { _ = try await self.messages() }
        #expect("\(String(describing: told))".contains("start the daemon, which salvages"))
        #expect(try BufferFiles(at: scratch.path).log == damaged.log)
        let after = try scratch.open(epoch: 2)
        #expect(after.salvage != nil)
        await after.close()

        try files.put(to: scratch.path)
        try SalvageFiles(scratch.configuration()).write(
            .suspect("a test", KnownEnd(epoch: Epoch(high: 0, low: 1), lastSequence: 21)))
        #expect(throws: BufferError.self) { try Buffer.statsOffline(path: scratch.path) }
        let marked = try scratch.open(epoch: 3)
        #expect(marked.salvage?.missing == 1, "the mark still says what was acknowledged")
        await marked.close()
    }

    @Test func everyBufferedMessageIsALineOldestFirst() async throws {
        let buffer = try scratch.open { $0.readSlice = 500 }
        for _ in 0..<20 { try await buffer.commit(drafts([3, 4, 3])) }
        var binary = FrameBuilder()
        binary.append(
            device: 3, deviceID: "device-3", qos: 2, retain: true, duplicate: false, topic: ByteBuffer(string: "é/\""),
            payload: ByteBuffer(bytes: [0xFF, 0x00]), properties: ByteBuffer(bytes: [1]),
            clock: FrameClock(wallTime: 0, monotonicTime: 0, bootHigh: 0, bootLow: 0, isSynchronised: false))
        try await buffer.commit(binary.take())
        try await onlineAndOffline(buffer) { () async throws in
            let lines = try await messages()
            #expect(lines.map(\.sequence) == Array(1...61))
            #expect(lines.prefix(3).map(\.number) == [1, 1, 2] && lines[3].number == 3)
            #expect(
                lines[0]
                    == Line(
                        epoch: String(repeating: "0", count: 31) + "1", sequence: 1, device: "device-3", number: 1,
                        time: "1970-01-01T00:00:01.000000Z", synchronised: true, topic: "t/0", qos: 1,
                        payload: String(repeating: "a", count: 100)))
            #expect(lines[60].topic == "é/\"" && lines[60].payload == nil && lines[60].payloadBase64 == "/wA=")
            #expect(!lines[60].synchronised)
        }
    }

    @Test func theNewestAreGivenInOrder() async throws {
        let buffer = try scratch.open()
        for _ in 0..<5 { try await buffer.commit(drafts([0, 1, 2, 3])) }
        try await onlineAndOffline(buffer) { () async throws in
            #expect(try await messages(newest: 6).map(\.sequence) == Array(15...20))
            #expect(try await messages(newest: 1).map(\.sequence) == [20])
            #expect(try await messages(newest: 100).count == 20)
        }
    }

    @Test func whatTheCloudHasAnsweredForIsNotShown() async throws {
        let buffer = try scratch.open()
        for _ in 0..<4 { try await buffer.commit(drafts([0])) }
        let cut = try #require(try await buffer.nextCut(maximumBytes: 1, maximumMessages: 2))
        try await buffer.acknowledge(cut)
        try await onlineAndOffline(buffer) { () async throws in
            let left = 4 - cut.messageCount
            #expect(try await messages().count == left)
            #expect(try await ControlClient.stats(ofBuffer: scratch.path).messages == left)
        }
    }

    @Test func anExportWorksWhileMessagesAreCommitted() async throws {
        let buffer = try scratch.open { $0.readSlice = 200 }
        try await buffer.commit(drafts([0]))
        let writing = Task {
            var committed = 0
            while !Task.isCancelled {
                try await buffer.commit(drafts([0, 1]))
                committed += 2
                try? await Task.sleep(for: .milliseconds(1))
            }
            return committed
        }
        let server = try await ControlServer.start(
            bufferPath: scratch.path, buffer: buffer, group: MultiThreadedEventLoopGroup.singleton, logger: quiet)
        for _ in 0..<10 {
            let lines = try await messages(newest: 50)
            #expect(lines.map(\.sequence) == lines.indices.map { lines[0].sequence + UInt64($0) })
        }
        writing.cancel()
        let committed = try await writing.value
        #expect(try await messages().count == committed + 1)
        await server.stop()
        await buffer.close()
    }

    @Test func statsTellWhatTheFileHolds() async throws {
        let buffer = try scratch.open()
        try await buffer.commit(drafts([0, 1], wallTime: 7_000_000))
        try await onlineAndOffline(buffer) { () async throws in
            let stats = try await ControlClient.stats(ofBuffer: scratch.path)
            #expect(stats.gateway == "plant-7" && stats.messages == 2 && stats.frames == 1 && stats.epochs == 1)
            #expect(stats.oldest == 7_000_000 && stats.bytes > 200 && stats.fileBytes >= 4_096 && !stats.isFull)
        }
    }

    /// Ids go on where rows are gone.
    @Test func whatWasDroppedIsNoFrame() async throws {
        let buffer = try scratch.open {
            $0.dropsOldest = true
            $0.maximumBytes = 2_000
        }
        for _ in 0..<40 { try await buffer.commit(drafts([0])) }
        // Of one message each.
        let waiting = buffer.fill().messages
        #expect(waiting > 1 && waiting < 30)
        let cut = try #require(try await buffer.nextCut(maximumBytes: 1, maximumMessages: 1))
        try await buffer.acknowledge(cut)
        let path = scratch.path
        try await onlineAndOffline(buffer) { () async throws in
            let stats = try await ControlClient.stats(ofBuffer: path)
            #expect(stats.messages == waiting - 1 && stats.frames == Int64(waiting - 1))
        }
    }

    @Test func devicesNeedARunningGateway() async throws {
        let buffer = try scratch.open()
        await #expect(throws: BufferError.self) { try await ControlClient.devices(ofBuffer: scratch.path) }
        let listing = DeviceListing(gateway: "plant-7", devices: [], leftOut: 3)
        let server = try await ControlServer.start(
            bufferPath: scratch.path, buffer: buffer, devices: { listing },
            group: MultiThreadedEventLoopGroup.singleton,
            logger: quiet)
        #expect(try await ControlClient.devices(ofBuffer: scratch.path) == listing)
        await server.stop()
        await buffer.close()
    }

    @Test func aReaderThatFailsIsTold() async throws {
        struct Full: Error {}
        let buffer = try scratch.open()
        try await buffer.commit(drafts([0]))
        let path = scratch.path
        try await onlineAndOffline(buffer) { () async throws in
            await #expect(throws: BufferError.self) {
                try await ControlClient.export(.messages(newest: nil), ofBuffer: path) { _ in throw Full() }
            }
        }
    }

    @Test func refusalsSurviveARestart() async throws {
        let buffer = try scratch.open()
        func record(_ device: String, _ rate: UInt64, _ full: UInt64) -> RefusalRecord {
            var counts = CaseCounts<RefusalReason>()
            (counts[.rate], counts[.storageFull]) = (rate, full)
            return RefusalRecord(device: device, counts: counts)
        }
        try await buffer.commit(
            [],
            changes: [
                .refusalsCounted(record("a", 1, 0)), .refusalsCounted(record("b", 2, 3)),
                .refusalsCounted(record("a", 5, 1)),
                .refusalsCounted(record("c", 1, 0)), .refusalsForgotten(device: "c"),
                .refusalsCounted(record("", 1, 0)),
            ])
        await buffer.close()
        let (again, restored) = try Buffer.open(scratch.configuration(), epoch: Epoch(high: 0, low: 2), logger: quiet)
        #expect(restored.refusals == [record("", 1, 0), record("a", 5, 1), record("b", 2, 3)])
        await again.close()
    }
}
