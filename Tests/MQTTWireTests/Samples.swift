import Flow
import MQTTWire
import NIOCore

/// A packet, its version, and the bytes that the standard gives it.
struct Sample: Sendable, CustomStringConvertible {
    let name: String
    let version: ProtocolVersion
    let packet: Packet
    let bytes: [UInt8]

    init(_ name: String, _ version: ProtocolVersion, _ packet: Packet, _ bytes: [UInt8]) {
        self.name = name
        self.version = version
        self.packet = packet
        self.bytes = bytes
    }

    var description: String { "\(name) (\(version))" }

    /// A decoder that is ready for this packet: before CONNECT no version is known.
    var decoder: PacketDecoder {
        var decoder = PacketDecoder(maximumPacketSize: 1 << 20)
        if case .connect = packet { return decoder }
        decoder.version = version
        return decoder
    }
}

func text(_ string: String) -> [UInt8] {
    [UInt8(string.utf8.count >> 8), UInt8(string.utf8.count & 0xFF)] + string.utf8
}

func bytes(_ string: String) -> ByteBuffer { ByteBuffer(string: string) }

private func make<Value>(_ value: Value, _ change: (inout Value) -> Void) -> Value {
    var value = value
    change(&value)
    return value
}

private let applicationProperties: [UInt8] =
    [0x01, 1, 0x03] + text("json") + [0x08] + text("r/t") + [0x09, 0, 2, 0xFF, 0] + [0x26] + text("k") + text("v")
    + [0x26] + text("k") + text("w")

enum Samples {
    static let all = connects + connacks + publishes + acknowledgements + subscriptions + rest

    static let connects: [Sample] = [
        Sample(
            "least", .v311, .connect(Connect(version: .v311, clientID: "c", keepAlive: 60)),
            [0x10, 13] + text("MQTT") + [4, 0x02, 0, 60] + text("c")),
        Sample(
            "everything", .v311,
            .connect(
                Connect(
                    version: .v311, clientID: "c", cleanStart: false, keepAlive: 0xFFFF,
                    will: Will(topic: "w", payload: bytes("bye"), qos: .exactlyOnce, retain: true), username: "ü",
                    password: ByteBuffer(bytes: [0, 255]), sessionExpiryInterval: .max)),
            [0x10, 29] + text("MQTT") + [4, 0xF4, 0xFF, 0xFF] + text("c") + text("w") + text("bye") + text("ü")
                + [0, 2, 0, 255]),
        Sample(
            "least", .v5, .connect(Connect(version: .v5, clientID: "")),
            [0x10, 13] + text("MQTT") + [5, 0x02, 0, 0, 0, 0, 0]),
        Sample(
            "everything", .v5,
            .connect(
                Connect(
                    version: .v5, clientID: "c", cleanStart: true, keepAlive: 10,
                    will: Will(
                        topic: "w", payload: ByteBuffer(), qos: .atLeastOnce, delayInterval: 5, messageExpiry: 6,
                        applicationProperties: ByteBuffer(bytes: [0x01, 1, 0x26] + text("a") + text("b"))),
                    username: "u", password: bytes("p"), sessionExpiryInterval: 7, receiveMaximum: 8,
                    maximumPacketSize: 9, topicAliasMaximum: 10, requestResponseInformation: true,
                    requestProblemInformation: false, userProperties: [UserProperty(name: "n", value: "v")],
                    authenticationMethod: "m", authenticationData: bytes("d"))),
            [0x10, 80] + text("MQTT") + [5, 0xCE, 0, 10]
                + [35, 0x11, 0, 0, 0, 7, 0x21, 0, 8, 0x27, 0, 0, 0, 9, 0x22, 0, 10, 0x19, 1, 0x17, 0]
                + [0x26] + text("n") + text("v") + [0x15] + text("m") + [0x16] + text("d")
                + text("c")
                + [19, 0x18, 0, 0, 0, 5, 0x02, 0, 0, 0, 6, 0x01, 1, 0x26] + text("a") + text("b")
                + text("w") + [0, 0] + text("u") + text("p")),
    ]

