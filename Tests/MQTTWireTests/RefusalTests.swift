import MQTTWire
import NIOCore
import Testing

/// Bytes that must be refused, and why.
struct Refusal: Sendable, CustomStringConvertible {
    let version: ProtocolVersion?
    let bytes: [UInt8]
    let error: DecodingError

    init(_ version: ProtocolVersion?, _ bytes: [UInt8], _ error: DecodingError) {
        self.version = version
        self.bytes = bytes
        self.error = error
    }

    var description: String { error.description }
}

/// A packet with a body of less than 128 bytes.
private func packet(_ first: UInt8, _ body: [UInt8]) -> [UInt8] { [first, UInt8(body.count)] + body }

private func connect(
    _ level: UInt8, flags: UInt8 = 2, properties: [UInt8] = [], payload: [UInt8] = text("c"), name: String = "MQTT"
) -> [UInt8] {
    let block = level == 5 ? [UInt8(properties.count)] + properties : []
    return packet(0x10, text(name) + [level, flags, 0, 0] + block + payload)
}

private func publish(_ properties: [UInt8], topic: String = "t") -> [UInt8] {
    packet(0x30, text(topic) + [UInt8(properties.count)] + properties)
}

private let truncated = DecodingError.Flaw.truncated

struct RefusalTests {
    private static func check(_ refusal: Refusal) {
        var decoder = PacketDecoder(maximumPacketSize: 1_000)
        decoder.version = refusal.version
        var buffer = ByteBuffer(bytes: refusal.bytes)
        #expect(throws: refusal.error) { try decoder.next(&buffer) }
        #expect(buffer.readableBytes == refusal.bytes.count, "a refused packet stays in the buffer")
        #expect(throws: refusal.error) { try decoder.next(&buffer) }
    }

    @Test(arguments: [
        Refusal(.v311, [0x00, 0], .malformed(.reserved, field: "packet type", .unknown)),
        Refusal(.v311, [0xF0, 0], .malformed(.auth, field: "packet type", .unknown)),
        Refusal(nil, [0xC0, 0], .protocolError(.pingreq, field: "packet before CONNECT", .unexpected)),
        Refusal(.v5, connect(5), .protocolError(.connect, field: "second CONNECT", .unexpected)),
        Refusal(nil, [0x11], .malformed(.connect, field: "fixed header", .reservedBits)).completed,
        Refusal(.v5, [0x80, 0], .malformed(.subscribe, field: "fixed header", .reservedBits)),
        Refusal(.v5, [0xA0, 0], .malformed(.unsubscribe, field: "fixed header", .reservedBits)),
        Refusal(.v5, [0x60, 0], .malformed(.pubrel, field: "fixed header", .reservedBits)),
        Refusal(.v5, [0xC1, 0], .malformed(.pingreq, field: "fixed header", .reservedBits)),
        Refusal(.v5, [0x42, 0], .malformed(.puback, field: "fixed header", .reservedBits)),
        Refusal(.v5, [0x30, 0x80, 0x80, 0x80, 0x80], .malformed(.publish, field: "remaining length", .overlong)),
        Refusal(.v311, [0x30, 0xFF, 0xFF, 0xFF, 0xFF], .malformed(.publish, field: "remaining length", .overlong)),
        Refusal(.v5, [0xC0, 0x80, 0x00], .malformed(.pingreq, field: "remaining length", .overlong)),
        Refusal(.v5, [0x30, 0xE6, 0x07], .packetTooLarge(.publish, size: 1_001, maximum: 1_000)),
        Refusal(nil, [0x10, 0xFF, 0xFF, 0xFF, 0x7F], .packetTooLarge(.connect, size: 268_435_460, maximum: 1_000)),
        Refusal(.v5, [0xC0, 1, 0], .malformed(.pingreq, field: "last field", .trailingBytes)),
        Refusal(.v311, [0xE0, 1, 0], .malformed(.disconnect, field: "last field", .trailingBytes)),
        Refusal(.v311, [0xD0, 1, 0], .malformed(.pingresp, field: "last field", .trailingBytes)),
    ])
    func fixedHeaders(_ refusal: Refusal) { Self.check(refusal) }

