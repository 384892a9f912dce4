import EventLog
import FoundationEssentials
import HTTPTypes
import Hummingbird
import HummingbirdCore
import NIOCore
import PKI
import SyncModel

/// How a request ends; `docs/sync-protocol.md` lists the statuses.
struct IngestAnswer: Error, Sendable {
    var status: HTTPResponse.Status
    /// Empty for 200.
    var reason = ""
    /// Where in a malformed batch, as `SyncDecodingError` has it.
    var path: String?
    var offset: Int?
    /// Seconds.
    var retryAfter: Int?
    /// What was reached, where the gateway is told to come again for that.
    var limit: IngestLimit?
    /// Of the batch, where it is known better than its request says.
    var lane: Lane?

    static let stored = IngestAnswer(status: .ok)

    private struct Body: Encodable {
        var reason: String
        var path: String?
        var offset: Int?
    }

    /// - Parameter closes: the request's body was not read to its end, so the connection cannot go on.
    func response(closes: Bool) -> Response {
        var headers = HTTPFields()
        if let retryAfter { headers[.retryAfter] = "\(retryAfter)" }
        if closes { headers[.connection] = "close" }
        guard !reason.isEmpty else { return Response(status: status, headers: headers) }
        headers[.contentType] = "application/json"
        let json = (try? JSONEncoder().encode(Body(reason: reason, path: path, offset: offset))) ?? Data()
        return Response(status: status, headers: headers, body: ResponseBody(byteBuffer: ByteBuffer(bytes: json)))
    }
}

extension IngestAnswer {
    init(_ refusal: IngestBudget.Refusal) {
        let what = refusal.lane == .backlog ? "batches of backlog" : "batches"
        let reason =
            switch refusal.limit {
            case .inFlight: "too many \(what) are in work"
            case .gatewayInFlight: "too many \(what) of this gateway are in work"
            case .rate: "\(what) bring more messages a second than they may"
            case .gatewayRate: "\(what) of this gateway bring more messages a second than they may"
            case .bytes, .logBusy: "too much is in work"
            }
        self.init(
            status: .tooManyRequests, reason: reason, retryAfter: refusal.retryAfter, limit: refusal.limit,
            lane: refusal.lane)
    }

    init(_ refusal: CertificateRefusal) {
        self.init(status: refusal == .noCertificate ? .unauthorized : .forbidden, reason: refusal.description)
    }

    init(_ error: BodyError) {
        switch error {
        case .sentTooLarge(let limit):
            self.init(status: .contentTooLarge, reason: "the body is larger than \(limit) bytes; send smaller batches")
        case .unpackedTooLarge(let limit):
            self.init(
                status: .contentTooLarge,
                reason: "the body is larger than \(limit) bytes when unpacked; send smaller batches")
        case .overBudget:
            self.init(status: .tooManyRequests, reason: "too many bytes are in work", retryAfter: 2, limit: .bytes)
        case .notZstd(let what): self.init(status: .badRequest, reason: "the body is no zstd frame: \(what)")
        case .trailingBytes:
            self.init(status: .badRequest, reason: "bytes follow the zstd frame; one frame holds the whole batch")
        case .incomplete: self.init(status: .badRequest, reason: "the body ends within its zstd frame")
        case .outOfMemory:
            self.init(status: .serviceUnavailable, reason: "no memory to unpack the body", retryAfter: 10)
        }
    }

    init(_ error: SyncDecodingError) {
        self.init(
            status: .unprocessableContent, reason: error.reason.explanation, path: error.path, offset: error.offset)
    }

    init(_ error: EventLogError) {
        switch error {
        case .busy(let why):
            self.init(
                status: .tooManyRequests, reason: "the event log is busy: \(why)", retryAfter: 2, limit: .logBusy)
        case .recordTooLarge(let bytes):
            self.init(
                status: .contentTooLarge,
                reason: "a message becomes a record of \(bytes) bytes, which the event log does not take")
        case .unavailable(let why), .other(let why):
            self.init(status: .serviceUnavailable, reason: "the event log does not answer: \(why)", retryAfter: 5)
        case .closed: self.init(status: .serviceUnavailable, reason: "the cloud is ending", retryAfter: 5)
        case .outOfRange:
            self.init(status: .serviceUnavailable, reason: "the event log is not usable", retryAfter: 5)
        }
    }
}
