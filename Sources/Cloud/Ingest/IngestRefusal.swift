import HTTPTypes

/// Why a batch is not taken, as the gateway is told and as the log says it.
enum IngestRefusal: Error, Sendable, Equatable {
    case notAuthorized(String)
    case otherGateway(certificate: String, batch: String)
    case tooLarge(String)
    case unsupportedEncoding(String)
    case badRequest(String)
    /// The batch will never be good: the gateway must not send it again unchanged.
    case malformed(String)
    case busy(String)
    case unavailable(String)

    var status: HTTPResponse.Status {
        switch self {
        case .notAuthorized, .otherGateway: .forbidden
        case .tooLarge: .contentTooLarge
        case .unsupportedEncoding: .unsupportedMediaType
        case .badRequest: .badRequest
        case .malformed: .unprocessableContent
        case .busy: .tooManyRequests
        case .unavailable: .serviceUnavailable
        }
    }

    /// Seconds for `Retry-After`.
    var retryAfter: Int? {
        switch self {
        case .busy: 1
        case .unavailable: 5
        default: nil
        }
    }

    var reason: String {
        switch self {
        case .notAuthorized(let what): what
        case .otherGateway(let certificate, let batch):
            "the certificate is of the gateway \(certificate), the batch is of \(batch)"
        case .tooLarge(let what), .unsupportedEncoding(let what), .badRequest(let what), .malformed(let what),
            .busy(let what), .unavailable(let what):
            what
        }
    }
}
