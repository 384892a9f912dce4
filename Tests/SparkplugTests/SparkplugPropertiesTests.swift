import NIOCore
import TestSupport
import Testing

@testable import Sparkplug

@Suite struct SparkplugPropertiesTests {
    private typealias Bytes = SparkplugBytes

    private func properties(_ more: Bytes) throws -> SparkplugProperties {
        let bytes = Bytes.payload([.init("m", .int(1), more: more)])
        let metric = try SparkplugPayload.decode(ByteBuffer(bytes: bytes)).metrics[0]
        return SparkplugProperties(properties: try #require(metric.properties))
    }

    private func told(_ properties: SparkplugProperties) -> [String: SparkplugProperties.Value] {
        Dictionary(uniqueKeysWithValues: properties.entries.map { (String(buffer: $0.key), $0.value) })
    }

    @Test func eachTypeOfPropertyIsRead() throws {
        let found = try properties(
            Bytes.properties(
                ("int", Bytes.property(3) { $0.varint(3, 4_294_967_295) }),
                ("long", Bytes.property(4) { $0.varint(4, .max) }), ("ulong", Bytes.property(8) { $0.varint(4, .max) }),
                ("float", Bytes.property(9) { $0.fixed(5, UInt64(Float(0.5).bitPattern), bytes: 4) }),
                ("double", Bytes.property(10) { $0.fixed(6, 2.5.bitPattern, bytes: 8) }),
                ("flag", Bytes.property(11) { $0.varint(7, 1) }),
                ("engUnit", Bytes.property(12) { $0.delimited(8, Array("°C".utf8)) }),
                ("gone", Bytes.property(12) { $0.varint(2, 1) }), ("set", Bytes.property(20) { $0.delimited(9, [1]) })))
        #expect(
            told(found) == [
                "int": .number(.signed(-1)), "long": .number(.signed(-1)), "ulong": .number(.unsigned(.max)),
                "float": .number(.real(0.5)), "double": .number(.real(2.5)), "flag": .boolean(true),
                "engUnit": .text(ByteBuffer(string: "°C")), "gone": .null, "set": .nested(ByteBuffer(bytes: [1])),
            ])
        #expect(found.quality == nil && !found.isQualityAlone)
    }

    @Test(
        arguments: [
            (0, .bad, true), (192, .good, true), (500, .stale, true), (64, .other, false),
            (4_294_967_295, .other, false),
        ] as [(UInt64, SparkplugQuality, Bool)])
    func qualityIsThatOfTheStandard(code: UInt64, quality: SparkplugQuality, isAlone: Bool) throws {
        let found = try properties(Bytes.quality(code))
        #expect(found.quality == quality && found.isQualityAlone == isAlone)
    }

    /// Then the bytes are kept: nothing is told by halves.
    @Test func whatCannotBeToldByKeysIsNotTold() throws {
        func set(_ write: (inout Bytes) -> Void) throws -> Int {
            let set = Bytes(write)
            return try properties(Bytes { $0.delimited(9, set.bytes) }).entries.count
        }
        let one = Bytes.property(3) { $0.varint(3, 1) }.bytes
        let nullAndNot = Bytes.property(3) {
            $0.varint(2, 1)
            $0.varint(3, 1)
        }.bytes
        #expect(
            try set {
                $0.delimited(1, [65])
                $0.delimited(2, nullAndNot)
            } == 0)
        #expect(
            try set {
                $0.delimited(1, [65])
                $0.delimited(2, one)
            } == 1)
        #expect(try set { $0.delimited(1, [65]) } == 0, "a key without a value")
        #expect(try set { $0.delimited(2, one) } == 0, "a value without a key")
        #expect(
            try set {
                for _ in 0..<2 {
                    $0.delimited(1, [65])
                    $0.delimited(2, one)
                }
            } == 0, "a key twice")
        #expect(
            try set {
                $0.delimited(1, [65])
                $0.delimited(2, one)
                $0.varint(3, 1)
            } == 0, "an unknown field")
        #expect(
            try set {
                $0.delimited(1, [65])
                $0.delimited(2, one + [0x58, 1])
            } == 0, "an unknown field of a value")
        #expect(
            try set {
                $0.delimited(1, [65])
                $0.delimited(2, [0x18])
            } == 0, "no protobuf")
    }

    @Test func metadataHasTheNamesOfItsFields() {
        let bytes = Bytes {
            $0.varint(1, 0)
            $0.delimited(2, Array("text/csv".utf8))
            $0.varint(3, 7)
            $0.delimited(8, Array("why".utf8))
        }
        #expect(
            told(SparkplugProperties(metadata: ByteBuffer(bytes: bytes.bytes))) == [
                "is_multi_part": .boolean(false), "content_type": .text(ByteBuffer(string: "text/csv")),
                "size": .number(.unsigned(7)), "description": .text(ByteBuffer(string: "why")),
            ])
        let unknown = Bytes { $0.varint(9, 1) }
        #expect(SparkplugProperties(metadata: ByteBuffer(bytes: unknown.bytes)).entries.isEmpty)
        #expect(SparkplugProperties(metadata: ByteBuffer(bytes: bytes.bytes + bytes.bytes)).entries.isEmpty)
        #expect(SparkplugProperties(metadata: ByteBuffer(bytes: [0x12])).entries.isEmpty)
    }
}
