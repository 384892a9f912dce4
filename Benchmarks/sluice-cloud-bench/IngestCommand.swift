import ArgumentParser
import AsyncHTTPClient
import CZstd
import Crypto
import EventLog
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

/// The sync endpoint and gateways that post as fast as they are answered. Batches are packed before, so that the gateways'
/// share of the machine is TLS and HTTP alone.
struct IngestCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "ingest", abstract: "Post batches over HTTPS with mutual TLS, and count what the log has durably.")

    @Option(help: "Folder of certificates as made by `sluice pki`, with the gateways bench-0 to bench-19.") var pki:
        String
    @Option(help: "Name of the server's certificate.") var server = "cloud"
    @Option(help: "File of an embedded event log that is made.") var log: String?
    @Option(help: "Brokers of a Kafka with a topic sensor-data.") var brokers: String?
    @Option(help: "Gateways that post at a time, 1 to 20.") var gateways = 8
    @Option(help: "Messages of a batch.") var batch = 5_000
    @Option(help: "Seconds to measure.") var seconds = 5.0
    @Option(help: "Seconds to run before.") var warmup = 1.0
    @Flag(help: "Print one line of JSON.") var json = false

    func validate() throws {
        guard (log == nil) != (brokers == nil) else { throw ValidationError("Give one of --log and --brokers.") }
        guard (1...20).contains(gateways) else { throw ValidationError("--gateways is 1 to 20.") }
        guard (1...100_000).contains(batch) else { throw ValidationError("--batch is 1 to 100000.") }
        guard seconds > 0, warmup >= 0 else { throw ValidationError("--seconds is above 0, --warmup 0 or more.") }
    }

    private struct Packed: Sendable {
        var gateway: String
        var body: ByteBuffer
        var digest: String
    }

    func run() async throws {
        let log = try openLog()
        let directory = PKIDirectory(pki)
        let role = try PeerRole(.server, id: server)
        var configuration = IngestConfiguration(
            address: "127.0.0.1", port: 0,
            tls: .init(
                certificate: directory.certificate(role), key: directory.key(role),
                clientCA: directory.authorityCertificate, crl: directory.revocationList))
        configuration.maximumInFlight = 64
        var logger = Logger(label: "bench")
        logger.logLevel = .warning
        let service = try IngestService(
            configuration: configuration, log: log, metrics: MetricRegistry(), logger: logger)
        let group = ServiceGroup(configuration: .init(services: [service], logger: logger))
        let running = Task { try await group.run() }
        while service.port == nil { try await Task.sleep(for: .milliseconds(5)) }
        let batches = pack()
        let posted = NIOLockedValueBox(0)
        let clients = try (0..<gateways).map { try client(directory, gateway: "bench-\($0)") }
        let posting = Task {
            try await withThrowingTaskGroup(of: Void.self) { tasks in
                for (index, client) in clients.enumerated() {
                    let own = batches.filter { $0.gateway == "bench-\(index)" }
                    tasks.addTask { try await post(own, with: client, port: service.port ?? 0, counting: posted) }
                }
                try await tasks.waitForAll()
            }
        }
        try await Task.sleep(for: .seconds(warmup))
        let (start, before) = (ContinuousClock.now, posted.withLockedValue { $0 })
        try await Task.sleep(for: .seconds(seconds))
        let count = posted.withLockedValue { $0 } - before
        let elapsed = (ContinuousClock.now - start) / .seconds(1)
        posting.cancel()
        do { try await posting.value } catch is CancellationError {} catch let error as HTTPClientError
            where error == .cancelled
        {}
        for client in clients { try await client.shutdown() }
        await group.triggerGracefulShutdown()
        try await running.value
        await log.close()
        let rate = Int(Double(count) / elapsed)
        print(json ? "{\"messages\":\(count),\"rate\":\(rate)}" : "\(rate) messages a second into the log, durably")
    }

    private func openLog() throws -> any EventLog {
        let logger = Logger(label: "bench")
        if let path = self.log {
            return try EmbeddedEventLog.open(
                path: path, partitions: 32, retention: .seconds(72 * 3_600), logger: logger)
        }
        return try KafkaEventLog.open(KafkaConfiguration(brokers: brokers ?? ""), logger: logger)
    }

    /// Ten batches of each gateway; which messages they are does not matter to the endpoint.
    private func pack() -> [Packed] {
        var workload = Workload(start: SystemClock.wallMicroseconds())
        workload.messages = batch
        return (0..<(workload.gateways * 10)).map { _ in
            let batch = workload.batch()
            let bytes = batch.encoded()
            var packed = ByteBuffer()
            packed.writeWithUnsafeMutableBytes(minimumWritableBytes: ZSTD_compressBound(bytes.readableBytes)) {
                target in
                bytes.withUnsafeReadableBytes { source in
                    ZSTD_compress(target.baseAddress, target.count, source.baseAddress, source.count, 3)
                }
            }
            return Packed(
                gateway: batch.gateway, body: packed,
                digest: SyncProtocol.digestHeaderValue(SHA256.hash(data: bytes.readableBytesView)))
        }
    }

    private func client(_ directory: PKIDirectory, gateway: String) throws -> HTTPClient {
        let role = try PeerRole(.gateway, id: gateway)
        var configuration = HTTPClient.Configuration(
            tlsConfiguration: try TLSProfile.client(
                certificate: directory.certificate(role), key: directory.key(role), ca: directory.authorityCertificate))
        configuration.httpVersion = .http1Only
        return HTTPClient(configuration: configuration)
    }

    private func post(
        _ batches: [Packed], with client: HTTPClient, port: Int, counting posted: NIOLockedValueBox<Int>
    ) async throws {
        var index = 0
        while !Task.isCancelled {
            let packed = batches[index % batches.count]
            index += 1
            var request = HTTPClientRequest(url: "https://localhost:\(port)\(SyncProtocol.path)")
            request.method = .POST
            request.headers.add(name: "Content-Encoding", value: SyncProtocol.contentEncoding)
            request.headers.add(name: SyncProtocol.digestHeader, value: packed.digest)
            request.body = .bytes(packed.body)
            let response = try await client.execute(request, timeout: .seconds(30))
            let text = String(buffer: try await response.body.collect(upTo: 1 << 16))
            guard response.status == .ok else {
                throw Failure(text: "the endpoint answers \(response.status.code): \(text)")
            }
            posted.withLockedValue { $0 += batch }
        }
    }
}
