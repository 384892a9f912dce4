import NIOCore

extension PacketReader {
    mutating func connack(_ version: ProtocolVersion) throws(DecodingError) -> ConnAck {
        let flags = try byte("connect acknowledge flags")
        guard flags & 0xFE == 0 else { throw malformed("connect acknowledge flags", .reservedBits) }
        let reason: ReasonCode
        if version == .v5 {
            reason = try reasonCode(\.isAllowedInConnAck)
        } else {
            guard let known = ReasonCode(returnCode: try byte("return code")) else {
                throw protocolError("return code", .notAllowed)
            }
            reason = known
        }
        var connack = ConnAck(sessionPresent: flags == 1, reason: reason)
        // MQTT-3.2.2-4 of 3.1.1, MQTT-3.2.2-6 of 5.0
        guard !connack.sessionPresent || !reason.isFailure else {
            throw protocolError("session present with a failure", .notAllowed)
        }
        if version == .v5 { try connackProperties(into: &connack) }
        return connack
    }

    private mutating func connackProperties(into connack: inout ConnAck) throws(DecodingError) {
        try properties(.connack) { property, block throws(DecodingError) in
            let name = property.name
            switch property {
            case .sessionExpiry: connack.sessionExpiryInterval = try block.uint32(name)
            case .receiveMaximum: connack.receiveMaximum = try block.nonZero16(name)
            case .maximumQoS: connack.maximumQoS = try block.bool(name) ? .atLeastOnce : .atMostOnce
            case .retainAvailable: connack.retainAvailable = try block.bool(name)
            case .maximumPacketSize: connack.maximumPacketSize = try block.nonZero32(name)
            case .assignedClientID: connack.assignedClientID = try block.string(name)
            case .topicAliasMaximum: connack.topicAliasMaximum = try block.uint16(name)
            case .reasonString: connack.reasonString = try block.string(name)
            case .userProperty: connack.userProperties.append(try block.userProperty())
            case .wildcardSubscriptionAvailable: connack.wildcardSubscriptionAvailable = try block.bool(name)
            case .subscriptionIdentifiersAvailable: connack.subscriptionIdentifiersAvailable = try block.bool(name)
            case .sharedSubscriptionAvailable: connack.sharedSubscriptionAvailable = try block.bool(name)
            case .serverKeepAlive: connack.serverKeepAlive = try block.uint16(name)
            case .responseInformation: connack.responseInformation = try block.string(name)
            case .serverReference: connack.serverReference = try block.string(name)
            case .authenticationMethod: connack.authenticationMethod = try block.string(name)
            case .authenticationData: connack.authenticationData = try block.binary(name)
            default: throw block.malformed(name, .notAllowed)
            }
        }
    }
}
