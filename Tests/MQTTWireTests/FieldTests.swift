import MQTTWire
import NIOCore
import Testing

/// Rules that hold for every packet: its flags, its strings, its reason codes.
struct FieldTests {
    private static func decode(_ bytes: [UInt8], _ version: ProtocolVersion?) throws(DecodingError) -> Packet? {
        var decoder = PacketDecoder(maximumPacketSize: 1 << 20)
        decoder.version = version
        var buffer = ByteBuffer(bytes: bytes)
        return try decoder.next(&buffer)
    }

    /// The low four bits of the first byte: 2 in PUBREL, SUBSCRIBE and UNSUBSCRIBE, flags in PUBLISH, 0 elsewhere.
    @Test(arguments: [ProtocolVersion.v311, .v5]) func everyOtherValueOfReservedFlagsIsRefused(version: ProtocolVersion)
    {
        for kind in UInt8(1)...15 where kind != 3 && (version == .v5 || kind != 15) {
            let right: UInt8 = [6, 8, 10].contains(kind) ? 2 : 0
            for flags in UInt8(0)...15 where flags != right {
                let error = #expect(throws: DecodingError.self) {
                    try Self.decode([kind << 4 | flags, 0], kind == 1 ? nil : version)
                }
                guard case .malformed(_, field: "fixed header", .reservedBits)? = error else {
                    Issue.record("type \(kind) with flags \(flags): \(String(describing: error))")
                    continue
                }
            }
        }
    }

    /// Where a string stands, and a packet that has it there; it has three bytes.
    private static let strings: [(name: String, version: ProtocolVersion?, packet: @Sendable ([UInt8]) -> [UInt8])] = [
        ("client identifier", nil, { connect(flags: 0x02, payload: $0) }),
        ("will topic", nil, { connect(flags: 0x06, payload: text("c") + [0] + $0 + text("")) }),
        ("user name", nil, { connect(flags: 0x82, payload: text("c") + $0) }),
        ("user property name", nil, { connect(flags: 0x02, properties: [0x26] + $0 + text("v"), payload: text("c")) }),
        ("user property value", nil, { connect(flags: 0x02, properties: [0x26] + text("n") + $0, payload: text("c")) }),
        ("authentication method", nil, { connect(flags: 0x02, properties: [0x15] + $0, payload: text("c")) }),
        ("topic name", .v5, { packet(0x30, $0 + [0]) }),
        ("content type", .v5, { packet(0x30, text("t") + [6, 0x03] + $0) }),
        ("response topic", .v5, { packet(0x30, text("t") + [6, 0x08] + $0) }),
        ("topic filter", .v5, { packet(0x82, [0, 1, 0] + $0 + [0]) }),
        ("topic filter", .v5, { packet(0xA2, [0, 1, 0] + $0) }),
        ("reason string", .v5, { packet(0x40, [0, 1, 0x80, 6, 0x1F] + $0) }),
        ("reason string", .v5, { packet(0xE0, [0x80, 6, 0x1F] + $0) }),
    ]

    private static func packet(_ first: UInt8, _ body: [UInt8]) -> [UInt8] { [first, UInt8(body.count)] + body }

    private static func connect(flags: UInt8, properties: [UInt8] = [], payload: [UInt8]) -> [UInt8] {
        packet(0x10, text("MQTT") + [5, flags, 0, 0, UInt8(properties.count)] + properties + payload)
    }

    @Test(
        arguments: [
            ([0, 3, 0x61, 0xC3, 0x28], DecodingError.Flaw.notUTF8), ([0, 3, 0xED, 0xA0, 0x80], .notUTF8),
            ([0, 3, 0x61, 0x00, 0x61], .containsNull),
        ] as [([UInt8], DecodingError.Flaw)])
    func everyStringIsCheckedWhereverItStands(wrong: [UInt8], flaw: DecodingError.Flaw) throws {
        for (name, version, packet) in Self.strings {
            let error = #expect(throws: DecodingError.self) { try Self.decode(packet(wrong), version) }
            guard case .malformed(_, field: name, flaw)? = error else {
                Issue.record("\(name): \(String(describing: error))")
                continue
            }
            // The same packet with a string that is none to complain of: a byte order mark, which stays.
            #expect(try Self.decode(packet([0, 3, 0xEF, 0xBB, 0xBF]), version) != nil, "\(name)")
        }
    }

    /// MQTT-4.7.3-3 (both): the length of a topic has two bytes and all of their values are used.
    @Test(arguments: [ProtocolVersion.v311, .v5]) func aTopicMayHaveAllBytesOfItsLength(version: ProtocolVersion) throws
    {
        let publish = Publish(topic: ByteBuffer(repeating: 0x61, count: 65_535), payload: bytes("x"))
        var buffer = ByteBuffer()
        buffer.write(.publish(publish), version: version)
        #expect(try Self.decode(Array(buffer.readableBytesView), version) == .publish(publish))
    }

    struct ReasonTable: Sendable, CustomTestStringConvertible {
        var packet: String
        /// The bytes before the code and after it.
        var before: [UInt8]
        var after: [UInt8] = []
        var codes: [UInt8]
        var testDescription: String { packet }
    }

    private static let ofPublish: [UInt8] = [0x00, 0x10, 0x80, 0x83, 0x87, 0x90, 0x91, 0x97, 0x99]

    /// Every code that a packet's table in the standard names is read and no other, so that what this server sends and its
    /// own decoder reads is one of them.
    @Test(arguments: [
        ReasonTable(
            packet: "CONNACK", before: [0x20, 3, 0], after: [0],
            codes: [
                0x00, 0x80, 0x81, 0x82, 0x83, 0x84, 0x85, 0x86, 0x87, 0x88, 0x89, 0x8A, 0x8C, 0x90, 0x95, 0x97, 0x99,
                0x9A, 0x9B, 0x9C, 0x9D, 0x9F,
            ]),
        ReasonTable(packet: "PUBACK", before: [0x40, 3, 0, 1], codes: ofPublish),
        ReasonTable(packet: "PUBREC", before: [0x50, 3, 0, 1], codes: ofPublish),
        ReasonTable(packet: "PUBREL", before: [0x62, 3, 0, 1], codes: [0x00, 0x92]),
        ReasonTable(packet: "PUBCOMP", before: [0x70, 3, 0, 1], codes: [0x00, 0x92]),
        ReasonTable(
            packet: "SUBACK", before: [0x90, 4, 0, 1, 0],
            codes: [0x00, 0x01, 0x02, 0x80, 0x83, 0x87, 0x8F, 0x91, 0x97, 0x9E, 0xA1, 0xA2]),
        ReasonTable(
            packet: "UNSUBACK", before: [0xB0, 4, 0, 1, 0], codes: [0x00, 0x11, 0x80, 0x83, 0x87, 0x8F, 0x91]),
        ReasonTable(
            packet: "DISCONNECT", before: [0xE0, 1],
            codes: [
                0x00, 0x04, 0x80, 0x81, 0x82, 0x83, 0x87, 0x89, 0x8B, 0x8D, 0x8E, 0x8F, 0x90, 0x93, 0x94, 0x95, 0x96,
                0x97, 0x98, 0x99, 0x9A, 0x9B, 0x9C, 0x9D, 0x9E, 0x9F, 0xA0, 0xA1, 0xA2,
            ]),
        ReasonTable(packet: "AUTH", before: [0xF0, 1], codes: [0x00, 0x18, 0x19]),
    ])
    func reasonCodesAreThoseOfTheStandardsTables(table: ReasonTable) {
        let read = (UInt8(0)...255).filter { code in
            (try? Self.decode(table.before + [code] + table.after, .v5)) != nil
        }
        #expect(read == table.codes)
    }
}
