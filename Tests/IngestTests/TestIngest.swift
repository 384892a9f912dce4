import AsyncHTTPClient
import CZstd
import Crypto
import EventLog
import Foundation
import Ingest
import Logging
import NIOConcurrencyHelpers
import NIOCore
import NIOHTTP1
import NIOSSL
import Operations
import PKI
import ServiceLifecycle
import SyncModel
import Testing

/// A folder that goes with the test.
final class TemporaryFolder: Sendable {
    let path: String

    init() throws {
        path = NSTemporaryDirectory() + "sluice-ingest-" + UUID().uuidString
        try FileManager.default.createDirectory(atPath: path, withIntermediateDirectories: true)
    }

    deinit { try? FileManager.default.removeItem(atPath: path) }
}

/// An authority with a server, two gateways, one of which has expired, and a device. Made once for all tests, since
/// nothing of it changes; a test that revokes makes its own.
struct TestPKI: Sendable {
    static let shared = Result { try TestPKI() }

    let folder: TemporaryFolder
    let directory: PKIDirectory
    static let plant = role(.gateway, "plant-7")
    static let other = role(.gateway, "plant-8")
    static let expired = role(.gateway, "plant-old")
    static let device = role(.device, "press-1")
    static let server = role(.server, "cloud")

    private static func role(_ kind: PeerRole.Kind, _ id: String) -> PeerRole {
        // A fixed id of allowed letters.
        guard let role = try? PeerRole(kind, id: id) else { preconditionFailure("\(id) is no id") }
        return role
    }

    static var now: Int64 { Int64(Date().timeIntervalSince1970) }

    init() throws {
        folder = try TemporaryFolder()
        directory = PKIDirectory(folder.path + "/pki")
        try directory.create(now: Self.now - 10 * 86_400)
        try directory.issue(
            [
                .init(role: Self.server, names: [try .dns("localhost")]), .init(role: Self.plant),
                .init(role: Self.other), .init(role: Self.device),
            ], now: Self.now)
        try directory.issue([.init(role: Self.expired)], days: 1, now: Self.now - 5 * 86_400)
    }

    var serverFiles: EdgeConfiguration.TLS {
        .init(
            certificate: directory.certificate(Self.server), key: directory.key(Self.server),
            clientCA: directory.authorityCertificate, crl: directory.revocationList)
    }

    func client(_ role: PeerRole?) throws -> TLSConfiguration {
        var configuration = try TLSProfile.client(
            certificate: directory.certificate(role ?? Self.plant), key: directory.key(role ?? Self.plant),
            ca: directory.authorityCertificate)
        if role == nil {
            configuration.certificateChain = []
            configuration.privateKey = nil
        }
        return configuration
    }
}

/// Collects the lines of the service.
struct LinesHandler: LogHandler {
    let lines: NIOLockedValueBox<[String]>
    var metadata: Logger.Metadata = [:]
    var logLevel = Logger.Level.debug

    subscript(metadataKey key: String) -> Logger.Metadata.Value? {
        get { metadata[key] }
        set { metadata[key] = newValue }
    }

    func log(event: LogEvent) {
        let pairs = (event.metadata ?? [:]).sorted { $0.key < $1.key }.map { "\($0.key)=\($0.value)" }
        lines.withLockedValue { $0.append("\(event.level) \(event.message) \(pairs.joined(separator: " "))") }
    }
}

/// The real service on a free port of 127.0.0.1.
final class TestIngest: Sendable {
    let pki: TestPKI
    let service: IngestService
    let metrics = MetricRegistry()
    let port: Int
    private let lines: NIOLockedValueBox<[String]>
    private let group: ServiceGroup
    private let running: Task<Void, any Error>

    init(
        pki: TestPKI, log: any EventLog, _ change: (inout IngestConfiguration) -> Void = { _ in }
    ) async throws {
        let lines = NIOLockedValueBox<[String]>([])
        self.lines = lines
        self.pki = pki
        var configuration = IngestConfiguration(address: "127.0.0.1", port: 0, tls: pki.serverFiles)
        change(&configuration)
        let logger = Logger(label: "test") { _ in LinesHandler(lines: lines) }
        let service = try IngestService(configuration: configuration, log: log, metrics: metrics, logger: logger)
        self.service = service
        let group = ServiceGroup(configuration: .init(services: [service], logger: logger))
        self.group = group
        running = Task { try await group.run() }
        for _ in 0..<1000 where service.port == nil { try await Task.sleep(for: .milliseconds(5)) }
        port = try #require(service.port)
    }

