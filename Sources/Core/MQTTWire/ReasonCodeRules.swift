/// Which reason code may stand in which packet (MQTT 5.0, table 2-6 and the tables of each packet).
extension ReasonCode {
    var isAllowedInConnAck: Bool {
        switch rawValue {
        case 0x00, 0x80...0x8A, 0x8C, 0x90, 0x95, 0x97, 0x99...0x9D, 0x9F: true
        default: false
        }
    }

    /// PUBACK and PUBREC.
    var isAllowedInPubAck: Bool {
        switch rawValue {
        case 0x00, 0x10, 0x80, 0x83, 0x87, 0x90, 0x91, 0x97, 0x99: true
        default: false
        }
    }

    /// PUBREL and PUBCOMP.
    var isAllowedInPubRel: Bool { self == .success || self == .packetIdentifierNotFound }

    var isAllowedInSubAck: Bool {
        switch rawValue {
        case 0x00...0x02, 0x80, 0x83, 0x87, 0x8F, 0x91, 0x97, 0x9E, 0xA1, 0xA2: true
        default: false
        }
    }

    /// SUBACK of 3.1.1 (3.9.3).
    var isReturnCodeOfSubAck: Bool { rawValue <= 0x02 || rawValue == 0x80 }

    var isAllowedInUnsubAck: Bool {
        switch rawValue {
        case 0x00, 0x11, 0x80, 0x83, 0x87, 0x8F, 0x91: true
        default: false
        }
    }

    var isAllowedInDisconnect: Bool {
        switch rawValue {
        case 0x00, 0x04, 0x80...0x83, 0x87, 0x89, 0x8B, 0x8D...0x90, 0x93...0xA2: true
        default: false
        }
    }

    var isAllowedInAuth: Bool { self == .success || self == .continueAuthentication || self == .reAuthenticate }

    /// From the return code of a CONNACK of 3.1.1 (table 3.1).
    init?(returnCode: UInt8) {
        switch returnCode {
        case 0: self = .success
        case 1: self = .unsupportedProtocolVersion
        case 2: self = .clientIdentifierNotValid
        case 3: self = .serverUnavailable
        case 4: self = .badUserNameOrPassword
        case 5: self = .notAuthorized
        default: return nil
        }
    }

    /// The return code of 3.1.1 that comes nearest; what has no counterpart is "server unavailable".
    var returnCode: UInt8 {
        switch self {
        case .success: 0
        case .unsupportedProtocolVersion: 1
        case .clientIdentifierNotValid: 2
        case .badUserNameOrPassword, .badAuthenticationMethod: 4
        case .notAuthorized, .banned: 5
        default: 3
        }
    }
}
