import NIOCore
import Processor
import SyncModel
import TestSupport
import Testing

enum SparkplugLog {
    static let now: Int64 = 1_700_000_000_000_000
    /// Milliseconds.
    static let sent: UInt64 = 1_700_000_000_000

    static let numbers = """
        SELECT concat_ws(' ', e.sequence, m.topic, m.path, e.value, e.text, e.part, e.parts, e.flags) AS line
        FROM measurement e JOIN metric m ON m.id = e.metric_id ORDER BY e.sequence, e.part
        """
}

/// A message of the Sparkplug namespace, as a gateway has sent it.
func sparkplug(
    _ sequence: UInt64, _ topic: String, gateway: String = "g1", epoch: Epoch = epochOne, device: String = "edge",
    lane: Lane = .live, at time: Int64 = SparkplugLog.now, _ payload: [UInt8]
) -> LogEntry {
    .messages(
        DeviceMessages(
            gateway: gateway, epoch: epoch, device: device, lane: lane,
            messages: [
                SyncedMessage(
                    sequence: sequence, number: sequence, qos: 0, wallTime: time,
                    topic: ByteBuffer(string: "spBv1.0/\(topic)"), payload: ByteBuffer(bytes: payload))
            ]))
}

func payload(_ ago: UInt64 = 0, seq: UInt64? = nil, _ metrics: SparkplugBytes.Metric...) -> [UInt8] {
    SparkplugBytes.payload(timestamp: SparkplugLog.sent - ago, seq: seq, metrics)
}

/// Sparkplug payloads, written byte by byte, on their way to rows.
@Suite struct SparkplugTests {
    private static let events = """
        SELECT concat_ws(' ', sequence, kind, part, parts, coalesce(body::text, encode(bytes, 'hex'))) AS line
        FROM event ORDER BY sequence
        """

