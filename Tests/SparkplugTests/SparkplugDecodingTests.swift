import NIOCore
import TestSupport
import Testing

@testable import Sparkplug

private func topic(_ text: String) -> SparkplugTopic? { SparkplugTopic(ByteBuffer(string: text)) }

@Suite struct SparkplugTopicTests {
    @Test func theNamespaceIsRecognised() throws {
        for kind in SparkplugKind.allCases {
            let text = "spBv1.0/Plant 1/\(kind.rawValue)/edge" + (kind.isOfDevice ? "/pump" : "")
            guard case .edge(let found, let entity) = topic(text) else {
                Issue.record("\(text) is not recognised")
                continue
            }
            #expect(found == kind && entity.group == "Plant 1" && entity.nodeName == "edge")
            #expect(entity.deviceName == (kind.isOfDevice ? "pump" : "") && entity.isDevice == kind.isOfDevice)
            #expect(entity.text == "Plant 1/edge" + (kind.isOfDevice ? "/pump" : ""))
            #expect(entity.node.text == "Plant 1/edge" && entity.node.node == entity.node)
        }
        #expect(topic("spBv1.0/STATE/scada-1") == .state(host: "scada-1"))
    }

    @Test(arguments: [
        "", "spBv1.0", "spBv1.0/", "spBv1.0/g", "spBv1.0/g/NDATA", "spBv1.0/g/NDATA/", "spBv1.0//NDATA/n",
        "spBv1.0/g/NDATA/n/d", "spBv1.0/g/DDATA/n", "spBv1.0/g/DDATA/n/", "spBv1.0/g/DDATA/n/d/e", "spBv1.0/g/ndata/n",
        "spBv1.0/STATE/", "spBv1.0/STATE/a/b", "spAv1.0/g/NDATA/n", "xspBv1.0/g/NDATA/n", "spBv1.0x/g/NDATA/n",
    ])
    func whatIsBuiltOtherwiseIsNot(text: String) { #expect(topic(text) == nil) }

    /// Names that Swift takes for equal are two for everybody else.
    @Test func namesAreComparedByTheirBytes() throws {
        let a = topic("spBv1.0/g/NDATA/\u{E4}")
        let b = topic("spBv1.0/g/NDATA/a\u{308}")
        #expect(a != nil && b != nil && a != b)
    }
}

@Suite struct SparkplugDecodingTests {
    private func decode(_ bytes: [UInt8], maximumMetrics: Int = 100) throws(SparkplugDecodingError) -> SparkplugPayload
    {
        try SparkplugPayload.decode(ByteBuffer(bytes: bytes), maximumMetrics: maximumMetrics)
    }

    @Test func aBirthIsRead() throws {
        let payload = try decode(
            SparkplugBytes.payload(
                timestamp: 1_700_000_000_123, seq: 255,
                [
                    .init("bdSeq", datatype: 8, .long(7)),
                    .init("Motor/Temperature", alias: 17, timestamp: 1_700_000_000_000, datatype: 9, .float(21.5)),
                    .init("Name", alias: 18, datatype: 12, .string("M1")), .init("Gone", datatype: 10, .null),
                ]))
        #expect(payload.timestamp == 1_700_000_000_123 && payload.sequence == 255 && payload.bdSeq == 7)
        try #require(payload.metrics.count == 4)
        let motor = payload.metrics[1]
        #expect(motor.name == ByteBuffer(string: "Motor/Temperature") && motor.alias == 17 && motor.datatype == 9)
        #expect(motor.timestamp == 1_700_000_000_000 && motor.number() == .real(21.5))
        #expect(payload.metrics[2].value == .string(ByteBuffer(string: "M1")) && payload.metrics[2].number() == nil)
        #expect(payload.metrics[3].isNull && payload.metrics[3].number() == nil)
    }

    /// Tahu's libraries send an Int8 of −1 as 255, others as 4294967295.
    @Test(
        arguments: [
            (1, .int(255), .signed(-1)), (1, .int(4_294_967_295), .signed(-1)), (1, .int(127), .signed(127)),
            (2, .int(65_535), .signed(-1)), (2, .int(32_768), .signed(-32_768)), (3, .int(4_294_967_295), .signed(-1)),
            (3, .long(UInt64.max), .signed(-1)), (4, .long(UInt64.max), .signed(-1)),
            (4, .long(1 << 63), .signed(.min)),
            (5, .int(255), .unsigned(255)), (7, .int(4_294_967_295), .unsigned(4_294_967_295)),
            (7, .long(4_294_967_295), .unsigned(4_294_967_295)), (8, .long(UInt64.max), .unsigned(.max)),
            (11, .boolean(true), .unsigned(1)), (13, .long(5), .unsigned(5)), (nil, .int(255), .unsigned(255)),
            (10, .double(-0.5), .real(-0.5)), (99, .long(3), .unsigned(3)),
        ] as [(UInt32?, SparkplugBytes.Value, SparkplugNumber)])
    func numbersHaveTheSignOfTheirType(datatype: UInt32?, value: SparkplugBytes.Value, number: SparkplugNumber) throws {
        let metric = try decode(SparkplugBytes.payload([.init("m", datatype: datatype, value)])).metrics[0]
        #expect(metric.number() == number)
        // As in data that goes by an alias: the birth has the type.
        let bare = try decode(SparkplugBytes.payload([.init(alias: 1, value)])).metrics[0]
        #expect(bare.number(datatype: datatype) == number)
    }

