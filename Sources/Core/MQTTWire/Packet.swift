import NIOCore

/// The protocol level of CONNECT: 4 is MQTT 3.1.1, 5 is MQTT 5.0.
package enum ProtocolVersion: UInt8, Sendable {
    case v311 = 4
    case v5 = 5
}

package enum QoS: UInt8, Sendable, Comparable {
    case atMostOnce = 0
    case atLeastOnce = 1
    case exactlyOnce = 2

    package static func < (a: QoS, b: QoS) -> Bool { a.rawValue < b.rawValue }
}

/// A control packet of MQTT 3.1.1 or 5.0, in either direction.
///
/// Payloads and topics of PUBLISH are slices of the buffer that was read; they hold its storage alive.
package enum Packet: Sendable, Equatable {
    case connect(Connect)
    case connack(ConnAck)
    case publish(Publish)
    case puback(Acknowledgement)
    case pubrec(Acknowledgement)
    case pubrel(Acknowledgement)
    case pubcomp(Acknowledgement)
    case subscribe(Subscribe)
    case suback(SubAck)
    case unsubscribe(Unsubscribe)
    case unsuback(UnsubAck)
    case pingreq
    case pingresp
    case disconnect(Disconnect)
    case auth(Auth)
}

/// An MQTT 5.0 user property; order and repetition are kept (MQTT-3.1.3-10).
package struct UserProperty: Sendable, Equatable {
    package var name: String
    package var value: String

    package init(name: String, value: String) {
        self.name = name
        self.value = value
    }
}

package struct Connect: Sendable, Equatable {
    package var version: ProtocolVersion
    package var clientID: String
    /// Clean Session in 3.1.1.
    package var cleanStart: Bool
    /// Seconds; 0 turns the keep-alive off.
    package var keepAlive: UInt16
    package var will: Will?
    package var username: String?
    package var password: ByteBuffer?
    /// Seconds; 0xFFFF_FFFF never expires. 3.1.1: 0xFFFF_FFFF without Clean Session, else 0.
    package var sessionExpiryInterval: UInt32
    package var receiveMaximum: UInt16
    /// `nil`: no limit was named.
    package var maximumPacketSize: UInt32?
    package var topicAliasMaximum: UInt16
    package var requestResponseInformation: Bool
    package var requestProblemInformation: Bool
    package var userProperties: [UserProperty]
    package var authenticationMethod: String?
    package var authenticationData: ByteBuffer?

    package init(
        version: ProtocolVersion, clientID: String, cleanStart: Bool = true, keepAlive: UInt16 = 0,
        will: Will? = nil, username: String? = nil, password: ByteBuffer? = nil,
        sessionExpiryInterval: UInt32 = 0, receiveMaximum: UInt16 = .max, maximumPacketSize: UInt32? = nil,
        topicAliasMaximum: UInt16 = 0, requestResponseInformation: Bool = false,
        requestProblemInformation: Bool = true, userProperties: [UserProperty] = [],
        authenticationMethod: String? = nil, authenticationData: ByteBuffer? = nil
    ) {
        self.version = version
        self.clientID = clientID
        self.cleanStart = cleanStart
        self.keepAlive = keepAlive
        self.will = will
        self.username = username
        self.password = password
        self.sessionExpiryInterval = sessionExpiryInterval
        self.receiveMaximum = receiveMaximum
        self.maximumPacketSize = maximumPacketSize
        self.topicAliasMaximum = topicAliasMaximum
        self.requestResponseInformation = requestResponseInformation
        self.requestProblemInformation = requestProblemInformation
        self.userProperties = userProperties
        self.authenticationMethod = authenticationMethod
        self.authenticationData = authenticationData
    }
}

package struct Will: Sendable, Equatable {
    package var topic: String
    package var payload: ByteBuffer
    package var qos: QoS
    package var retain: Bool
    /// Seconds.
    package var delayInterval: UInt32
    /// Seconds.
    package var messageExpiry: UInt32?
    /// See `Publish.applicationProperties`.
    package var applicationProperties: ByteBuffer

    package init(
        topic: String, payload: ByteBuffer, qos: QoS = .atMostOnce, retain: Bool = false, delayInterval: UInt32 = 0,
        messageExpiry: UInt32? = nil, applicationProperties: ByteBuffer = ByteBuffer()
    ) {
        self.topic = topic
        self.payload = payload
        self.qos = qos
        self.retain = retain
        self.delayInterval = delayInterval
        self.messageExpiry = messageExpiry
        self.applicationProperties = applicationProperties
    }
}

package struct ConnAck: Sendable, Equatable {
    package var sessionPresent: Bool
    package var reason: ReasonCode
    package var sessionExpiryInterval: UInt32?
    package var receiveMaximum: UInt16?
    package var maximumQoS: QoS?
    package var retainAvailable: Bool?
    package var maximumPacketSize: UInt32?
    package var assignedClientID: String?
    package var topicAliasMaximum: UInt16?
    package var reasonString: String?
    package var userProperties: [UserProperty] = []
    package var wildcardSubscriptionAvailable: Bool?
    package var subscriptionIdentifiersAvailable: Bool?
    package var sharedSubscriptionAvailable: Bool?
    package var serverKeepAlive: UInt16?
    package var responseInformation: String?
    package var serverReference: String?
    package var authenticationMethod: String?
    package var authenticationData: ByteBuffer?

    package init(sessionPresent: Bool = false, reason: ReasonCode) {
        self.sessionPresent = sessionPresent
        self.reason = reason
    }
}

