import Foundation
import Processor
import Testing

/// What a payload becomes, as text that a test can compare: `path=value` for each leaf, then `rest`.
private func flattened(_ text: String, limit: Int = 256, timeField: String? = nil) -> String {
    var flattener = PayloadFlattener(maximumLeaves: limit, timeField: timeField)
    return describe(Array(text.utf8), &flattener)
}

/// Holds a flattener, which `#expect` could not change otherwise.
private final class Subject {
    var flattener: PayloadFlattener

    init(limit: Int = 256, timeField: String? = nil) {
        flattener = PayloadFlattener(maximumLeaves: limit, timeField: timeField)
    }
}

private func describe(_ bytes: [UInt8], _ subject: Subject) -> String {
    describe(bytes, &subject.flattener)
}

private func describe(_ bytes: [UInt8], _ flattener: inout PayloadFlattener) -> String {
    bytes.withUnsafeBytes { payload in
        switch flattener.flatten(payload) {
        case .event(let kind): return "event \(kind)"
        case .value: return "value"
        case .flat:
            var parts = flattener.leaves.map { leaf in
                let path = String(decoding: flattener.paths[leaf.path], as: UTF8.self)
                let text = leaf.text.map { "'" + String(decoding: payload[$0], as: UTF8.self) + "'" } ?? ""
                return "\(path)=\(leaf.value.map { "\($0)" } ?? "nil")\(text)"
            }
            if !flattener.rest.isEmpty { parts.append("rest " + String(decoding: flattener.rest, as: UTF8.self)) }
            return parts.joined(separator: " ")
        }
    }
}

