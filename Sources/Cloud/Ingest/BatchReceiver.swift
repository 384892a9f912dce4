import EventLog
import HTTPTypes
import Hummingbird
import HummingbirdCore
import NIOCore
import Operations
import PKI
import SyncModel

/// What a batch amounts to, for the log line and the metrics.
struct ReceivedBatch: Sendable {
    var messages = 0
    var records = 0
    /// Unpacked.
    var bytes = 0
    /// The `traceparent` of its first message.
    var trace: String?
}

/// From a request's head and body to records that the event log has durably. Keeps nothing: a batch that comes again is
/// appended again, and the deduplication of messages decides.
struct BatchReceiver: Sendable {
    static let traceHeader = "traceparent"
    /// Seconds until a gateway comes again where somebody has to put something right first.
    private static let waitForOperator = 30

    let configuration: IngestConfiguration
    let log: any EventLog
    let gate: InFlightGate
    let watch: DeviceWatch

    /// What the head of a request promises of its body.
    struct Head: Sendable {
        var isCompressed: Bool
        var digest: [UInt8]
    }

    /// The lane that a request says its batch to be of, so that it can be refused before its body is read.
    static func lane(_ headers: HTTPFields) -> Lane {
        HTTPField.Name(SyncProtocol.laneHeader).flatMap { headers[$0] } == SyncProtocol.backlogLane ? .backlog : .live
    }

    func enter(_ gateway: String, _ lane: Lane) throws(IngestAnswer) -> InFlightGate.Pass {
        if let reason = configuration.refusal() {
            throw IngestAnswer(status: .serviceUnavailable, reason: reason, retryAfter: Self.waitForOperator)
        }
        do throws(IngestBudget.Refusal) {
            return try gate.enter(gateway, lane, at: SystemClock.monotonicMicroseconds())
        } catch { throw IngestAnswer(error) }
    }

    /// A batch that is backlog without its request saying so needs a place among the backlogs as well.
    private func admit(_ batch: Batch, _ pass: InFlightGate.Pass) throws(IngestAnswer) -> InFlightGate.Pass {
        let own = pass.lane == batch.lane || batch.lane == .live ? pass : try enter(batch.gateway, batch.lane)
        let messages = batch.frames.reduce(0) { $0 + $1.records.count }
        do throws(IngestBudget.Refusal) {
            try gate.admit(messages, of: batch.gateway, batch.lane, at: SystemClock.monotonicMicroseconds())
        } catch { throw IngestAnswer(error) }
        return own
    }

    func head(_ headers: HTTPFields) throws(IngestAnswer) -> Head {
        if let length = headers[.contentLength].flatMap({ Int($0) }), length > configuration.maximumSentBytes {
            throw IngestAnswer(BodyError.sentTooLarge(limit: configuration.maximumSentBytes))
        }
        let isCompressed: Bool
        switch headers[.contentEncoding]?.lowercased() {
        case SyncProtocol.contentEncoding: isCompressed = true
        case nil, "identity": isCompressed = false
        case .some(let other):
            throw IngestAnswer(
                status: .badRequest,
                reason:
                    "Content-Encoding is \"\(other.printable)\"; allowed are \(SyncProtocol.contentEncoding) and identity"
            )
        }
        guard let value = HTTPField.Name(SyncProtocol.digestHeader).flatMap({ headers[$0] }),
            let digest = SyncProtocol.digest(fromHeader: value)
        else {
            throw IngestAnswer(
                status: .badRequest,
                reason: "the header \(SyncProtocol.digestHeader) is missing or malformed: it must be "
                    + "\(SyncProtocol.digestPrefix) and 64 lower-case hexadecimal digits over the uncompressed body")
        }
        return Head(isCompressed: isCompressed, digest: digest)
    }

    /// Reads the body within `requestTimeout`, else 408.
    func read(
        _ body: RequestBody, _ head: Head, pass: InFlightGate.Pass
    ) async throws(IngestAnswer) -> ByteBuffer {
        let result: Result<ByteBuffer, IngestAnswer> = await withTaskGroup { tasks in
            tasks.addTask { await self.unpack(body, head, pass: pass) }
            tasks.addTask {
                try? await Task.sleep(for: .seconds(configuration.requestTimeout))
                return .failure(
                    IngestAnswer(
                        status: .requestTimeout,
                        reason: "the body did not come within \(configuration.requestTimeout) s"))
            }
            let first = await tasks.next()
            tasks.cancelAll()
            return first ?? .failure(IngestAnswer(status: .internalServerError, reason: "no part of the request ended"))
        }
        return try result.get()
    }

    private func unpack(
        _ body: RequestBody, _ head: Head, pass: InFlightGate.Pass
    ) async -> Result<ByteBuffer, IngestAnswer> {
        do {
            var unpacked = try BatchBody(
                isCompressed: head.isCompressed, maximumSentBytes: configuration.maximumSentBytes,
                maximumUnpackedBytes: configuration.maximumUnpackedBytes, pass: pass)
            for try await chunk in body { try unpacked.add(chunk) }
            let (bytes, digest) = try unpacked.finish()
            guard digest == head.digest else {
                return .failure(
                    IngestAnswer(
                        status: .unprocessableContent,
                        reason: "the digest over the uncompressed body is "
                            + "\(SyncProtocol.digestHeaderValue(digest)), not what \(SyncProtocol.digestHeader) says"))
            }
            return .success(bytes)
        } catch let error as BodyError {
            return .failure(IngestAnswer(error))
        } catch {
            return .failure(IngestAnswer(status: .badRequest, reason: "the body could not be read to its end"))
        }
    }

    /// Returns when the event log has everything durably.
    func store(
        _ bytes: ByteBuffer, of gateway: String, pass: InFlightGate.Pass
    ) async throws(IngestAnswer) -> ReceivedBatch {
        let batch: Batch
        do throws(SyncDecodingError) { batch = try Batch.decode(bytes) } catch { throw IngestAnswer(error) }
        guard batch.gateway == gateway else {
            throw IngestAnswer(
                status: .forbidden,
                reason: "the batch is of the gateway \(batch.gateway.printable), the certificate of \(gateway)")
        }
        let place = try admit(batch, pass)
        defer { withExtendedLifetime(place) {} }
        var received = ReceivedBatch()
        let records = batch.logEntries().map { Self.record($0, counting: &received) }
        received.records = records.count
        received.bytes = bytes.readableBytes
        do throws(EventLogError) { try await log.append(records) } catch { throw IngestAnswer(error) }
        watch.observe(batch)
        return received
    }

    private static func record(_ entry: LogEntry, counting received: inout ReceivedBatch) -> LogRecord {
        guard case .messages(let messages) = entry, let first = messages.messages.first else {
            return LogRecord(key: entry.routingKey, value: entry.encoded())
        }
        let trace = first.traceparent(epoch: messages.epoch)
        received.messages += messages.messages.count
        received.trace = received.trace ?? trace
        return LogRecord(
            key: entry.routingKey, value: entry.encoded(), headers: [.init(name: traceHeader, value: trace)])
    }
}