    @Test(arguments: [
        Refusal(nil, connect(3, name: "MQIsdp"), .unsupportedProtocolVersion(level: 3)),
        Refusal(nil, connect(4, name: "MQIsdp"), .unsupportedProtocolVersion(level: 4)),
        Refusal(nil, connect(6), .unsupportedProtocolVersion(level: 6)),
        Refusal(nil, connect(0x84), .unsupportedProtocolVersion(level: 0x84)),
        Refusal(nil, connect(4, name: "mqtt"), .malformed(.connect, field: "protocol name", .unknown)),
        Refusal(nil, [0x10, 0], .malformed(.connect, field: "protocol name", truncated)),
        Refusal(nil, packet(0x10, text("MQTT")), .malformed(.connect, field: "protocol level", truncated)),
        Refusal(nil, packet(0x10, text("MQTT") + [4]), .malformed(.connect, field: "connect flags", truncated)),
        Refusal(nil, packet(0x10, text("MQTT") + [4, 2, 0]), .malformed(.connect, field: "keep alive", truncated)),
        Refusal(nil, connect(4, flags: 3), .malformed(.connect, field: "connect flags", .reservedBits)),
        Refusal(nil, connect(4, flags: 0x1C), .malformed(.connect, field: "will QoS", .outOfRange)),
        Refusal(nil, connect(4, flags: 0x0A), .malformed(.connect, field: "will QoS without a will", .notAllowed)),
        Refusal(nil, connect(4, flags: 0x1A), .malformed(.connect, field: "will QoS without a will", .notAllowed)),
        Refusal(nil, connect(5, flags: 0x22), .malformed(.connect, field: "will retain without a will", .notAllowed)),
        Refusal(nil, connect(4, flags: 0x42), .malformed(.connect, field: "password without a user name", .notAllowed)),
        Refusal(nil, connect(4, payload: []), .malformed(.connect, field: "client identifier", truncated)),
        Refusal(nil, connect(4, payload: [0, 9, 1]), .malformed(.connect, field: "client identifier", truncated)),
        Refusal(nil, connect(4, payload: [0, 1, 0xFF]), .malformed(.connect, field: "client identifier", .notUTF8)),
        Refusal(nil, connect(4, payload: [0, 1, 0]), .malformed(.connect, field: "client identifier", .containsNull)),
        Refusal(nil, connect(4, payload: text("c") + [7]), .malformed(.connect, field: "last field", .trailingBytes)),
        Refusal(nil, connect(4, flags: 6), .malformed(.connect, field: "will topic", truncated)),
        Refusal(
            nil, connect(4, flags: 6, payload: text("c") + text("")), .malformed(.connect, field: "will topic", .empty)),
        Refusal(
            nil, connect(4, flags: 6, payload: text("c") + text("a/#")),
            .malformed(.connect, field: "will topic", .wildcard)),
        Refusal(
            nil, connect(4, flags: 6, payload: text("c") + text("w")),
            .malformed(.connect, field: "will payload", truncated)),
        Refusal(nil, connect(4, flags: 0x82), .malformed(.connect, field: "user name", truncated)),
        Refusal(
            nil, connect(4, flags: 0xC2, payload: text("c") + text("u")),
            .malformed(.connect, field: "password", truncated)),
    ])
    func connects(_ refusal: Refusal) { Self.check(refusal) }