    static let connacks: [Sample] = [
        Sample("present", .v311, .connack(ConnAck(sessionPresent: true, reason: .success)), [0x20, 2, 1, 0]),
        Sample("refused", .v311, .connack(ConnAck(reason: .notAuthorized)), [0x20, 2, 0, 5]),
        Sample("least", .v5, .connack(ConnAck(reason: .success)), [0x20, 3, 0, 0, 0]),
        Sample(
            "everything", .v5,
            .connack(
                make(ConnAck(sessionPresent: true, reason: .success)) {
                    $0.sessionExpiryInterval = 1
                    $0.receiveMaximum = 2
                    $0.maximumQoS = .atLeastOnce
                    $0.retainAvailable = false
                    $0.maximumPacketSize = 3
                    $0.assignedClientID = "id"
                    $0.topicAliasMaximum = 4
                    $0.reasonString = "why"
                    $0.userProperties = [UserProperty(name: "a", value: ""), UserProperty(name: "a", value: "b")]
                    $0.wildcardSubscriptionAvailable = true
                    $0.subscriptionIdentifiersAvailable = false
                    $0.sharedSubscriptionAvailable = true
                    $0.serverKeepAlive = 5
                    $0.responseInformation = "ri"
                    $0.serverReference = "sr"
                    $0.authenticationMethod = "m"
                    $0.authenticationData = bytes("d")
                }),
            [0x20, 74, 1, 0, 71, 0x11, 0, 0, 0, 1, 0x21, 0, 2, 0x24, 1, 0x25, 0, 0x27, 0, 0, 0, 3, 0x12] + text("id")
                + [0x22, 0, 4, 0x28, 1, 0x29, 0, 0x2A, 1, 0x13, 0, 5, 0x1A] + text("ri") + [0x1C] + text("sr")
                + [0x15] + text("m") + [0x16] + text("d") + [0x1F] + text("why")
                + [0x26] + text("a") + text("") + [0x26] + text("a") + text("b")),
    ]

    static let publishes: [Sample] = [
        Sample(
            "QoS 0", .v311, .publish(Publish(topic: bytes("a/b"), payload: bytes("hi"))),
            [0x30, 7] + text("a/b") + Array("hi".utf8)),
        Sample(
            "QoS 1, flags", .v311,
            .publish(
                Publish(
                    topic: bytes("ä"), payload: ByteBuffer(), packetID: 0x1234, qos: .atLeastOnce, retain: true,
                    duplicate: true)),
            [0x3B, 6] + text("ä") + [0x12, 0x34]),
        Sample(
            "QoS 2", .v5,
            .publish(Publish(topic: bytes("a"), payload: bytes("x"), packetID: 65_535, qos: .exactlyOnce)),
            [0x34, 7] + text("a") + [0xFF, 0xFF, 0, 0x78]),
        Sample(
            "alias only", .v5, .publish(Publish(topic: ByteBuffer(), payload: bytes("x"), topicAlias: 3)),
            [0x30, 7, 0, 0, 3, 0x23, 0, 3, 0x78]),
        Sample(
            "everything", .v5,
            .publish(
                Publish(
                    topic: bytes("topic"), payload: bytes("payload"), packetID: 1, qos: .atLeastOnce, topicAlias: 2,
                    messageExpiry: 3, subscriptionIdentifiers: [1, 128, 268_435_455],
                    applicationProperties: ByteBuffer(bytes: applicationProperties))),
            [0x32, UInt8(16 + 1 + 18 + applicationProperties.count)] + text("topic") + [0, 1]
                + [UInt8(18 + applicationProperties.count)]
                + [0x0B, 1, 0x0B, 0x80, 1, 0x0B, 0xFF, 0xFF, 0xFF, 0x7F, 0x23, 0, 2, 0x02, 0, 0, 0, 3]
                + applicationProperties + Array("payload".utf8)),
    ]

    static let acknowledgements: [Sample] =
        [ProtocolVersion.v311, .v5].flatMap { version in
            [
                Sample("PUBACK", version, .puback(Acknowledgement(packetID: 1)), [0x40, 2, 0, 1]),
                Sample("PUBREC", version, .pubrec(Acknowledgement(packetID: 2)), [0x50, 2, 0, 2]),
                Sample("PUBREL", version, .pubrel(Acknowledgement(packetID: 3)), [0x62, 2, 0, 3]),
                Sample("PUBCOMP", version, .pubcomp(Acknowledgement(packetID: 65_535)), [0x70, 2, 255, 255]),
            ]
        } + [
            Sample(
                "PUBACK refused", .v5, .puback(Acknowledgement(packetID: 1, reason: .quotaExceeded)),
                [0x40, 3, 0, 1, 0x97]),
            Sample(
                "PUBREC with words", .v5,
                .pubrec(Acknowledgement(packetID: 1, reason: .notAuthorized, reasonString: "no")),
                [0x50, 9, 0, 1, 0x87, 5, 0x1F] + text("no")),
            Sample(
                "PUBREL unknown", .v5,
                .pubrel(Acknowledgement(packetID: 1, reason: .packetIdentifierNotFound)), [0x62, 3, 0, 1, 0x92]),
            Sample(
                "PUBCOMP with words", .v5, .pubcomp(Acknowledgement(packetID: 1, reasonString: "ok")),
                [0x70, 9, 0, 1, 0, 5, 0x1F] + text("ok")),
        ]

