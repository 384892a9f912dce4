import NIOCore

extension PacketReader {
    /// CONNECT (3.1). The properties, and what the flags demand, in the order of the bytes.
    mutating func connect() throws(DecodingError) -> Connect {
        let version = try protocolVersion()
        let flags = ConnectFlags(rawValue: try byte("connect flags"))
        try check(flags, version)
        var connect = Connect(version: version, clientID: "", cleanStart: flags.contains(.cleanStart))
        connect.keepAlive = try uint16("keep alive")
        if version == .v5 {
            try connectProperties(into: &connect)
        } else if !connect.cleanStart {
            // A session of 3.1.1 without Clean Session does not end by itself.
            connect.sessionExpiryInterval = .max
        }
        connect.clientID = try string("client identifier")
        if flags.contains(.will) { connect.will = try will(flags, version) }
        if flags.contains(.username) { connect.username = try string("user name") }
        if flags.contains(.password) { connect.password = try binary("password") }
        return connect
    }

    private mutating func protocolVersion() throws(DecodingError) -> ProtocolVersion {
        let name = try string("protocol name")
        guard name == "MQTT" || name == "MQIsdp" else { throw malformed("protocol name", .unknown) }
        let level = try byte("protocol level")
        guard name == "MQTT", let version = ProtocolVersion(rawValue: level) else {
            throw .unsupportedProtocolVersion(level: level)
        }
        return version
    }

    private func check(_ flags: ConnectFlags, _ version: ProtocolVersion) throws(DecodingError) {
        guard flags.isDisjoint(with: .reserved) else { throw malformed("connect flags", .reservedBits) }
        if flags.contains(.will) {
            guard flags.willQoS != nil else { throw malformed("will QoS", .outOfRange) }
        } else {
            guard flags.willQoS == .atMostOnce else { throw malformed("will QoS without a will", .notAllowed) }
            guard !flags.contains(.willRetain) else { throw malformed("will retain without a will", .notAllowed) }
        }
        // MQTT 3.1.1, MQTT-3.1.2-22; MQTT 5.0 dropped the rule.
        guard version == .v5 || flags.contains(.username) || !flags.contains(.password) else {
            throw malformed("password without a user name", .notAllowed)
        }
    }

    private mutating func connectProperties(into connect: inout Connect) throws(DecodingError) {
        try properties(.connect) { property, block throws(DecodingError) in
            let name = property.name
            switch property {
            case .sessionExpiry: connect.sessionExpiryInterval = try block.uint32(name)
            case .receiveMaximum: connect.receiveMaximum = try block.nonZero16(name)
            case .maximumPacketSize: connect.maximumPacketSize = try block.nonZero32(name)
            case .topicAliasMaximum: connect.topicAliasMaximum = try block.uint16(name)
            case .requestResponseInformation: connect.requestResponseInformation = try block.bool(name)
            case .requestProblemInformation: connect.requestProblemInformation = try block.bool(name)
            case .userProperty: connect.userProperties.append(try block.userProperty())
            case .authenticationMethod: connect.authenticationMethod = try block.string(name)
            case .authenticationData: connect.authenticationData = try block.binary(name)
            default: throw block.malformed(name, .notAllowed)
            }
        }
        // 3.1.2.11.10
        guard connect.authenticationData == nil || connect.authenticationMethod != nil else {
            throw protocolError("authentication method for the authentication data", .missing)
        }
    }

    private mutating func will(_ flags: ConnectFlags, _ version: ProtocolVersion) throws(DecodingError) -> Will {
        var properties = MessageProperties()
        if version == .v5 { properties = try messageProperties(.will) }
        return Will(
            topic: String(buffer: try topicName("will topic")), payload: try binary("will payload"),
            // Checked with the flags.
            qos: flags.willQoS ?? .atMostOnce, retain: flags.contains(.willRetain),
            delayInterval: properties.willDelay, messageExpiry: properties.messageExpiry,
            applicationProperties: properties.application)
    }

    mutating func nonZero16(_ field: String) throws(DecodingError) -> UInt16 {
        let value = try uint16(field)
        guard value != 0 else { throw protocolError(field, .zero) }
        return value
    }

    mutating func nonZero32(_ field: String) throws(DecodingError) -> UInt32 {
        let value = try uint32(field)
        guard value != 0 else { throw protocolError(field, .zero) }
        return value
    }
}

/// Byte 8 of CONNECT's variable header (3.1.2.3).
struct ConnectFlags: OptionSet {
    var rawValue: UInt8

    static let reserved = ConnectFlags(rawValue: 0x01)
    static let cleanStart = ConnectFlags(rawValue: 0x02)
    static let will = ConnectFlags(rawValue: 0x04)
    static let willRetain = ConnectFlags(rawValue: 0x20)
    static let password = ConnectFlags(rawValue: 0x40)
    static let username = ConnectFlags(rawValue: 0x80)

    /// `nil` for the forbidden value 3.
    var willQoS: QoS? { QoS(rawValue: (rawValue >> 3) & 0b11) }

    mutating func set(willQoS: QoS) { rawValue |= willQoS.rawValue << 3 }
}