    @Test(arguments: [
        Refusal(
            nil, connect(5, properties: [0x21, 0, 0]), .protocolError(.connect, field: "receive maximum", .zero)),
        Refusal(
            nil, connect(5, properties: [0x27, 0, 0, 0, 0]),
            .protocolError(.connect, field: "maximum packet size", .zero)),
        Refusal(
            nil, connect(5, properties: [0x17, 2]),
            .protocolError(.connect, field: "request problem information", .outOfRange)),
        Refusal(
            nil, connect(5, properties: [0x19, 2]),
            .protocolError(.connect, field: "request response information", .outOfRange)),
        Refusal(
            nil, connect(5, properties: [0x17, 1, 0x17, 1]),
            .protocolError(.connect, field: "request problem information", .repeated)),
        Refusal(nil, connect(5, properties: [0x23, 0, 1]), .malformed(.connect, field: "topic alias", .notAllowed)),
        Refusal(
            nil, connect(5, properties: [0x18, 0, 0, 0, 1]),
            .malformed(.connect, field: "will delay interval", .notAllowed)),
        Refusal(nil, connect(5, properties: [0x7F]), .malformed(.connect, field: "property identifier", .unknown)),
        Refusal(nil, connect(5, properties: [0x80, 1]), .malformed(.connect, field: "property identifier", .unknown)),
        Refusal(nil, connect(5, properties: [0x91, 0]), .malformed(.connect, field: "property identifier", .overlong)),
        Refusal(
            nil, connect(5, properties: [0x11, 0, 0, 0]),
            .malformed(.connect, field: "session expiry interval", truncated)),
        Refusal(nil, connect(5, properties: [0x21, 0]), .malformed(.connect, field: "receive maximum", truncated)),
        Refusal(
            nil, connect(5, properties: [0x16, 0, 9]), .malformed(.connect, field: "authentication data", truncated)),
        Refusal(
            nil, connect(5, properties: [0x16, 0, 0]),
            .protocolError(.connect, field: "authentication method for the authentication data", .missing)),
        Refusal(
            nil, connect(5, properties: [0x26] + text("k")),
            .malformed(.connect, field: "user property value", truncated)),
        Refusal(
            nil, packet(0x10, text("MQTT") + [5, 2, 0, 0, 9, 0]),
            .malformed(.connect, field: "property block", truncated)),
        Refusal(
            nil, packet(0x10, text("MQTT") + [5, 2, 0, 0, 0x80, 0x80, 0x80, 0x80]),
            .malformed(.connect, field: "property length", .overlong)),
        Refusal(
            nil, connect(5, flags: 6, payload: text("c") + [3, 0x23, 0, 1] + text("w") + [0, 0]),
            .malformed(.connect, field: "topic alias", .notAllowed)),
        Refusal(
            nil, connect(5, flags: 6, payload: text("c") + [2, 0x01, 2] + text("w") + [0, 0]),
            .protocolError(.connect, field: "payload format indicator", .outOfRange)),
    ])
    func propertiesOfConnect(_ refusal: Refusal) { Self.check(refusal) }

    @Test(arguments: [
        Refusal(.v5, [0x36, 3, 0, 1, 0x61], .malformed(.publish, field: "QoS", .outOfRange)),
        Refusal(.v5, [0x38, 3, 0, 1, 0x61], .malformed(.publish, field: "DUP at QoS 0", .notAllowed)),
        Refusal(.v311, [0x30, 0], .malformed(.publish, field: "topic name", truncated)),
        Refusal(.v311, [0x30, 1, 0, 0x61], .malformed(.publish, field: "topic name", truncated)),
        Refusal(.v311, [0x30, 2, 0, 1, 0x61], .malformed(.publish, field: "topic name", truncated)),
        Refusal(.v311, [0x30, 2, 0, 0], .malformed(.publish, field: "topic name", .empty)),
        Refusal(.v311, packet(0x30, text("a/+")), .malformed(.publish, field: "topic name", .wildcard)),
        Refusal(.v311, packet(0x30, text("a/long/topic/#")), .malformed(.publish, field: "topic name", .wildcard)),
        Refusal(.v311, packet(0x30, text("a\0")), .malformed(.publish, field: "topic name", .containsNull)),
        Refusal(.v311, packet(0x30, text("12345678\0")), .malformed(.publish, field: "topic name", .containsNull)),
        Refusal(.v311, packet(0x30, text("1234\0" + "678")), .malformed(.publish, field: "topic name", .containsNull)),
        Refusal(.v311, packet(0x30, [0, 3, 0xED, 0xA0, 0x80]), .malformed(.publish, field: "topic name", .notUTF8)),
        Refusal(.v311, packet(0x32, text("a") + [0]), .malformed(.publish, field: "packet identifier", truncated)),
        Refusal(.v311, packet(0x32, text("a") + [0, 0]), .protocolError(.publish, field: "packet identifier", .zero)),
        Refusal(.v5, packet(0x30, text("a")), .malformed(.publish, field: "property length", truncated)),
        Refusal(.v5, packet(0x30, text("a") + [5, 1]), .malformed(.publish, field: "property block", truncated)),
        Refusal(
            .v5, publish([], topic: ""), .protocolError(.publish, field: "topic name without a topic alias", .empty)),
        Refusal(.v5, publish([0x23, 0, 0]), .topicAliasInvalid),
        Refusal(.v5, publish([0x0B, 0]), .protocolError(.publish, field: "subscription identifier", .zero)),
        Refusal(
            .v5, publish([0x0B, 0x80, 0x80, 0x80, 0x80]),
            .malformed(.publish, field: "subscription identifier", .overlong)),
        Refusal(.v5, publish([0x01, 2]), .protocolError(.publish, field: "payload format indicator", .outOfRange)),
        Refusal(
            .v5, publish([0x01, 1, 0x01, 1]), .protocolError(.publish, field: "payload format indicator", .repeated)),
        Refusal(
            .v5, publish([0x03] + text("a") + [0x03] + text("a")),
            .protocolError(.publish, field: "content type", .repeated)),
        Refusal(.v5, publish([0x03, 0, 1, 0xC0]), .malformed(.publish, field: "content type", .notUTF8)),
        Refusal(.v5, publish([0x08] + text("a/#")), .malformed(.publish, field: "response topic", .wildcard)),
        Refusal(.v5, publish([0x08] + text("")), .malformed(.publish, field: "response topic", .empty)),
        Refusal(.v5, publish([0x09, 0, 5]), .malformed(.publish, field: "correlation data", truncated)),
        Refusal(
            .v5, publish([0x26] + text("a") + [0, 1, 0]),
            .malformed(.publish, field: "user property value", .containsNull)),
        Refusal(
            .v5, publish([0x26, 0, 1, 0x80] + text("")), .malformed(.publish, field: "user property name", .notUTF8)),
        Refusal(.v5, publish([0x11, 0, 0, 0, 0]), .malformed(.publish, field: "session expiry interval", .notAllowed)),
        Refusal(.v5, publish([0x18, 0, 0, 0, 0]), .malformed(.publish, field: "will delay interval", .notAllowed)),
    ])
    func publishes(_ refusal: Refusal) { Self.check(refusal) }