    @Test func aBirthItsDataAndADeathAreTheSameMetrics() async throws {
        let warehouse = try await Warehouse()
        let log = MemoryLog(partitions: 1)
        await log.append(
            sparkplug(
                1, "G/NBIRTH/E",
                payload(
                    9, seq: 0, .init("bdSeq", datatype: 8, .long(3)),
                    .init("Motor/Temp.1", alias: 17, datatype: 9, .float(21.5)),
                    .init("Level", alias: 18, datatype: 1, .int(255)))),
            sparkplug(
                2, "G/NDATA/E",
                payload(5, seq: 1, .init(alias: 18, .int(254)), .init(alias: 17, .float(-0.5)))),
            sparkplug(
                3, "G/DBIRTH/E/D", payload(4, seq: 2, .init("Level", alias: 18, datatype: 5, .int(255)))),
            sparkplug(4, "G/DDATA/E/D", payload(3, seq: 3, .init(alias: 18, .int(254)))),
            sparkplug(5, "G/DDEATH/E/D", payload(2, seq: 4)),
            sparkplug(6, "G/NDEATH/E", payload(1, .init("bdSeq", datatype: 8, .long(3)))))
        try await warehouse.drain(log)
        #expect(
            try await warehouse.lines(SparkplugLog.numbers) == [
                "1 spBv1.0/G/E bdSeq 3 0 4 2", "1 spBv1.0/G/E Motor/Temp.1 21.5 1 4 2", "1 spBv1.0/G/E Level -1 2 4 2",
                "1 spBv1.0/G/E online 1 3 4 2", "2 spBv1.0/G/E Level -2 0 2 2",
                "2 spBv1.0/G/E Motor/Temp.1 -0.5 1 2 2", "3 spBv1.0/G/E/D Level 255 0 2 2",
                "3 spBv1.0/G/E/D online 1 1 2 2", "4 spBv1.0/G/E/D Level 254 0 1 2",
                "5 spBv1.0/G/E/D online 0 0 1 2", "6 spBv1.0/G/E bdSeq 3 0 2 0", "6 spBv1.0/G/E online 0 1 2 0",
            ])
        #expect(try await warehouse.one("SELECT count(*) AS n FROM event") == "0")
        #expect(
            try await warehouse.lines(
                """
                SELECT concat_ws(' ', group_name, node, device, sequence, alias, name, datatype) AS line
                FROM sparkplug_metric ORDER BY 1
                """) == [
                    "G E  1 17 Motor/Temp.1 9", "G E  1 18 Level 1", "G E  1 bdSeq 8", "G E D 3 18 Level 5",
                ])
    }

    @Test func eachMetricHasItsOwnTimeAndADeathTheGateways() async throws {
        let warehouse = try await Warehouse()
        let log = MemoryLog(partitions: 1)
        await log.append(
            sparkplug(
                1, "G/NDATA/E",
                payload(
                    1_000, .init("a", timestamp: SparkplugLog.sent - 60_000, .int(1)),
                    .init("a", timestamp: SparkplugLog.sent - 30_000, .int(2)),
                    .init("b", .int(3)))),
            // The will was made when the node connected, an hour ago.
            sparkplug(
                2, "G/NDEATH/E", payload(3_600_000, .init("bdSeq", timestamp: 5, datatype: 8, .long(0)))))
        try await warehouse.drain(log)
        #expect(
            try await warehouse.lines(
                "SELECT concat_ws(' ', sequence, part, to_char(time AT TIME ZONE 'UTC', 'HH24:MI:SS')) AS l FROM measurement ORDER BY 1"
            ) == ["1 0 22:12:20", "1 1 22:12:50", "1 2 22:13:19", "2 0 22:13:20", "2 1 22:13:20"])
    }

    @Test func whatIsNoNumberIsInTheEvent() async throws {
        let warehouse = try await Warehouse()
        let log = MemoryLog(partitions: 1)
        await log.append(
            sparkplug(
                1, "G/NDATA/E",
                payload(
                    0, .init("n", .int(1)), .init("s", datatype: 12, .string("a\"\\\n\u{1F600}")),
                    .init("s", timestamp: 7, datatype: 12, .string("again")),
                    .init("zero", datatype: 12, .string("a\0")),
                    .init("x", datatype: 17, .bytes([1, 2, 3, 4])), .init("gone", datatype: 10, .null))),
            sparkplug(
                2, "G/NDATA/E",
                payload(
                    0, .init("big", datatype: 8, .long(.max)), .init("small", datatype: 4, .long(1 << 63)),
                    .init("nan", .double(.nan)), .init("inf", .float(-.infinity)))),
            sparkplug(3, "G/NDATA/E", payload(0)))
        try await warehouse.drain(log)
        #expect(
            try await warehouse.lines(Self.events) == [
                #"1 10 1 2 [{"name": "s", "value": "a\"\\\n😀", "datatype": 12}, {"name": "s", "value": "again", "datatype": 12, "timestamp": 7}, {"name": "zero", "base64": "YQA=", "datatype": 12}, {"name": "x", "base64": "AQIDBA==", "datatype": 17}, {"name": "gone", "value": null, "datatype": 10}]"#,
                "3 10 0 1 []",
            ])
        #expect(
            try await warehouse.lines(SparkplugLog.numbers) == [
                "1 spBv1.0/G/E n 1 0 2 2", "2 spBv1.0/G/E big 1.8446744073709552e+19 18446744073709551615 0 4 2",
                "2 spBv1.0/G/E small -9.223372036854776e+18 -9223372036854775808 1 4 2", "2 spBv1.0/G/E nan NaN 2 4 2",
                "2 spBv1.0/G/E inf -Infinity 3 4 2",
            ])
    }

    @Test func qualityIsInTheRowsAndPropertiesAreInTheEvent() async throws {
        let warehouse = try await Warehouse()
        let log = MemoryLog(partitions: 1)
        let unit = SparkplugBytes.property(12) { $0.delimited(8, Array("°C\"".utf8)) }
        let good = SparkplugBytes.property(3) { $0.varint(3, 192) }
        let range = SparkplugBytes.property(10) { $0.fixed(6, (-1.5e300).bitPattern, bytes: 8) }
        let infinite = SparkplugBytes.property(10) { $0.fixed(6, (-Double.infinity).bitPattern, bytes: 8) }
        await log.append(
            sparkplug(
                1, "G/NDATA/E",
                payload(
                    0, .init("good", .int(1), more: SparkplugBytes.quality(192)),
                    .init("bad", .int(1), more: SparkplugBytes.quality(0)),
                    .init("stale", .int(1), more: SparkplugBytes.quality(500)),
                    .init("old", .int(1), more: SparkplugBytes { $0.varint(5, 1) }),
                    .init("passing", .int(1), more: SparkplugBytes { $0.varint(6, 1) }))),
            sparkplug(
                2, "G/NDATA/E",
                payload(
                    0,
                    .init(
                        "t", timestamp: 7, datatype: 3, .int(5),
                        more: SparkplugBytes.properties(
                            ("engUnit", unit), ("Quality", good), ("low", range), ("high", infinite))),
                    .init("odd", .int(6), more: SparkplugBytes.quality(64)),
                    .init("s", datatype: 12, .string("x"), more: SparkplugBytes.quality(500)),
                    .init("file", .int(1), more: SparkplugBytes { $0.delimited(8, [0x18, 0x05]) }),
                    .init("dark", .int(1), more: SparkplugBytes { $0.delimited(9, [0x0A, 0x01, 0x41]) }),
                    .init("null", .null, more: SparkplugBytes { $0.varint(5, 1) }))))
        try await warehouse.drain(log)
        #expect(
            try await warehouse.lines(SparkplugLog.numbers) == [
                "1 spBv1.0/G/E good 1 0 5 2", "1 spBv1.0/G/E bad 1 1 5 258", "1 spBv1.0/G/E stale 1 2 5 514",
                "1 spBv1.0/G/E old 1 3 5 1026", "1 spBv1.0/G/E passing 1 4 5 2050", "2 spBv1.0/G/E t 5 0 5 3",
                "2 spBv1.0/G/E odd 6 1 5 258", "2 spBv1.0/G/E file 1 2 5 2", "2 spBv1.0/G/E dark 1 3 5 2",
            ])
        #expect(
            try await warehouse.lines("SELECT concat_ws(' ', sequence, bytes IS NULL) AS l FROM event") == ["2 t"],
            "flags tell all of the first message")
        #expect(
            try await warehouse.lines("SELECT e::text FROM event, jsonb_array_elements(body) e WHERE sequence = 2") == [
                #"{"name": "t", "datatype": 3, "timestamp": 7, "properties": {"low": LOW, "high": "-Infinity", "Quality": 192, "engUnit": "°C\""}}"#
                    .replacing("LOW", with: "-15" + String(repeating: "0", count: 299)),
                #"{"name": "odd", "properties": {"Quality": 64}}"#,
                #"{"name": "s", "value": "x", "datatype": 12, "properties": {"Quality": 500}}"#,
                #"{"name": "file", "metadata": {"size": 5}}"#,
                #"{"name": "dark", "encoded_properties": "CgFB"}"#,
                #"{"name": "null", "value": null, "historical": true}"#,
            ])
    }

    /// Fields that the standard does not have, or that come twice: the payload is beside its rows.
    @Test func whatRowsCannotTellIsKeptAsItCame() async throws {
        let warehouse = try await Warehouse()
        let log = MemoryLog(partitions: 1)
        var extended = SparkplugBytes()
        extended.varint(1, SparkplugLog.sent)
        extended.delimited(9, [1, 2, 3])
        let doubled = payload(0, .init("n", .int(1), more: SparkplugBytes { $0.varint(11, 2) }))
        await log.append(
            sparkplug(1, "G/NDATA/E", extended.bytes), sparkplug(2, "G/NDATA/E", doubled),
            sparkplug(
                3, "G/NDATA/E",
                payload(0, .init("n", .int(3))) + SparkplugBytes { $0.delimited(4, [0x61]) }.bytes))
        try await warehouse.drain(log)
        let hex = [extended.bytes, doubled].map { bytes in
            bytes.map { ($0 < 16 ? "0" : "") + String($0, radix: 16) }.joined()
        }
        #expect(
            try await warehouse.lines(
                "SELECT concat_ws(' ', sequence, kind, part, parts, body, encode(bytes, 'hex')) AS l FROM event ORDER BY 1"
            )
                == [
                    "1 10 0 1 [] \(hex[0])", "2 10 1 2 [] \(hex[1])", #"3 10 1 2 [{"uuid": "a"}]"#,
                ])
        #expect(
            try await warehouse.lines(SparkplugLog.numbers) == ["2 spBv1.0/G/E n 2 0 2 2", "3 spBv1.0/G/E n 3 0 2 2"])
    }

    /// Beyond the year 9999: the gateway's time counts, and what was sent is kept.
    @Test func aTimestampThatIsNoTimeIsKeptAsItCame() async throws {
        let warehouse = try await Warehouse()
        let log = MemoryLog(partitions: 1)
        let bytes = payload(0, .init("n", timestamp: .max, .int(1)))
        await log.append(sparkplug(1, "G/NDATA/E", bytes))
        try await warehouse.drain(log)
        let hex = bytes.map { ($0 < 16 ? "0" : "") + String($0, radix: 16) }.joined()
        #expect(try await warehouse.lines("SELECT body::text || encode(bytes, 'hex') AS l FROM event") == ["[]\(hex)"])
        #expect(try await warehouse.lines(SparkplugLog.numbers) == ["1 spBv1.0/G/E n 1 0 2 6"])
    }

    /// What a node has kept for later: many values, few metrics.
    @Test func aMetricThatComesManyTimesNeedsOneId() async throws {
        let warehouse = try await Warehouse()
        let log = MemoryLog(partitions: 1)
        let values = (1...4).flatMap { value in
            ["a", "b", "c"].map {
                SparkplugBytes.Metric($0, timestamp: SparkplugLog.sent - UInt64(value), .int(UInt32(value)))
            }
        }
        await log.append(
            sparkplug(1, "G/NDATA/E", SparkplugBytes.payload(timestamp: SparkplugLog.sent, values)),
            sparkplug(2, "G/NDATA/E", payload(0, .init("d", .int(1)))))
        try await warehouse.drain(log) { $0.metricsPerDevice = 3 }
        #expect(try await warehouse.one("SELECT count(*) AS n FROM measurement") == "12")
        #expect(try await warehouse.lines("SELECT concat_ws(' ', sequence, kind) AS l FROM event") == ["2 4"])
    }

    @Test func commandsAreNoMeasurementsAndUseTheNodesAliases() async throws {
        let warehouse = try await Warehouse()
        let log = MemoryLog(partitions: 1)
        await log.append(
            sparkplug(
                1, "G/NBIRTH/E", payload(9, .init("setpoint", alias: 4, datatype: 3, .int(0)))),
            sparkplug(
                2, "G/NCMD/E",
                payload(1, .init(alias: 4, .int(9)), .init("Node Control/Rebirth", .boolean(true)))))
        try await warehouse.drain(log)
        #expect(
            try await warehouse.lines(SparkplugLog.numbers).dropFirst(2) == [
                "2 spBv1.0/G/NCMD/E setpoint 9 0 2 2", "2 spBv1.0/G/NCMD/E Node Control/Rebirth 1 1 2 2",
            ])
    }

    @Test func whatOnlyLooksLikeSparkplugIsAsAnyOtherMessage() async throws {
        let warehouse = try await Warehouse()
        let log = MemoryLog(partitions: 1)
        await log.append(
            sparkplug(1, "STATE/scada", Array(#"{"online":true,"timestamp":1700000000000}"#.utf8)),
            sparkplug(2, "G/NDATA/E", Array(#"{"t":1}"#.utf8)),
            sparkplug(3, "G/NDATA/E", [0x12, 0x05, 0x00]),
            sparkplug(4, "G/XDATA/E", payload(0, .init("n", .int(1)))),
            // Protobuf by chance, but nothing of a payload.
            sparkplug(5, "G/NDATA/E", Array("80".utf8)),
            sparkplug(6, "G/NDATA/E", Array("\"\u{1}1".utf8)))
        try await warehouse.drain(log)
        #expect(
            try await warehouse.lines(SparkplugLog.numbers)
                == [
                    "1 spBv1.0/STATE/scada online 1 0 2 0", "1 spBv1.0/STATE/scada timestamp 1700000000000 1 2 0",
                    "2 spBv1.0/G/NDATA/E t 1 0 1 0", "5 spBv1.0/G/NDATA/E value 80 0 1 0",
                ])
        #expect(
            try await warehouse.lines(Self.events).map { $0.split(separator: " ").prefix(2) } == [
                ["3", "2"], ["4", "2"], ["6", "2"],
            ])
    }

    @Test func namesThatCannotBeStoredKeepTheMessageWhole() async throws {
        let warehouse = try await Warehouse()
        let log = MemoryLog(partitions: 1)
        let long = String(repeating: "n", count: 513)
        let many = SparkplugBytes.payload(timestamp: SparkplugLog.sent, (0..<1_001).map { .init("m\($0)", .int(1)) })
        let whole = SparkplugBytes.payload(timestamp: SparkplugLog.sent, (0..<300).map { .init("w\($0)", .int(1)) })
        await log.append(
            sparkplug(1, "G/NBIRTH/E", payload(0, .init(long, alias: 1, .int(1)))),
            sparkplug(2, "G/NBIRTH/E", payload(0, .init("a\0b", alias: 2, .int(1)))),
            sparkplug(3, "G/NDATA/E", many),
            sparkplug(4, "G/NDATA/E", whole),
            sparkplug(
                5, "\(String(repeating: "g", count: 1_100))/NBIRTH/E",
                payload(0, .init("x", alias: 1, .int(1)))))
        try await warehouse.drain(log)
        #expect(
            try await warehouse.lines(
                "SELECT concat_ws(' ', sequence, kind, parts, length(bytes) > 10) AS l FROM event ORDER BY 1")
                == ["1 8 1 t", "2 7 1 t", "3 3 1 t", "5 8 1 t"])
        #expect(try await warehouse.one("SELECT count(*) AS n FROM measurement WHERE sequence = 4") == "300")
        #expect(try await warehouse.one("SELECT count(*) AS n FROM sparkplug_metric") == "0")
    }
}