@Suite struct PayloadFlattenerTests {
    @Test(arguments: [
        (#"{"t":21.5,"on":true,"off":false}"#, "t=21.5 on=1.0 off=0.0"),
        (#" { "a" : { "b" : { "c" : -1e3 } , "d" : 2 } } "#, "a.b.c=-1000.0 a.d=2.0"),
        (#"{"s":"x","n":null,"l":[1,2],"v":1}"#, #"v=1.0 rest {"s":"x","n":null,"l":[1,2]}"#),
        (#"{"a":{"s":"x","v":1,"b":{"w":2}},"c":{"d":{}}}"#, #"a.v=1.0 a.b.w=2.0 rest {"a":{"s":"x"},"c":{"d":{}}}"#),
        ("42", "value=42.0"), (" -0.5 ", "value=-0.5"), ("1e400", "value=nil'1e400'"),
        ("{}", "rest {}"), (#""text""#, "value"), ("true", "value"), ("null", "value"), ("[1,2]", "value"),
        (#"{"a.b":1,"a":{"b":2}}"#, #"a\.b=1.0 a.b=2.0"#),
        (#"{"a\\b":1,"":2,"x":{"":3}}"#, #"a\\b=1.0 =2.0 x.=3.0"#),
        (#"{"\u0061\u00e4\ud83d\ude00":1}"#, "aä😀=1.0"),
        ("{\"gr\u{00FC}n\":1,\"gru\u{0308}n\":2}", "gr\u{00FC}n=1.0 gru\u{0308}n=2.0"),
    ])
    func rules(payload: String, expected: String) {
        #expect(Array(flattened(payload).utf8) == Array(expected.utf8))
    }

    @Test(arguments: [
        ("9007199254740992", "value=9007199254740992.0"),
        ("9007199254740993", "value=9007199254740992.0'9007199254740993'"),
        ("-9007199254740993", "value=-9007199254740992.0'-9007199254740993'"),
        ("18446744073709551616", "value=1.8446744073709552e+19'18446744073709551616'"),
        ("-1e999", "value=nil'-1e999'"), ("1e-400", "value=0.0'1e-400'"), ("0e-400", "value=0.0"),
        ("0.1", "value=0.1"), ("123456789012345678901234567890.5", "value=1.2345678901234568e+29"),
        ("2.2250738585072011e-308", "value=2.225073858507201e-308"), ("-0", "value=-0.0"),
    ])
    func numbersThatADoubleCannotHoldKeepTheirText(payload: String, expected: String) {
        #expect(flattened(payload) == expected)
    }

    @Test(arguments: [
        "", " ", "{", "}", "{]", "[1,]", #"{"a":1,}"#, #"{"a" 1}"#, #"{a:1}"#, "01", "-", "1.", ".5", "1e", "+1", "1 2",
        "nul", "True", #"{"a":tru}"#, #""\x""#, #""\u12g4""#, "\"\u{1}\"", #"{"a":1}x"#, "\u{FEFF}{}", "NaN", "'a'",
        #"{"a":"#, #"{"a":"x"#, "[", "[[", #"{"a":[}"#,
    ])
    func whatIsNoJSONIsAnEventWithItsBytes(payload: String) {
        #expect(flattened(payload) == "event noJSON")
    }

    @Test func wrongUTF8IsNoJSON() {
        let subject = Subject(limit: 8)
        for bad: [UInt8] in [
            [0x80], [0xC0, 0x80], [0xC3], [0xE0, 0x80, 0x80], [0xED, 0xA0, 0x80], [0xF4, 0x90, 0x80, 0x80], [0xF5],
            [0xFF],
        ] {
            #expect(describe([0x22] + bad + [0x22], subject) == "event noJSON", "\(bad)")
        }
    }

    @Test(arguments: [
        (#"{"a":"x\u0000"}"#, "event unstorable"), (#"{"a\u0000":1}"#, "event unstorable"),
        (#"{"a":"\ud800"}"#, "event unstorable"), (#"{"a":"\udc00x"}"#, "event unstorable"),
        (#"{"a":"\ud800\u0041"}"#, "event unstorable"), ("[1e99999]", "event unstorable"),
        (#"{"a":1,"a":2}"#, "event duplicateKey"), (#"{"a":1,"\u0061":"x"}"#, "event duplicateKey"),
        (#"{"l":[{"a":1,"a":1}]}"#, "event duplicateKey"), (#"{"a":{"b":1},"a":{"c":1}}"#, "event duplicateKey"),
        (#"{"a":1,"a":2,"#, "event noJSON"),
    ])
    func whatCannotBeStoredAsItIs(payload: String, expected: String) {
        #expect(flattened(payload) == expected)
    }

    @Test func manyKeysAreComparedWithoutQuadraticWork() {
        let members = (0..<20_000).map { "\"k\($0)\":\"\"" }
        #expect(flattened("{" + members.joined(separator: ",") + "}").hasPrefix("rest {"))
        #expect(flattened("{" + (members + ["\"k777\":null"]).joined(separator: ",") + "}") == "event duplicateKey")
    }

    @Test func depthAndCountAreBounded() {
        let deepest = PayloadFlattener.maximumDepth
        func nested(_ depth: Int) -> String {
            String(repeating: #"{"a":"#, count: depth) + "1" + String(repeating: "}", count: depth)
        }
        #expect(flattened(nested(deepest)).hasSuffix("=1.0"))
        #expect(flattened(nested(deepest + 1)) == "event tooDeep")
        #expect(flattened(String(repeating: "[", count: 100_000)) == "event tooDeep")
        #expect(flattened(#"{"x":"# + String(repeating: "[", count: deepest) + "1") == "event tooDeep")
        let object = "{" + (0..<256).map { "\"k\($0)\":\($0)" }.joined(separator: ",")
        #expect(!flattened(object + "}").hasPrefix("event"))
        #expect(flattened(object + #","more":1}"#) == "event tooManyMetrics")
    }

    @Test func theTimeFieldIsTakenOut() {
        let subject = Subject(limit: 8, timeField: "meta.ts")
        #expect(describe(Array(#"{"meta":{"ts":1700000000.25,"x":1}}"#.utf8), subject) == "meta.x=1.0")
        #expect(subject.flattener.time == 1_700_000_000_250_000)
        #expect(
            describe(Array(#"{"meta":{"ts":"2023-11-14T22:13:20+00:00","s":""},"v":1}"#.utf8), subject)
                == #"v=1.0 rest {"meta":{"s":""}}"#)
        #expect(subject.flattener.time == 1_700_000_000_000_000)
        #expect(
            describe(Array(#"{"meta":{"ts":"yesterday"},"v":1}"#.utf8), subject)
                == #"v=1.0 rest {"meta":{"ts":"yesterday"}}"#)
        #expect(subject.flattener.time == nil && subject.flattener.hasUnusableTime)
        #expect(describe(Array(#"{"meta":{"ts":1e300}}"#.utf8), subject) == "meta.ts=1e+300")
        #expect(subject.flattener.hasUnusableTime)
        #expect(
            describe(Array(#"{"meta":{"ts":1700000000}}"#.utf8), subject) == "value",
            "nothing else is left: the whole")
        #expect(describe(Array(#"{"ts":1700000000}"#.utf8), subject) == "ts=1700000000.0")
        #expect(subject.flattener.time == nil && !subject.flattener.hasUnusableTime)
    }

    /// Foundation as the judge of what is JSON, and of the numbers, over texts made from pieces and mutations.
    @Test func agreesWithFoundation() {
        var generator = SplitMix(seed: 7)
        let subject = Subject()
        var counts = (valid: 0, invalid: 0)
        for _ in 0..<20_000 {
            var bytes = Array(randomJSON(depth: 0, &generator).utf8)
            if generator.next(below: 3) == 0, !bytes.isEmpty {
                for _ in 0...generator.next(below: 2) {
                    let index = generator.next(below: bytes.count)
                    switch generator.next(below: 3) {
                    case 0: bytes[index] = UInt8(generator.next(below: 128))
                    case 1: bytes.insert(Array("{}[]\",:-0e.\\ ".utf8)[generator.next(below: 13)], at: index)
                    default: bytes.remove(at: index)
                    }
                    if bytes.isEmpty { break }
                }
            }
            let text = String(decoding: bytes, as: UTF8.self)
            let ours = describe(bytes, subject)
            // Foundation skips NUL bytes and byte order marks, and reads UTF-16.
            if bytes.contains(0) { continue }
            let theirs = try? JSONSerialization.jsonObject(with: Data(bytes), options: .fragmentsAllowed)
            if theirs == nil {
                counts.invalid += 1
                // Foundation also refuses numbers that overflow a double and halves of surrogate pairs.
                let isStricter =
                    text.contains("e") || text.contains("E") || text.contains("\\u") || ours == "event duplicateKey"
                #expect(ours == "event noJSON" || isStricter, "\(text)")
            } else {
                counts.valid += 1
                // Foundation lets a comma stand before the end of an object; RFC 8259 does not.
                let isLenient = text.contains(/,\s*[}\]]/)
                #expect(ours != "event noJSON" || isLenient, "\(text)")
            }
            guard let object = theirs as? [String: Any], !ours.hasPrefix("event") else { continue }
            compare(object, path: "", in: subject.flattener)
        }
        #expect(counts.valid > 5_000 && counts.invalid > 1_000)
    }

    private func compare(_ object: [String: Any], path: String, in flattener: PayloadFlattener) {
        for (key, value) in object {
            let escaped = key.replacingOccurrences(of: "\\", with: "\\\\").replacingOccurrences(of: ".", with: "\\.")
            let place = path + escaped
            if let nested = value as? [String: Any] {
                compare(nested, path: place + ".", in: flattener)
            } else if let number = value as? NSNumber {
                let leaf = flattener.leaves.first { flattener.paths[$0.path].elementsEqual(place.utf8) }
                let theirs = number.doubleValue
                // Foundation's own parser is a unit in the last place off now and then.
                let isClose = leaf?.value.map { abs($0 - theirs) <= abs(theirs) * 1e-15 } ?? false
                #expect(isClose, "\(place) \(String(describing: leaf)) \(theirs)")
            }
        }
    }

    private func randomJSON(depth: Int, _ generator: inout SplitMix) -> String {
        switch generator.next(below: depth > 4 ? 6 : 9) {
        case 0: return ["true", "false", "null"][generator.next(below: 3)]
        case 1, 2: return String(generator.next(below: 100_000) - 50_000)
        case 3: return "\(Double(generator.next(below: 1_000_000)) / 997)"
        case 4: return "\(generator.next(below: 10)).5e\(generator.next(below: 60) - 30)"
        case 5: return "\"" + ["", "ab", "\\n", "ä", "\\u00e4", "x.y"][generator.next(below: 6)] + "\""
        case 6:
            return "["
                + (0..<generator.next(below: 4)).map { _ in randomJSON(depth: depth + 1, &generator) }
                .joined(separator: " , ") + "]"
        default:
            let members = (0..<generator.next(below: 5)).map {
                "\"\(["a", "b.c", "d\\\\", "ä", "e"][$0])\" :" + randomJSON(depth: depth + 1, &generator)
            }
            return "{" + members.joined(separator: ",") + "}"
        }
    }
}

/// The same numbers in every run.
struct SplitMix {
    private var state: UInt64

    init(seed: UInt64) { state = seed }

    mutating func next(below limit: Int) -> Int {
        state &+= 0x9E37_79B9_7F4A_7C15
        var z = state
        z = (z ^ (z >> 30)) &* 0xBF58_476D_1CE4_E5B9
        z = (z ^ (z >> 27)) &* 0x94D0_49BB_1331_11EB
        return Int((z ^ (z >> 31)) % UInt64(limit))
    }
}

@Suite struct JSONNumberTests {
    @Test func agreesWithTheLibraryOnRandomNumbers() {
        var generator = SplitMix(seed: 3)
        for _ in 0..<50_000 {
            let digits = (0...generator.next(below: 24)).map { _ in String(generator.next(below: 10)) }.joined()
            var text = (generator.next(below: 2) == 0 ? "-" : "") + String(generator.next(below: 9) + 1) + digits
            if generator.next(below: 2) == 0 { text += "." + String(digits.reversed()) }
            if generator.next(below: 2) == 0 { text += "e\(generator.next(below: 700) - 350)" }
            let bytes = Array(text.utf8)
            var position = 0
            let number = bytes.withUnsafeBytes { JSONNumber.parse($0, &position) }
            #expect(position == bytes.count)
            let expected = Double(text) ?? .infinity
            #expect(number?.value == (expected.isFinite ? expected : nil), "\(text)")
        }
    }
}

@Suite struct PayloadTimeTests {
    @Test(arguments: [
        (1_700_000_000.0, 1_700_000_000_000_000 as Int64?), (1_700_000_000_123, 1_700_000_000_123_000),
        (1_700_000_000_123_456, 1_700_000_000_123_456), (1_700_000_000.5, 1_700_000_000_500_000), (-1, -1_000_000),
        (0, 0), (1e17, nil), (-1e300, nil), (.nan, nil),
    ])
    func numbers(number: Double, expected: Int64?) {
        #expect(PayloadTime.microseconds(number) == expected)
    }

    @Test(arguments: [
        ("1970-01-01T00:00:00Z", 0 as Int64?), ("2023-11-14T22:13:20Z", 1_700_000_000_000_000),
        ("2023-11-14t23:13:20.1234567+01:00", 1_700_000_000_123_456),
        ("2023-11-14 20:43:20-01:30", 1_700_000_000_000_000),
        ("2000-02-29T00:00:00Z", 951_782_400_000_000), ("1969-12-31T23:59:59.5Z", -500_000),
        ("2016-12-31T23:59:60Z", 1_483_228_800_000_000),
        ("2001-02-29T00:00:00Z", nil), ("2023-13-01T00:00:00Z", nil), ("2023-11-14T24:00:00Z", nil),
        ("2023-11-14T22:13:20", nil), ("2023-11-14T22:13:20.Z", nil), ("2023-11-14T22:13:20+0100", nil),
        ("2023-11-14T22:13:20Zx", nil), ("", nil), ("2023-11-14", nil), ("20231114T221320Z....", nil),
    ])
    func texts(text: String, expected: Int64?) {
        let bytes = Array(text.utf8)
        #expect(bytes.withUnsafeBytes { PayloadTime.microseconds(rfc3339: $0) } == expected)
    }
}
