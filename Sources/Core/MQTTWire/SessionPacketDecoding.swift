import NIOCore

/// The packets of an open session but PUBLISH.
extension PacketReader {
    /// PUBACK, PUBREC, PUBREL and PUBCOMP. 5.0 may leave out the properties, and with them a reason of success (3.4.2.1).
    mutating func acknowledgement(_ version: ProtocolVersion) throws(DecodingError) -> Acknowledgement {
        var result = Acknowledgement(packetID: try packetID())
        guard version == .v5, !isAtEnd else { return result }
        let answersPublish = kind == .puback || kind == .pubrec
        result.reason = try reasonCode { answersPublish ? $0.isAllowedInPubAck : $0.isAllowedInPubRel }
        if !isAtEnd { result.reasonString = try acknowledgementProperties() }
        return result
    }

    /// The reason string. User properties are checked and passed over: nothing acts on them.
    private mutating func acknowledgementProperties() throws(DecodingError) -> String? {
        var reasonString: String?
        try properties(.acknowledgement) { property, block throws(DecodingError) in
            switch property {
            case .reasonString: reasonString = try block.string(property.name)
            case .userProperty: _ = try block.userProperty()
            default: throw block.malformed(property.name, .notAllowed)
            }
        }
        return reasonString
    }

    mutating func subscribe(_ version: ProtocolVersion) throws(DecodingError) -> Subscribe {
        var result = Subscribe(packetID: try packetID(), subscriptions: [])
        if version == .v5 {
            try properties(.subscribe) { property, block throws(DecodingError) in
                switch property {
                case .subscriptionIdentifier: result.subscriptionIdentifier = try block.subscriptionIdentifier()
                case .userProperty: result.userProperties.append(try block.userProperty())
                default: throw block.malformed(property.name, .notAllowed)
                }
            }
        }
        // MQTT-3.8.3-2 (5.0), MQTT-3.8.3-3 (3.1.1)
        guard !isAtEnd else { throw protocolError("list of topic filters", .empty) }
        while !isAtEnd { result.subscriptions.append(try subscription(version)) }
        return result
    }

    private mutating func subscription(_ version: ProtocolVersion) throws(DecodingError) -> Subscription {
        let filter = try topicFilter()
        let options = try byte("subscription options")
        guard options & (version == .v5 ? 0xC0 : 0xFC) == 0 else {
            throw malformed("subscription options", .reservedBits)
        }
        guard let qos = QoS(rawValue: options & 0b11) else {
            throw version == .v5 ? protocolError("requested QoS", .outOfRange) : malformed("requested QoS", .outOfRange)
        }
        guard let retainHandling = RetainHandling(rawValue: (options >> 4) & 0b11) else {
            throw protocolError("retain handling", .outOfRange)
        }
        let noLocal = options & 0b100 != 0
        // MQTT-3.8.3-4
        guard !noLocal || !TopicFilter.isShared(filter) else {
            throw protocolError("no local on a shared subscription", .notAllowed)
        }
        return Subscription(
            filter: filter, qos: qos, noLocal: noLocal, retainAsPublished: options & 0b1000 != 0,
            retainHandling: retainHandling)
    }

    /// Only what makes it a string: where its wildcards may stand is judged by `TopicFilter`.
    private mutating func topicFilter() throws(DecodingError) -> String {
        let filter = try string("topic filter")
        guard !filter.isEmpty else { throw malformed("topic filter", .empty) }
        return filter
    }

    mutating func suback(_ version: ProtocolVersion) throws(DecodingError) -> SubAck {
        var result = SubAck(packetID: try packetID(), reasons: [])
        if version == .v5 { result.reasonString = try acknowledgementProperties() }
        guard !isAtEnd else { throw protocolError("list of reason codes", .empty) }
        while !isAtEnd {
            result.reasons.append(
                try reasonCode { version == .v5 ? $0.isAllowedInSubAck : $0.isReturnCodeOfSubAck })
        }
        return result
    }

    mutating func unsubscribe(_ version: ProtocolVersion) throws(DecodingError) -> Unsubscribe {
        var result = Unsubscribe(packetID: try packetID(), filters: [])
        if version == .v5 {
            try properties(.unsubscribe) { property, block throws(DecodingError) in
                guard property == .userProperty else { throw block.malformed(property.name, .notAllowed) }
                result.userProperties.append(try block.userProperty())
            }
        }
        guard !isAtEnd else { throw protocolError("list of topic filters", .empty) }
        while !isAtEnd { result.filters.append(try topicFilter()) }
        return result
    }

    mutating func unsuback(_ version: ProtocolVersion) throws(DecodingError) -> UnsubAck {
        var result = UnsubAck(packetID: try packetID(), reasons: [])
        guard version == .v5 else { return result }
        result.reasonString = try acknowledgementProperties()
        guard !isAtEnd else { throw protocolError("list of reason codes", .empty) }
        while !isAtEnd { result.reasons.append(try reasonCode(\.isAllowedInUnsubAck)) }
        return result
    }

    mutating func disconnect(_ version: ProtocolVersion) throws(DecodingError) -> Disconnect {
        var result = Disconnect()
        guard version == .v5, !isAtEnd else { return result }
        result.reason = try reasonCode(\.isAllowedInDisconnect)
        guard !isAtEnd else { return result }
        try properties(.disconnect) { property, block throws(DecodingError) in
            switch property {
            case .sessionExpiry: result.sessionExpiryInterval = try block.uint32(property.name)
            case .reasonString: result.reasonString = try block.string(property.name)
            case .serverReference: result.serverReference = try block.string(property.name)
            case .userProperty: result.userProperties.append(try block.userProperty())
            default: throw block.malformed(property.name, .notAllowed)
            }
        }
        return result
    }

    mutating func auth() throws(DecodingError) -> Auth {
        guard !isAtEnd else { return Auth(reason: .success) }
        var result = Auth(reason: try reasonCode(\.isAllowedInAuth))
        guard !isAtEnd else { return result }
        try properties(.auth) { property, block throws(DecodingError) in
            switch property {
            case .authenticationMethod: result.authenticationMethod = try block.string(property.name)
            case .authenticationData: result.authenticationData = try block.binary(property.name)
            case .reasonString: result.reasonString = try block.string(property.name)
            case .userProperty: result.userProperties.append(try block.userProperty())
            default: throw block.malformed(property.name, .notAllowed)
            }
        }
        return result
    }
}
