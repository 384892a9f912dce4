import NIOCore

/// Variable header and payload of each packet but PUBLISH, in the order of the standard.
extension ByteBuffer {
    mutating func writeBody(_ connect: Connect) {
        writeUTF8("MQTT")
        writeInteger(connect.version.rawValue)
        var flags: ConnectFlags = connect.cleanStart ? .cleanStart : []
        if let will = connect.will {
            flags.insert(.will)
            flags.set(willQoS: will.qos)
            if will.retain { flags.insert(.willRetain) }
        }
        if connect.username != nil { flags.insert(.username) }
        if connect.password != nil { flags.insert(.password) }
        writeInteger(flags.rawValue)
        writeInteger(connect.keepAlive)
        if connect.version == .v5 { writeProperties(of: connect) }
        writeUTF8(connect.clientID)
        if let will = connect.will {
            if connect.version == .v5 { writeProperties(of: will) }
            writeUTF8(will.topic)
            writeBinary(will.payload)
        }
        if let username = connect.username { writeUTF8(username) }
        if let password = connect.password { writeBinary(password) }
    }

    private mutating func writeProperties(of connect: Connect) {
        writeProperties { properties in
            if connect.sessionExpiryInterval != 0 { properties.add(.sessionExpiry, connect.sessionExpiryInterval) }
            if connect.receiveMaximum != .max { properties.add(.receiveMaximum, connect.receiveMaximum) }
            properties.add(.maximumPacketSize, connect.maximumPacketSize)
            if connect.topicAliasMaximum != 0 { properties.add(.topicAliasMaximum, connect.topicAliasMaximum) }
            if connect.requestResponseInformation { properties.add(.requestResponseInformation, true) }
            if !connect.requestProblemInformation { properties.add(.requestProblemInformation, false) }
            properties.add(connect.userProperties)
            properties.add(.authenticationMethod, connect.authenticationMethod)
            properties.add(.authenticationData, connect.authenticationData)
        }
    }

    private mutating func writeProperties(of will: Will) {
        writeProperties { properties in
            if will.delayInterval != 0 { properties.add(.willDelay, will.delayInterval) }
            properties.add(.messageExpiry, will.messageExpiry)
            properties.add(encoded: will.applicationProperties)
        }
    }

    mutating func writeBody(_ connack: ConnAck, _ version: ProtocolVersion, _ diagnostics: Bool) {
        writeInteger(UInt8(connack.sessionPresent ? 1 : 0))
        guard version == .v5 else {
            writeInteger(connack.reason.returnCode)
            return
        }
        writeInteger(connack.reason.rawValue)
        writeProperties { properties in
            properties.add(.sessionExpiry, connack.sessionExpiryInterval)
            properties.add(.receiveMaximum, connack.receiveMaximum)
            // 2 is what a client assumes, and may not be sent (3.2.2.3.4).
            if connack.maximumQoS != .exactlyOnce { properties.add(.maximumQoS, connack.maximumQoS?.rawValue) }
            properties.add(.retainAvailable, connack.retainAvailable)
            properties.add(.maximumPacketSize, connack.maximumPacketSize)
            properties.add(.assignedClientID, connack.assignedClientID)
            properties.add(.topicAliasMaximum, connack.topicAliasMaximum)
            properties.add(.wildcardSubscriptionAvailable, connack.wildcardSubscriptionAvailable)
            properties.add(.subscriptionIdentifiersAvailable, connack.subscriptionIdentifiersAvailable)
            properties.add(.sharedSubscriptionAvailable, connack.sharedSubscriptionAvailable)
            properties.add(.serverKeepAlive, connack.serverKeepAlive)
            properties.add(.responseInformation, connack.responseInformation)
            properties.add(.serverReference, connack.serverReference)
            properties.add(.authenticationMethod, connack.authenticationMethod)
            properties.add(.authenticationData, connack.authenticationData)
            if diagnostics {
                properties.add(.reasonString, connack.reasonString)
                properties.add(connack.userProperties)
            }
        }
    }

    mutating func writeBody(_ ack: Acknowledgement, _ version: ProtocolVersion, _ diagnostics: Bool) {
        writeInteger(ack.packetID)
        let reasonString = diagnostics ? ack.reasonString : nil
        guard version == .v5, ack.reason != .success || reasonString != nil else { return }
        var properties = PropertyWriter()
        properties.add(.reasonString, reasonString)
        writeReason(ack.reason, properties)
    }

    mutating func writeBody(_ subscribe: Subscribe, _ version: ProtocolVersion) {
        writeInteger(subscribe.packetID)
        if version == .v5 {
            writeProperties { properties in
                properties.add(subscriptionIdentifier: subscribe.subscriptionIdentifier)
                properties.add(subscribe.userProperties)
            }
        }
        for subscription in subscribe.subscriptions {
            writeUTF8(subscription.filter)
            var options = subscription.qos.rawValue
            if version == .v5 {
                if subscription.noLocal { options |= 0b100 }
                if subscription.retainAsPublished { options |= 0b1000 }
                options |= subscription.retainHandling.rawValue << 4
            }
            writeInteger(options)
        }
    }

    mutating func writeBody(_ suback: SubAck, _ version: ProtocolVersion, _ diagnostics: Bool) {
        writeInteger(suback.packetID)
        if version == .v5 {
            writeProperties { $0.add(.reasonString, diagnostics ? suback.reasonString : nil) }
        }
        for reason in suback.reasons {
            // 3.1.1 knows one failure only (3.9.3).
            writeInteger(version == .v311 && reason.isFailure ? 0x80 : reason.rawValue)
        }
    }

    mutating func writeBody(_ unsubscribe: Unsubscribe, _ version: ProtocolVersion) {
        writeInteger(unsubscribe.packetID)
        if version == .v5 { writeProperties { $0.add(unsubscribe.userProperties) } }
        for filter in unsubscribe.filters { writeUTF8(filter) }
    }

    mutating func writeBody(_ unsuback: UnsubAck, _ version: ProtocolVersion, _ diagnostics: Bool) {
        writeInteger(unsuback.packetID)
        guard version == .v5 else { return }
        writeProperties { $0.add(.reasonString, diagnostics ? unsuback.reasonString : nil) }
        for reason in unsuback.reasons { writeInteger(reason.rawValue) }
    }

    mutating func writeBody(_ disconnect: Disconnect, _ version: ProtocolVersion, _ diagnostics: Bool) {
        guard version == .v5 else { return }
        var properties = PropertyWriter()
        properties.add(.sessionExpiry, disconnect.sessionExpiryInterval)
        properties.add(.serverReference, disconnect.serverReference)
        if diagnostics {
            properties.add(.reasonString, disconnect.reasonString)
            properties.add(disconnect.userProperties)
        }
        writeReason(disconnect.reason, properties)
    }

    mutating func writeBody(_ auth: Auth, _ diagnostics: Bool) {
        var properties = PropertyWriter()
        properties.add(.authenticationMethod, auth.authenticationMethod)
        properties.add(.authenticationData, auth.authenticationData)
        if diagnostics {
            properties.add(.reasonString, auth.reasonString)
            properties.add(auth.userProperties)
        }
        writeReason(auth.reason, properties)
    }

    /// Success without properties is an empty body (3.14.2.1, 3.15.2.1), and no properties need no length.
    private mutating func writeReason(_ reason: ReasonCode, _ properties: PropertyWriter) {
        let length = properties.bytes.readableBytes
        guard reason != .success || length > 0 else { return }
        writeInteger(reason.rawValue)
        guard length > 0 else { return }
        writeVariableByteInteger(length)
        writeImmutableBuffer(properties.bytes)
    }
}