package struct Publish: Sendable, Equatable {
    /// UTF-8, checked by the decoder. Empty only where `topicAlias` names the topic.
    package var topic: ByteBuffer
    package var payload: ByteBuffer
    /// 0 at QoS 0.
    package var packetID: UInt16
    package var qos: QoS
    package var retain: Bool
    package var duplicate: Bool
    /// 0: none.
    package var topicAlias: UInt16
    /// Seconds.
    package var messageExpiry: UInt32?
    package var subscriptionIdentifiers: [UInt32]
    /// The properties that travel on unchanged and in order, encoded as on the wire, without their length: payload format
    /// indicator, content type, response topic, correlation data, user properties (MQTT 5.0, 3.3.2.3).
    package var applicationProperties: ByteBuffer

    package init(
        topic: ByteBuffer, payload: ByteBuffer, packetID: UInt16 = 0, qos: QoS = .atMostOnce, retain: Bool = false,
        duplicate: Bool = false, topicAlias: UInt16 = 0, messageExpiry: UInt32? = nil,
        subscriptionIdentifiers: [UInt32] = [], applicationProperties: ByteBuffer = ByteBuffer()
    ) {
        self.topic = topic
        self.payload = payload
        self.packetID = packetID
        self.qos = qos
        self.retain = retain
        self.duplicate = duplicate
        self.topicAlias = topicAlias
        self.messageExpiry = messageExpiry
        self.subscriptionIdentifiers = subscriptionIdentifiers
        self.applicationProperties = applicationProperties
    }
}

/// PUBACK, PUBREC, PUBREL or PUBCOMP.
package struct Acknowledgement: Sendable, Equatable {
    package var packetID: UInt16
    package var reason: ReasonCode
    package var reasonString: String?

    package init(packetID: UInt16, reason: ReasonCode = .success, reasonString: String? = nil) {
        self.packetID = packetID
        self.reason = reason
        self.reasonString = reasonString
    }
}

package enum RetainHandling: UInt8, Sendable {
    case send = 0
    case sendIfNew = 1
    case doNotSend = 2
}

package struct Subscription: Sendable, Equatable {
    package var filter: String
    package var qos: QoS
    package var noLocal: Bool
    package var retainAsPublished: Bool
    package var retainHandling: RetainHandling

    package init(
        filter: String, qos: QoS, noLocal: Bool = false, retainAsPublished: Bool = false,
        retainHandling: RetainHandling = .send
    ) {
        self.filter = filter
        self.qos = qos
        self.noLocal = noLocal
        self.retainAsPublished = retainAsPublished
        self.retainHandling = retainHandling
    }
}

package struct Subscribe: Sendable, Equatable {
    package var packetID: UInt16
    package var subscriptions: [Subscription]
    package var subscriptionIdentifier: UInt32?
    package var userProperties: [UserProperty] = []

    package init(packetID: UInt16, subscriptions: [Subscription], subscriptionIdentifier: UInt32? = nil) {
        self.packetID = packetID
        self.subscriptions = subscriptions
        self.subscriptionIdentifier = subscriptionIdentifier
    }
}

package struct SubAck: Sendable, Equatable {
    package var packetID: UInt16
    package var reasons: [ReasonCode]
    package var reasonString: String?

    package init(packetID: UInt16, reasons: [ReasonCode], reasonString: String? = nil) {
        self.packetID = packetID
        self.reasons = reasons
        self.reasonString = reasonString
    }
}

package struct Unsubscribe: Sendable, Equatable {
    package var packetID: UInt16
    package var filters: [String]
    package var userProperties: [UserProperty] = []

    package init(packetID: UInt16, filters: [String]) {
        self.packetID = packetID
        self.filters = filters
    }
}

package struct UnsubAck: Sendable, Equatable {
    package var packetID: UInt16
    /// One a filter; not sent in 3.1.1.
    package var reasons: [ReasonCode]
    package var reasonString: String?

    package init(packetID: UInt16, reasons: [ReasonCode], reasonString: String? = nil) {
        self.packetID = packetID
        self.reasons = reasons
        self.reasonString = reasonString
    }
}

package struct Disconnect: Sendable, Equatable {
    package var reason: ReasonCode
    package var sessionExpiryInterval: UInt32?
    package var reasonString: String?
    package var serverReference: String?
    package var userProperties: [UserProperty] = []

    package init(reason: ReasonCode = .success, sessionExpiryInterval: UInt32? = nil, reasonString: String? = nil) {
        self.reason = reason
        self.sessionExpiryInterval = sessionExpiryInterval
        self.reasonString = reasonString
    }
}

package struct Auth: Sendable, Equatable {
    package var reason: ReasonCode
    package var authenticationMethod: String?
    package var authenticationData: ByteBuffer?
    package var reasonString: String?
    package var userProperties: [UserProperty] = []

    package init(reason: ReasonCode) { self.reason = reason }
}
