import MQTTSession
import MQTTWire
import NIOCore
import NIOSSL

/// What went wrong in or under TLS, as a reason and in a person's words.
enum TLSFailure {
    static func closeReason(of error: any Error) -> CloseReason {
        switch error {
        case NIOSSLError.handshakeFailed(let inner):
            let text = "\(inner)"
            if text.contains("WRONG_VERSION_NUMBER") || text.contains("HTTP_REQUEST")
                || text.contains("UNEXPECTED_RECORD") || text.contains("UNEXPECTED_MESSAGE")
            {
                return .notTLS
            }
            if text.contains("eofDuringHandshake") || text.contains("EOF during handshake") { return .networkClosed }
            return .certificateUnknown
        default:
            return .networkError
        }
    }

    static func describe(_ error: any Error) -> String {
        switch error {
        case NIOSSLError.handshakeFailed(let inner): "TLS handshake failed: \(inner)"
        case NIOSSLError.uncleanShutdown: "the peer closed the connection without a TLS close_notify"
        default: "\(error)"
        }
    }
}

extension CloseReason {
    init(_ error: DecodingError) {
        switch error.reason {
        case .packetTooLarge: self = .packetTooLarge
        case .protocolError: self = .protocolError
        case .unsupportedProtocolVersion: self = .unsupportedProtocolVersion
        case .topicNameInvalid, .topicFilterInvalid: self = .topicInvalid
        case .topicAliasInvalid: self = .topicAliasInvalid
        default: self = .malformedPacket
        }
    }
}

extension RoutedMessage {
    /// Whole seconds left, at least 1 (MQTT-3.3.2-6); `nil` when it does not expire.
    func remainingExpiry(at gatewayTime: Int64) -> UInt32? {
        guard let expiresAt else { return nil }
        return UInt32(clamping: max(1, (expiresAt - gatewayTime + 999_999) / 1_000_000))
    }
}
