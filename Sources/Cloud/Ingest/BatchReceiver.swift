import Crypto
import EventLog
import Logging
import NIOCore
import Operations
import SyncModel

/// From the bytes of a request to a batch that is durable in the event log. It keeps no state: a repeat is appended again,
/// per-message deduplication decides later.
struct BatchReceiver: Sendable {
    let log: any EventLog
    let configuration: IngestConfiguration

    /// What a batch held, for the log line and the metrics.
    struct Received: Sendable, Equatable {
        var messages: Int
        var records: Int
        var bytes: Int
        /// Of the first message, as W3C's `traceparent`.
        var trace: String?
    }

    /// - Parameters:
    ///   - gateway: from the certificate.
    ///   - encoding: the value of Content-Encoding.
    ///   - digest: the value of `SyncProtocol.digestHeader`.
    func receive(
        _ body: ByteBuffer, from gateway: String, encoding: String?, digest: String?
    ) async throws(IngestRefusal) -> Received {
        let bytes = try unpack(body, encoding: encoding)
        try verify(bytes, digest: digest)
        let batch = try decode(bytes)
        guard batch.gateway == gateway else { throw .otherGateway(certificate: gateway, batch: batch.gateway) }
        let messages = batch.frames.reduce(0) { $0 + $1.records.count }
        let entries = batch.logEntries()
        let records = entries.map { entry in
            LogRecord(key: entry.routingKey, value: entry.encoded(), headers: Self.headers(of: entry))
        }
        let trace = entries.lazy.compactMap { Self.headers(of: $0).first?.value }.first
        do {
            try await log.append(records)
        } catch {
            throw Self.refusal(error)
        }
        return Received(messages: messages, records: records.count, bytes: bytes.readableBytes, trace: trace)
    }

    private func unpack(_ body: ByteBuffer, encoding: String?) throws(IngestRefusal) -> ByteBuffer {
        switch encoding {
        case nil, "", "identity":
            return body
        case SyncProtocol.contentEncoding:
            do throws(ZstdDecompression.Failure) {
                return try ZstdDecompression.unpack(body, maximumBytes: configuration.maximumUnpackedBytes)
            } catch {
                throw refusal(error)
            }
        case let other?:
            throw .unsupportedEncoding("Content-Encoding is \(other); zstd and identity are understood")
        }
    }

    private func refusal(_ failure: ZstdDecompression.Failure) -> IngestRefusal {
        switch failure {
        case .tooLarge:
            .tooLarge("the batch is larger than \(configuration.maximumUnpackedBytes) bytes when unpacked")
        case .damaged(let what):
            .malformed("the body is no zstd: \(what)")
        }
    }

    private func verify(_ bytes: ByteBuffer, digest: String?) throws(IngestRefusal) {
        guard let digest else { throw .badRequest("the header \(SyncProtocol.digestHeader) is missing") }
        guard let expected = SyncProtocol.digest(fromHeader: digest) else {
            throw .badRequest("the header \(SyncProtocol.digestHeader) is not sha-256= and 64 hexadecimal digits")
        }
        let found = bytes.withUnsafeReadableBytes { bytes in
            var hasher = SHA256()
            hasher.update(bufferPointer: bytes)
            return Array(hasher.finalize())
        }
        guard found == expected else {
            throw .malformed(
                "the digest does not match: the header says \(digest), the bytes have "
                    + SyncProtocol.digestHeaderValue(found))
        }
    }

    private func decode(_ bytes: ByteBuffer) throws(IngestRefusal) -> Batch {
        do {
            return try Batch.decode(bytes)
        } catch {
            throw .malformed("the batch is malformed: \(error)")
        }
    }

    private static func headers(of entry: LogEntry) -> [LogRecord.Header] {
        guard case .messages(let messages) = entry, let first = messages.messages.first else { return [] }
        return [LogRecord.Header(name: "traceparent", value: first.traceparent(epoch: messages.epoch))]
    }

    private static func refusal(_ error: EventLogError) -> IngestRefusal {
        switch error {
        case .busy(let what): .busy("the event log is busy: \(what)")
        case .recordTooLarge(let bytes): .tooLarge("a message of \(bytes) bytes is larger than the event log takes")
        case .unavailable(let what): .unavailable("the event log is away: \(what)")
        case .closed: .unavailable("the event log is closed")
        case .outOfRange, .other: .unavailable("the event log failed: \(error)")
        }
    }
}
