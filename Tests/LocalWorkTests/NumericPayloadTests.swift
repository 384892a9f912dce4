import LocalWork
import NIOCore
import Testing

@Suite struct NumericPayloadTests {
    private func members(_ text: String) -> [String: Double]? {
        NumericPayload(ByteBuffer(string: text)).map {
            Dictionary(uniqueKeysWithValues: $0.members.map { ($0.path, $0.value) })
        }
    }

    @Test(arguments: [
        ("1", 1), ("-0.5", -0.5), (" 12e3\n", 12_000), ("0", 0), ("1E-2", 0.01),
        ("9007199254740991", 9_007_199_254_740_991),
    ]) func aNumberStandsAlone(text: String, value: Double) {
        #expect(members(text) == [NumericPayload.alone: value])
    }

    @Test func anObjectHasItsMembers() {
        #expect(members(#"{"rpm":1500, "temp" : -3.5 ,"ü":0}"#) == ["rpm": 1500, "temp": -3.5, "ü": 0])
        #expect(members(#"{"":1}"#) == ["": 1])
        #expect(members(#"{"a":{"x":1, "y":{"z":2}},"b":3}"#) == ["a\u{1}x": 1, "a\u{1}y\u{1}z": 2, "b": 3])
    }

    /// What would lose something, or is no JSON, is left to those who keep the bytes.
    @Test(arguments: [
        "", " ", "x", "01", "1.", ".5", "+1", "1e", "--1", "1 2", "NaN", "Infinity", "1e300", "9007199254740992",
        "-9007199254740993",
        "true", "null", "\"1\"", "[1]", "{}", "{", "{\"a\"}", "{\"a\":}", "{\"a\":1", "{\"a\":1,}", "{,}", "{\"a\":1}x",
        "{\"a\":1,\"a\":2}", "{\"a\":\"on\"}", "{\"a\":1,\"b\":true}", "{\"a\":{}}", "{\"a\":{\"b\":\"x\"}}",
        "{\"a\":{\"b\":1},\"a\":2}", "{\"a\\u0062\":1}",
        "{\"a\nb\":1}",
        "{'a':1}", "{a:1}",
    ]) func whatCannotBeAggregatedIsNotRead(text: String) {
        #expect(members(text) == nil)
    }

    @Test func bytesThatAreNoTextAreNotRead() {
        let bytes = Array("{\"".utf8) + [0xFF] + Array("\":1}".utf8)
        #expect(NumericPayload(ByteBuffer(bytes: bytes)) == nil)
    }

    @Test func sizesAreBounded() {
        func object(_ members: Int) -> String {
            "{" + (0..<members).map { "\"m\($0)\":\($0)" }.joined(separator: ",") + "}"
        }
        #expect(members(object(NumericPayload.maximumMembers))?.count == NumericPayload.maximumMembers)
        #expect(members(object(NumericPayload.maximumMembers + 1)) == nil)
        func nested(_ depth: Int) -> String {
            String(repeating: #"{"a":"#, count: depth) + "1" + String(repeating: "}", count: depth)
        }
        #expect(members(nested(NumericPayload.maximumDepth)) != nil)
        #expect(members(nested(NumericPayload.maximumDepth + 1)) == nil)
        let space = String(repeating: " ", count: NumericPayload.maximumBytes - 1)
        #expect(members("1" + space) != nil)
        #expect(members("10" + space) == nil)
    }
}