    static let subscriptions: [Sample] = [
        Sample(
            "SUBSCRIBE", .v311,
            .subscribe(
                Subscribe(
                    packetID: 10,
                    subscriptions: [
                        Subscription(filter: "a/#", qos: .exactlyOnce), Subscription(filter: "+", qos: .atMostOnce),
                    ])),
            [0x82, 12, 0, 10] + text("a/#") + [2] + text("+") + [0]),
        Sample(
            "SUBSCRIBE", .v5,
            .subscribe(
                make(
                    Subscribe(
                        packetID: 10,
                        subscriptions: [
                            Subscription(
                                filter: "a", qos: .atLeastOnce, noLocal: true, retainAsPublished: true,
                                retainHandling: .doNotSend),
                            Subscription(filter: "$share/g/a", qos: .atMostOnce, retainHandling: .sendIfNew),
                        ], subscriptionIdentifier: 268_435_455)
                ) { $0.userProperties = [UserProperty(name: "a", value: "b")] }),
            [0x82, 32, 0, 10, 12, 0x0B, 0xFF, 0xFF, 0xFF, 0x7F, 0x26] + text("a") + text("b") + text("a") + [0x2D]
                + text("$share/g/a") + [0x10]),
        Sample(
            "SUBACK", .v311, .suback(SubAck(packetID: 1, reasons: [.success, .grantedQoS2, .unspecifiedError])),
            [0x90, 5, 0, 1, 0, 2, 0x80]),
        Sample(
            "SUBACK", .v5, .suback(SubAck(packetID: 1, reasons: [.grantedQoS1, .notAuthorized], reasonString: "r")),
            [0x90, 9, 0, 1, 4, 0x1F, 0, 1, 0x72, 1, 0x87]),
        Sample(
            "UNSUBSCRIBE", .v311, .unsubscribe(Unsubscribe(packetID: 1, filters: ["a", "b"])),
            [0xA2, 8, 0, 1] + text("a") + text("b")),
        Sample(
            "UNSUBSCRIBE", .v5,
            .unsubscribe(
                make(Unsubscribe(packetID: 1, filters: ["a"])) {
                    $0.userProperties = [UserProperty(name: "", value: "")]
                }),
            [0xA2, 11, 0, 1, 5, 0x26, 0, 0, 0, 0] + text("a")),
        Sample("UNSUBACK", .v311, .unsuback(UnsubAck(packetID: 1, reasons: [])), [0xB0, 2, 0, 1]),
        Sample(
            "UNSUBACK", .v5, .unsuback(UnsubAck(packetID: 1, reasons: [.success, .noSubscriptionExisted])),
            [0xB0, 5, 0, 1, 0, 0, 0x11]),
    ]

    static let rest: [Sample] = [
        Sample("PINGREQ", .v311, .pingreq, [0xC0, 0]),
        Sample("PINGRESP", .v5, .pingresp, [0xD0, 0]),
        Sample("DISCONNECT", .v311, .disconnect(Disconnect()), [0xE0, 0]),
        Sample("DISCONNECT", .v5, .disconnect(Disconnect()), [0xE0, 0]),
        Sample("DISCONNECT with a will", .v5, .disconnect(Disconnect(reason: .disconnectWithWill)), [0xE0, 1, 4]),
        Sample(
            "DISCONNECT with everything", .v5,
            .disconnect(
                make(Disconnect(reason: .serverMoved, sessionExpiryInterval: 1, reasonString: "r")) {
                    $0.serverReference = "s"
                    $0.userProperties = [UserProperty(name: "a", value: "b")]
                }),
            [0xE0, 22, 0x9D, 20, 0x11, 0, 0, 0, 1, 0x1C, 0, 1, 0x73, 0x1F, 0, 1, 0x72, 0x26] + text("a") + text("b")),
        Sample("AUTH", .v5, .auth(Auth(reason: .success)), [0xF0, 0]),
        Sample("AUTH, reason only", .v5, .auth(Auth(reason: .reAuthenticate)), [0xF0, 1, 0x19]),
        Sample(
            "AUTH with everything", .v5,
            .auth(
                make(Auth(reason: .continueAuthentication)) {
                    $0.authenticationMethod = "m"
                    $0.authenticationData = bytes("d")
                    $0.reasonString = "r"
                    $0.userProperties = [UserProperty(name: "a", value: "b")]
                }),
            [0xF0, 21, 0x18, 19, 0x15] + text("m") + [0x16] + text("d") + [0x1F] + text("r")
                + [0x26] + text("a") + text("b")),
    ]
}
