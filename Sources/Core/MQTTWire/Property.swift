import NIOCore

/// Property identifiers of MQTT 5.0, table 2-4.
enum Property: UInt8 {
    case payloadFormat = 0x01
    case messageExpiry = 0x02
    case contentType = 0x03
    case responseTopic = 0x08
    case correlationData = 0x09
    case subscriptionIdentifier = 0x0B
    case sessionExpiry = 0x11
    case assignedClientID = 0x12
    case serverKeepAlive = 0x13
    case authenticationMethod = 0x15
    case authenticationData = 0x16
    case requestProblemInformation = 0x17
    case willDelay = 0x18
    case requestResponseInformation = 0x19
    case responseInformation = 0x1A
    case serverReference = 0x1C
    case reasonString = 0x1F
    case receiveMaximum = 0x21
    case topicAliasMaximum = 0x22
    case topicAlias = 0x23
    case maximumQoS = 0x24
    case retainAvailable = 0x25
    case userProperty = 0x26
    case maximumPacketSize = 0x27
    case wildcardSubscriptionAvailable = 0x28
    case subscriptionIdentifiersAvailable = 0x29
    case sharedSubscriptionAvailable = 0x2A

    var name: String {
        switch self {
        case .payloadFormat: "payload format indicator"
        case .messageExpiry: "message expiry interval"
        case .contentType: "content type"
        case .responseTopic: "response topic"
        case .correlationData: "correlation data"
        case .subscriptionIdentifier: "subscription identifier"
        case .sessionExpiry: "session expiry interval"
        case .assignedClientID: "assigned client identifier"
        case .serverKeepAlive: "server keep alive"
        case .authenticationMethod: "authentication method"
        case .authenticationData: "authentication data"
        case .requestProblemInformation: "request problem information"
        case .willDelay: "will delay interval"
        case .requestResponseInformation: "request response information"
        case .responseInformation: "response information"
        case .serverReference: "server reference"
        case .reasonString: "reason string"
        case .receiveMaximum: "receive maximum"
        case .topicAliasMaximum: "topic alias maximum"
        case .topicAlias: "topic alias"
        case .maximumQoS: "maximum QoS"
        case .retainAvailable: "retain available"
        case .userProperty: "user property"
        case .maximumPacketSize: "maximum packet size"
        case .wildcardSubscriptionAvailable: "wildcard subscription available"
        case .subscriptionIdentifiersAvailable: "subscription identifiers available"
        case .sharedSubscriptionAvailable: "shared subscription available"
        }
    }
}

/// Where a block of properties stands: the packet, or the will inside CONNECT.
struct PropertyContext: OptionSet {
    let rawValue: UInt16

    static let connect = PropertyContext(rawValue: 1 << 0)
    static let connack = PropertyContext(rawValue: 1 << 1)
    static let publish = PropertyContext(rawValue: 1 << 2)
    static let will = PropertyContext(rawValue: 1 << 3)
    /// PUBACK, PUBREC, PUBREL, PUBCOMP, SUBACK and UNSUBACK, which share their properties.
    static let acknowledgement = PropertyContext(rawValue: 1 << 4)
    static let subscribe = PropertyContext(rawValue: 1 << 5)
    static let unsubscribe = PropertyContext(rawValue: 1 << 6)
    static let disconnect = PropertyContext(rawValue: 1 << 7)
    static let auth = PropertyContext(rawValue: 1 << 8)
    static let everywhere = PropertyContext(rawValue: .max)
}

extension Property {
    /// Table 2-4.
    var contexts: PropertyContext {
        switch self {
        case .payloadFormat, .messageExpiry, .contentType, .responseTopic, .correlationData: [.publish, .will]
        case .subscriptionIdentifier: [.publish, .subscribe]
        case .sessionExpiry: [.connect, .connack, .disconnect]
        case .authenticationMethod, .authenticationData: [.connect, .connack, .auth]
        case .requestProblemInformation, .requestResponseInformation: .connect
        case .willDelay: .will
        case .assignedClientID, .serverKeepAlive, .responseInformation, .maximumQoS, .retainAvailable,
            .wildcardSubscriptionAvailable, .subscriptionIdentifiersAvailable, .sharedSubscriptionAvailable:
            .connack
        case .serverReference: [.connack, .disconnect]
        case .reasonString: [.connack, .acknowledgement, .disconnect, .auth]
        case .receiveMaximum, .topicAliasMaximum, .maximumPacketSize: [.connect, .connack]
        case .topicAlias: .publish
        case .userProperty: .everywhere
        }
    }

    /// A server may name several matching subscriptions in PUBLISH (3.3.2.3.8); user properties repeat anywhere.
    func mayRepeat(in context: PropertyContext) -> Bool {
        self == .userProperty || (self == .subscriptionIdentifier && context == .publish)
    }
}

extension PacketReader {
    /// Takes the length of a property block and the block, and hands out each property in turn; `visit` must read its
    /// value. Checks that each is known, allowed in `context` and not repeated (2.2.2.2).
    mutating func properties(
        _ context: PropertyContext,
        _ visit: (Property, inout PacketReader) throws(DecodingError) -> Void
    ) throws(DecodingError) {
        let length = try variableByteInteger("property length")
        guard let slice = bytes.readSlice(length: Int(length)) else { throw malformed("property block", .truncated) }
        var block = PacketReader(kind: kind, bytes: slice)
        var seen: UInt64 = 0
        while !block.isAtEnd {
            let identifier = try block.variableByteInteger("property identifier")
            guard let property = UInt8(exactly: identifier).flatMap(Property.init) else {
                throw malformed("property identifier", .unknown)
            }
            guard property.contexts.contains(context) else { throw malformed(property.name, .notAllowed) }
            // Identifiers are below 64.
            let bit = UInt64(1) << UInt64(property.rawValue)
            guard seen & bit == 0 || property.mayRepeat(in: context) else {
                throw protocolError(property.name, .repeated)
            }
            seen |= bit
            try visit(property, &block)
        }
    }
}