    @Test(arguments: [
        Refusal(.v5, [0x40, 1, 0], .malformed(.puback, field: "packet identifier", truncated)),
        Refusal(.v5, [0x40, 2, 0, 0], .protocolError(.puback, field: "packet identifier", .zero)),
        Refusal(.v311, [0x40, 3, 0, 1, 0], .malformed(.puback, field: "last field", .trailingBytes)),
        Refusal(.v5, [0x40, 3, 0, 1, 0x92], .protocolError(.puback, field: "reason code", .notAllowed)),
        Refusal(.v5, [0x50, 3, 0, 1, 0x01], .protocolError(.pubrec, field: "reason code", .notAllowed)),
        Refusal(.v5, [0x62, 3, 0, 1, 0x80], .protocolError(.pubrel, field: "reason code", .notAllowed)),
        Refusal(.v5, [0x70, 3, 0, 1, 0x10], .protocolError(.pubcomp, field: "reason code", .notAllowed)),
        Refusal(.v5, [0x40, 4, 0, 1, 0, 1], .malformed(.puback, field: "property block", truncated)),
        Refusal(
            .v5, [0x40, 6, 0, 1, 0, 2, 0x01, 0], .malformed(.puback, field: "payload format indicator", .notAllowed)),
        Refusal(.v5, [0x40, 5, 0, 1, 0, 0, 0], .malformed(.puback, field: "last field", .trailingBytes)),
        Refusal(.v5, [0x20, 3, 2, 0, 0], .malformed(.connack, field: "connect acknowledge flags", .reservedBits)),
        Refusal(.v5, [0x20, 3, 0, 0x01, 0], .protocolError(.connack, field: "reason code", .notAllowed)),
        Refusal(.v311, [0x20, 2, 0, 6], .protocolError(.connack, field: "return code", .notAllowed)),
        Refusal(
            .v311, [0x20, 2, 1, 5], .protocolError(.connack, field: "session present with a failure", .notAllowed)),
        Refusal(.v5, [0x20, 5, 0, 0, 2, 0x24, 2], .protocolError(.connack, field: "maximum QoS", .outOfRange)),
        Refusal(
            .v5, [0x20, 5, 0, 0, 2, 0x17, 1], .malformed(.connack, field: "request problem information", .notAllowed)),
        Refusal(.v5, [0xE0, 1, 0x01], .protocolError(.disconnect, field: "reason code", .notAllowed)),
        Refusal(
            .v5, [0xE0, 4, 0, 2, 0x17, 1], .malformed(.disconnect, field: "request problem information", .notAllowed)),
        Refusal(.v5, [0xF0, 1, 0x87], .protocolError(.auth, field: "reason code", .notAllowed)),
        Refusal(.v5, [0xF0, 4, 0, 2, 0x17, 1], .malformed(.auth, field: "request problem information", .notAllowed)),
    ])
    func acknowledgements(_ refusal: Refusal) { Self.check(refusal) }