    @Test func anyOrderAndUnknownFieldsAreRead() throws {
        var metric = SparkplugBytes()
        metric.varint(10, 5)
        metric.delimited(8, [1, 2, 3])
        metric.delimited(1, Array("m".utf8))
        metric.varint(20, 9)
        var bytes = SparkplugBytes()
        bytes.varint(3, 4)
        bytes.fixed(40, 1, bytes: 8)
        bytes.delimited(2, metric.bytes)
        bytes.fixed(41, 1, bytes: 4)
        bytes.varint(3, 5)
        bytes.varint(2, 1)
        let payload = try decode(bytes.bytes)
        #expect(payload.sequence == 5, "the last counts")
        #expect(payload.metrics.count == 1 && payload.metrics[0].number() == .unsigned(5))
        #expect(!payload.isWhole && !payload.metrics[0].isWhole)
    }

    /// What a reader would lose without a word: unknown fields, fields of another type, what comes twice, a value of null.
    @Test func itIsSaidWhetherAllWasRead() throws {
        func isWhole(_ write: (inout SparkplugBytes) -> Void) throws -> Bool {
            var more = SparkplugBytes()
            write(&more)
            let payload = try decode(
                SparkplugBytes.payload(timestamp: 1, seq: 2, [.init("m", datatype: 3, .int(1), more: more)]))
            return payload.isWhole
        }
        #expect(try isWhole { _ in })
        #expect(try isWhole { $0.delimited(8, [0x18, 0x05]) } && isWhole { $0.delimited(9, []) })
        #expect(try !isWhole { $0.varint(20, 1) } && !isWhole { $0.varint(8, 1) } && !isWhole { $0.varint(10, 1) })
        #expect(try !isWhole { $0.varint(11, 1) } && !isWhole { $0.varint(4, 3) } && !isWhole { $0.varint(7, 1) })
        let two = SparkplugBytes.payload(timestamp: 1, seq: 2, [.init("m", .int(1)), .init("m", .int(1))])
        #expect(try decode(two).isWhole)
        #expect(try !decode(two + [0x18, 0x02]).isWhole && !decode(two + [0x38, 0x30]).isWhole)
    }

    /// Text whose bytes happen to be protobuf has nothing of what makes a payload.
    @Test(arguments: ["80", "", "8080", "\"\u{4}abcd", "*", "=1234"])
    func textIsNoPayloadByChance(text: String) {
        #expect(throws: SparkplugDecodingError.self) { try decode(Array(text.utf8)) }
    }

    @Test(
        arguments: [
            ([0x0A], .truncated), ([0x08], .truncated), ([0x08, 0x80], .truncated), ([0x0A, 0x05, 0x00], .truncated),
            ([0x09, 1, 2, 3], .truncated), ([0x0D, 1, 2, 3], .truncated), ([0x00], .malformedTag(0)),
            ([0x0B], .malformedTag(0x0B)), ([0x0C], .malformedTag(0x0C)), ([0x0F], .malformedTag(0x0F)),
            ([0x08] + [UInt8](repeating: 0xFF, count: 9) + [0x02], .malformedVarint),
            ([0x12] + [UInt8](repeating: 0xFF, count: 9) + [0x01], .truncated),
            (Array("{\"t\":1}".utf8), .malformedTag(0x7B)),
        ] as [([UInt8], SparkplugDecodingError)])
    func whatIsNoProtobufIsAnError(bytes: [UInt8], error: SparkplugDecodingError) {
        #expect(throws: error) { try decode(bytes) }
    }

    @Test func metricsAreBounded() throws {
        let three = SparkplugBytes.payload([.init("a", .int(1)), .init("b", .int(1)), .init("c", .int(1))])
        #expect(try decode(three, maximumMetrics: 3).metrics.count == 3)
        #expect(throws: SparkplugDecodingError.tooManyMetrics(limit: 2)) { try decode(three, maximumMetrics: 2) }
    }

    /// Cut, flipped and random bytes are read or refused, never a trap.
    @Test func anyBytesAreReadOrRefused() {
        let good = SparkplugBytes.payload(
            timestamp: 1_700_000_000_123, seq: 3,
            [
                .init("bdSeq", datatype: 8, .long(7)), .init("f", alias: 3, timestamp: 9, datatype: 9, .float(1)),
                .init("d", .double(2)), .init("s", .string("text")), .init("x", .bytes([1, 2, 3])),
                .init(alias: 9, .null),
            ])
        var state: UInt64 = 1
        func random() -> UInt64 {
            state = state &* 6_364_136_223_846_793_005 &+ 1_442_695_040_888_963_407
            return state >> 33
        }
        var read = 0
        var monitor = SparkplugMonitor()
        func attempt(_ bytes: [UInt8]) {
            if let payload = try? decode(bytes) {
                read += 1
                for metric in payload.metrics { _ = metric.number(datatype: UInt32(random() % 40)) }
            }
            monitor.observe(
                topic: ByteBuffer(string: "spBv1.0/g/NBIRTH/n\(random() % 3)"), payload: ByteBuffer(bytes: bytes),
                wallTime: 0)
        }
        for length in 0...good.count { attempt(Array(good.prefix(length))) }
        for _ in 0..<5_000 {
            var bytes = good
            for _ in 0...random() % 3 {
                bytes[Int(random()) % bytes.count] = UInt8(truncatingIfNeeded: random())
            }
            attempt(bytes)
            attempt((0..<Int(random() % 40)).map { _ in UInt8(truncatingIfNeeded: random()) })
        }
        #expect(read > 100, "some are good still")
        #expect(monitor.counters.births + monitor.counters.malformed == UInt64(10_001 + good.count))
    }
}