    func logged(_ text: String) -> Bool { lines.withLockedValue { $0.contains { $0.contains(text) } } }

    func shutdown() async throws {
        await group.triggerGracefulShutdown()
        try await running.value
    }
}

struct Reply: Sendable {
    var status: UInt
    var retryAfter: String?
    var body: String
}

/// One client with its own connection, so that no test meets another's.
func post(
    _ ingest: TestIngest, as role: PeerRole? = TestPKI.plant, body: ByteBuffer, headers: [(String, String)],
    path: String = SyncProtocol.path, method: HTTPMethod = .POST
) async throws -> Reply {
    var configuration = HTTPClient.Configuration(tlsConfiguration: try ingest.pki.client(role))
    configuration.timeout = .init(connect: .seconds(10), read: .seconds(20))
    configuration.httpVersion = .http1Only
    let client = HTTPClient(configuration: configuration)
    do {
        var request = HTTPClientRequest(url: "https://localhost:\(ingest.port)\(path)")
        request.method = method
        for (name, value) in headers { request.headers.add(name: name, value: value) }
        request.body = .bytes(body)
        let response = try await client.execute(request, timeout: .seconds(20))
        let text = String(buffer: try await response.body.collect(upTo: 1 << 20))
        try await client.shutdown()
        return Reply(
            status: response.status.code, retryAfter: response.headers.first(name: "Retry-After"), body: text)
    } catch {
        try await client.shutdown()
        throw error
    }
}

/// As a gateway sends it.
func post(
    _ ingest: TestIngest, as role: PeerRole? = TestPKI.plant, batch: ByteBuffer, level: Int32 = 3
) async throws -> Reply {
    try await post(
        ingest, as: role, body: compressed(batch, level: level),
        headers: [("Content-Encoding", "zstd"), ("Sluice-Digest", digest(of: batch))])
}

func digest(of bytes: ByteBuffer) -> String {
    SyncProtocol.digestHeaderValue(SHA256.hash(data: bytes.readableBytesView))
}

func compressed(_ bytes: ByteBuffer, level: Int32 = 3) -> ByteBuffer {
    var target = ByteBuffer()
    target.writeWithUnsafeMutableBytes(minimumWritableBytes: ZSTD_compressBound(bytes.readableBytes)) { target in
        bytes.withUnsafeReadableBytes { source in
            ZSTD_compress(target.baseAddress, target.count, source.baseAddress, source.count, level)
        }
    }
    return target
}

/// Messages of two devices, sequences from 1.
func sampleBatch(gateway: String = "plant-7", messages: Int = 10, payload: Int = 20) -> Batch {
    let clock = FrameClock(
        wallTime: 1_700_000_000_000_000, monotonicTime: 5_000, bootHigh: 1, bootLow: 2, isSynchronised: true)
    let records = (0..<messages).map { index in
        FrameRecord(
            device: index % 2, qos: 1, offset: Int64(index), topic: ByteBuffer(string: "devices/d/\(index)"),
            payload: ByteBuffer(repeating: UInt8(truncatingIfNeeded: index), count: payload))
    }
    let frame = Frame(
        epoch: Epoch(high: 3, low: 4), firstSequence: 1, clock: clock,
        devices: [FrameDevice(id: "press-1", firstNumber: 1), FrameDevice(id: "press-2", firstNumber: 1)],
        records: records)
    return Batch(
        gateway: gateway,
        accounts: [EpochAccount(epoch: Epoch(high: 3, low: 4), lastSequence: UInt64(messages), isClosed: false)],
        frames: [frame])
}

/// An event log that answers as the test says, and counts.
final class ScriptedLog: EventLog {
    private let error: NIOLockedValueBox<EventLogError?>
    private let appends = NIOLockedValueBox(0)
    private let delay: Duration

    init(_ error: EventLogError? = nil, delay: Duration = .zero) {
        self.error = NIOLockedValueBox(error)
        self.delay = delay
    }

    var count: Int { appends.withLockedValue { $0 } }

    func incarnation() async throws(EventLogError) -> String { "scripted" }
    func partitionCount() async throws(EventLogError) -> Int32 { 1 }
    func bounds() async throws(EventLogError) -> [PartitionBounds] { [] }
    func close() async {}
    func makeReader(group: String, member: String) async throws(EventLogError) -> any EventLogReader {
        throw .other("nobody reads this log")
    }

    func append(_ records: [LogRecord]) async throws(EventLogError) {
        try? await Task.sleep(for: delay)
        if let error = error.withLockedValue({ $0 }) { throw error }
        appends.withLockedValue { $0 += 1 }
    }
}
