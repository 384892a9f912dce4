import MQTTWire

/// Reason strings of MQTT 5.0 (1.5.4, 3.2.2.3.9 and the like): what a person who reads the device's log should know. They
/// name no other client and nothing of the configuration.
extension CloseReason {
    /// `nil` where nobody is told.
    package var reasonString: String? {
        switch self {
        case .clientDisconnected, .networkClosed, .networkError, .notTLS, .handshakeTimeout: nil
        case .connectTimeout: "no CONNECT came in time"
        case .keepAliveTimeout: "nothing came within one and a half times the keep-alive"
        case .malformedPacket: "a packet could not be decoded"
        case .packetTooLarge: "a packet is larger than the maximum packet size told in CONNACK"
        case .protocolError: "a packet is not allowed here, or contradicts itself"
        case .unsupportedProtocolVersion: "this server speaks MQTT 3.1.1 and 5.0"
        case .clientIdentifierInvalid: "the client id is not allowed"
        case .authenticationMethod: "no authentication method is offered: the certificate alone counts"
        case .wrongRole: "the certificate is not a device's"
        case .certificateExpired: "the certificate is not valid now"
        case .certificateRevoked: "the certificate is revoked"
        case .certificateUnknown: "the certificate names no device that is known here"
        case .notAuthorized: "the access rules do not allow it"
        case .sessionTakenOver: "another connection took the client id over"
        case .topicInvalid: "the topic name is not valid, or has too many levels"
        case .topicAliasInvalid: "the topic alias is unknown, or above the maximum told in CONNACK"
        case .receiveMaximumExceeded: "more messages are unacknowledged than the receive maximum told in CONNACK"
        case .quotaExceeded: "a limit of the server is reached"
        case .slowReader: "the client does not read what is sent to it"
        case .rateTooHigh: "the client publishes faster than it is allowed to"
        case .tooManyConnections: "the server has as many connections as it takes"
        case .serverBusy: "the server is overloaded; come back later"
        case .serverShuttingDown: "the server is shutting down"
        }
    }
}

extension RefusalReason {
    /// The code of a negative PUBACK or PUBREC.
    var code: ReasonCode {
        switch self {
        case .notAuthorized: .notAuthorized
        case .payloadFormat: .payloadFormatInvalid
        case .rate, .globalRate, .storageFull, .retainedFull, .heldFull, .will: .quotaExceeded
        }
    }

    var reasonString: String {
        switch self {
        case .notAuthorized: "the access rules do not allow it"
        case .payloadFormat: "the payload is declared as UTF-8 and is not"
        case .rate, .heldFull: "the device publishes faster than it is allowed to"
        case .globalRate: "the gateway takes no more messages a second"
        case .storageFull: "the gateway's buffer is full"
        case .retainedFull: "the gateway keeps no more retained messages"
        case .will: "the will was not allowed"
        }
    }
}