    @Test(arguments: [
        Refusal(.v311, [0x82, 2, 0, 1], .protocolError(.subscribe, field: "list of topic filters", .empty)),
        Refusal(.v5, [0x82, 3, 0, 1, 0], .protocolError(.subscribe, field: "list of topic filters", .empty)),
        Refusal(.v5, [0x82, 3, 0, 0, 0], .protocolError(.subscribe, field: "packet identifier", .zero)),
        Refusal(
            .v311, packet(0x82, [0, 1] + text("a")), .malformed(.subscribe, field: "subscription options", truncated)),
        Refusal(
            .v311, packet(0x82, [0, 1] + text("a") + [4]),
            .malformed(.subscribe, field: "subscription options", .reservedBits)),
        Refusal(
            .v311, packet(0x82, [0, 1] + text("a") + [3]), .malformed(.subscribe, field: "requested QoS", .outOfRange)),
        Refusal(
            .v5, packet(0x82, [0, 1, 0] + text("a") + [3]),
            .protocolError(.subscribe, field: "requested QoS", .outOfRange)),
        Refusal(
            .v5, packet(0x82, [0, 1, 0] + text("a") + [0x40]),
            .malformed(.subscribe, field: "subscription options", .reservedBits)),
        Refusal(
            .v5, packet(0x82, [0, 1, 0] + text("a") + [0x30]),
            .protocolError(.subscribe, field: "retain handling", .outOfRange)),
        Refusal(.v5, packet(0x82, [0, 1, 0] + text("") + [0]), .malformed(.subscribe, field: "topic filter", .empty)),
        Refusal(
            .v5, packet(0x82, [0, 1, 0, 0, 2, 0xC3, 0x28, 0]), .malformed(.subscribe, field: "topic filter", .notUTF8)),
        Refusal(
            .v5, packet(0x82, [0, 1, 0] + text("$share/g/a") + [4]),
            .protocolError(.subscribe, field: "no local on a shared subscription", .notAllowed)),
        Refusal(
            .v5, packet(0x82, [0, 1, 2, 0x0B, 0] + text("a") + [0]),
            .protocolError(.subscribe, field: "subscription identifier", .zero)),
        Refusal(
            .v5, packet(0x82, [0, 1, 4, 0x0B, 1, 0x0B, 1] + text("a") + [0]),
            .protocolError(.subscribe, field: "subscription identifier", .repeated)),
        Refusal(
            .v5, packet(0x82, [0, 1, 3, 0x23, 0, 1] + text("a") + [0]),
            .malformed(.subscribe, field: "topic alias", .notAllowed)),
        Refusal(.v311, [0xA2, 2, 0, 1], .protocolError(.unsubscribe, field: "list of topic filters", .empty)),
        Refusal(.v311, [0xA2, 4, 0, 1, 0, 0], .malformed(.unsubscribe, field: "topic filter", .empty)),
        Refusal(
            .v5, packet(0xA2, [0, 1, 2, 0x0B, 1] + text("a")),
            .malformed(.unsubscribe, field: "subscription identifier", .notAllowed)),
        Refusal(.v311, [0x90, 2, 0, 1], .protocolError(.suback, field: "list of reason codes", .empty)),
        Refusal(.v311, [0x90, 3, 0, 1, 0x87], .protocolError(.suback, field: "reason code", .notAllowed)),
        Refusal(.v5, [0x90, 4, 0, 1, 0, 0x03], .protocolError(.suback, field: "reason code", .notAllowed)),
        Refusal(.v5, [0xB0, 3, 0, 1, 0], .protocolError(.unsuback, field: "list of reason codes", .empty)),
        Refusal(.v5, [0xB0, 4, 0, 1, 0, 0x01], .protocolError(.unsuback, field: "reason code", .notAllowed)),
        Refusal(.v311, [0xB0, 3, 0, 1, 0], .malformed(.unsuback, field: "last field", .trailingBytes)),
    ])
    func subscriptions(_ refusal: Refusal) { Self.check(refusal) }

    @Test(
        arguments: [
            [0xC3], [0x80], [0xC0, 0x80], [0xC1, 0xBF], [0xE0, 0x9F, 0xBF], [0xED, 0xA0, 0x80], [0xED, 0xBF, 0xBF],
            [0xF0, 0x8F, 0xBF, 0xBF], [0xF4, 0x90, 0x80, 0x80], [0xF5, 0x80, 0x80, 0x80], [0xFE], [0xE2, 0x82],
            [0xF0, 0x9F, 0x98], [0xC3, 0x28], [0xE2, 0x28, 0xA1], [0xE2, 0x82, 0x28], [0xF0, 0x28, 0x8C, 0xBC],
        ] as [[UInt8]])
    func wrongUTF8(_ wrong: [UInt8]) {
        for prefix in ["", "1234567", "12345678", "abcdefghijklmnop"] {
            let topic = Array(prefix.utf8) + wrong
            Self.check(
                Refusal(
                    .v311, packet(0x30, [0, UInt8(topic.count)] + topic),
                    .malformed(.publish, field: "topic name", .notUTF8)))
        }
    }

    @Test(arguments: ["ä", "€", "😀", "\u{D7FF}", "\u{E000}", "\u{10FFFF}", "\u{FEFF}", "\u{1}", "1234567ä", "😀😀😀"])
    func rightUTF8(_ topic: String) throws {
        var decoder = PacketDecoder(maximumPacketSize: 1_000)
        decoder.version = .v311
        var buffer = ByteBuffer(bytes: packet(0x30, text(topic)))
        let packet = try decoder.next(&buffer)
        #expect(packet == .publish(Publish(topic: bytes(topic), payload: ByteBuffer())))
    }

    /// It must not wait for a body that it will refuse anyway.
    @Test func sizeIsJudgedBeforeTheBodyArrives() throws {
        var decoder = PacketDecoder(maximumPacketSize: 128)
        decoder.version = .v5
        var buffer = ByteBuffer(bytes: [0x30, 126])
        let packet = try decoder.next(&buffer)
        #expect(packet == nil)
        buffer = ByteBuffer(bytes: [0x30, 127])
        #expect(throws: DecodingError.packetTooLarge(.publish, size: 129, maximum: 128)) { try decoder.next(&buffer) }
    }

    @Test func everyErrorSaysWhatAndWhere() {
        let errors: [(DecodingError, ReasonCode, String)] = [
            (
                .malformed(.connect, field: "client identifier", .notUTF8), .malformedPacket,
                "malformed CONNECT: client identifier is not valid UTF-8"
            ),
            (
                .protocolError(.subscribe, field: "retain handling", .outOfRange), .protocolError,
                "protocol error in SUBSCRIBE: retain handling is out of range"
            ),
            (.topicAliasInvalid, .topicAliasInvalid, "protocol error in PUBLISH: topic alias is 0"),
            (
                .packetTooLarge(.publish, size: 9, maximum: 8), .packetTooLarge,
                "PUBLISH of 9 bytes is larger than the maximum packet size of 8 bytes"
            ),
            (
                .unsupportedProtocolVersion(level: 3), .unsupportedProtocolVersion,
                "CONNECT with protocol level 3; supported are 4 (MQTT 3.1.1) and 5 (MQTT 5.0)"
            ),
        ]
        for (error, reason, description) in errors {
            #expect(error.reason == reason)
            #expect(error.description == description)
        }
        #expect((0...15).compactMap(PacketKind.init(rawValue:)).map(\.name).count == 16)
    }
}

extension Refusal {
    /// With a length, where only the first byte is at fault.
    var completed: Refusal { Refusal(version, bytes + [0], error) }
}
