import NIOCore
import TestSupport
import Testing

@testable import Sparkplug

@Suite struct SparkplugBirthsTests {
    /// Its digest is its name.
    private func birth(_ position: GatewayPosition, _ name: String, metrics: Int = 1) -> SparkplugBirth {
        let padding = repeatElement(UInt8(0), count: SparkplugDigest.byteCount - name.utf8.count)
        return SparkplugBirth(
            position: position, digest: SparkplugDigest(Array(name.utf8) + padding), metricCount: metrics)
    }

    private func at(_ sequence: Int64, wall: Int64 = 0) -> GatewayPosition { at(1, sequence, wall: wall) }

    private func at(_ run: Int32, _ sequence: Int64, wall: Int64 = 0, boot: UInt64 = 0, uptime: Int64 = 0)
        -> GatewayPosition
    {
        GatewayPosition(run: run, sequence: sequence, wallTime: wall, monotonicTime: uptime, bootLow: boot)
    }

    private func name(_ births: SparkplugBirths, _ position: GatewayPosition) -> String? {
        births.birth(at: position).map { String(decoding: $0.digest.bytes.prefix { $0 != 0 }, as: UTF8.self) }
    }

    private func births(
        _ all: [(GatewayPosition, String)], limits: SparkplugBirths.Limits = .init()
    ) -> SparkplugBirths {
        var births = SparkplugBirths(limits: limits)
        for (position, name) in all { births.learn(birth(position, name)) }
        return births
    }

    /// X, X again, and Y from between that comes late: what follows is X, not Y.
    @Test func aBirthThatComesLateDoesNotOutrankARepeat() {
        let births = births([(at(1), "X"), (at(9), "X"), (at(5), "Y")])
        #expect(name(births, at(4)) == "X" && name(births, at(5)) == "Y" && name(births, at(8)) == "Y")
        #expect(name(births, at(9)) == "X" && name(births, at(10)) == "X" && name(births, at(0)) == nil)
        #expect(births.metricCount == 2, "what is said again is kept once")
    }

    @Test func theSameMessageAgainIsNothingNew() {
        var births = births([(at(1), "X")])
        let isNew = births.learn(birth(at(1), "Y"))
        #expect(!isNew)
        #expect(name(births, at(2)) == "X" && births.count == 1)
    }

    /// Within a run the sequence is the order, whatever the gateway's clock does.
    @Test func stepsOfTheGatewaysClockDoNotMatterWithinARun() {
        let births = births([(at(1, wall: 1_000), "X"), (at(5, wall: 10), "Y")])
        #expect(name(births, at(2, wall: 5)) == "X" && name(births, at(6, wall: 2_000)) == "Y")
    }

    @Test func betweenRunsOfOneBootTheMonotonicClockDecides() {
        // The wall clock was set back an hour between the two runs.
        let births = births([
            (at(7, 1, wall: 9_000, boot: 3, uptime: 100), "X"), (at(8, 1, wall: 5_000, boot: 3, uptime: 200), "Y"),
            (at(2, 1, wall: 8_000, boot: 2, uptime: 150), "other boot"),
        ])
        #expect(name(births, at(9, 1, wall: 5_100, boot: 3, uptime: 300)) == "Y")
        #expect(name(births, at(9, 1, wall: 5_100, boot: 3, uptime: 150)) == "X")
        #expect(name(births, at(9, 1, wall: 8_500, boot: 3, uptime: 50)) == "other boot")
    }

    /// A rebuilt gateway begins again with sequence 1.
    @Test func betweenBootsTheWallClockDecidesAndOwnBirthsWin() {
        let births = births([
            (at(1, 500, wall: 100, boot: 1), "first"), (at(1, 900, wall: 200, boot: 1), "second"),
            (at(2, 3, wall: 300, boot: 2), "third"),
        ])
        #expect(name(births, at(2, 2, wall: 290, boot: 2)) == "second", "the last of the run before it")
        #expect(name(births, at(2, 4, wall: 0, boot: 2)) == "third")
        #expect(name(births, at(3, 1, wall: 400, boot: 3)) == "third")
        #expect(name(births, at(1, 400, wall: 400, boot: 1)) == "third", "nothing is known of its own run so early")
        #expect(name(births, at(3, 1, wall: 99, boot: 3)) == nil)
    }

    /// Whatever the order in which births arrive, all data is read the same.
    @Test(arguments: 0..<50 as Range<UInt64>)
    func theOrderOfArrivalDoesNotMatter(seed: UInt64) {
        var state = seed &* 2 &+ 1
        func random(_ below: Int) -> Int {
            state = state &* 6_364_136_223_846_793_005 &+ 1_442_695_040_888_963_407
            return Int(state >> 33) % below
        }
        // The gateway's whole life in its true order, with births and data.
        var life: [(position: GatewayPosition, birth: String?)] = []
        var uptime: Int64 = 0
        var wall: Int64 = 0
        for run in 1...6 as ClosedRange<Int32> {
            let boot = UInt64(run + 1) / 2
            if run % 2 == 1 {
                uptime = 0
                wall += 100
            }
            for sequence in 1...40 as ClosedRange<Int64> {
                uptime += 1
                wall += 1
                // The wall clock goes to and fro in every second run.
                let position = at(
                    run, sequence, wall: wall + Int64(run % 2 == 1 ? 0 : random(40)), boot: boot, uptime: uptime)
                let isBirth = random(12) == 0
                life.append((position, isBirth ? "n\(random(3))" : nil))
            }
        }
        var arriving = life.compactMap { entry in entry.birth.map { (entry.position, $0) } }
        for index in arriving.indices.reversed() { arriving.swapAt(index, random(index + 1)) }
        let births = births(arriving + arriving.prefix(20))
        var expected: String?
        for (position, birth) in life {
            expected = birth ?? expected
            #expect(name(births, position) == expected)
        }
    }

    // MARK: Bounds

    private func limits(births: Int, metrics: Int = 20_000) -> SparkplugBirths.Limits {
        var limits = SparkplugBirths.Limits()
        limits.births = births
        limits.metrics = metrics
        return limits
    }

    @Test func repeatsGoFirstAndNothingIsReadOtherwise() {
        var births = births(
            (1...10).map { (at($0), "X") } + (11...13).map { (at($0), "Y") } + [(at(14), "X")],
            limits: limits(births: 5))
        let removed = births.makeRoom()
        #expect(removed.repeats == (2...9).map { at($0) } + [at(12)] && removed.oldest.isEmpty)
        #expect(births.count == 5)
        for sequence in 1...20 as ClosedRange<Int64> {
            #expect(name(births, at(sequence)) == (11...13 ~= sequence ? "Y" : "X"))
        }
    }

    @Test func theNewBirthStaysAndTheOldestGoes() {
        var births = SparkplugBirths(limits: limits(births: 3))
        for sequence in 1...50 as ClosedRange<Int64> {
            births.learn(birth(at(sequence), "n\(sequence)"))
            let removed = births.makeRoom()
            #expect(removed.oldest == (sequence > 3 ? [at(sequence - 3)] : []))
            #expect(name(births, at(sequence)) == "n\(sequence)")
        }
        #expect(births.count == 3 && births.metricCount == 3)
        #expect(name(births, at(47)) == nil, "kept, never guessed")
    }

    @Test func metricsAreBoundedButForTheNewestBirth() {
        var births = SparkplugBirths(limits: limits(births: 100, metrics: 10))
        for sequence in 1...4 as ClosedRange<Int64> {
            births.learn(birth(at(sequence), "n\(sequence)", metrics: 4))
        }
        let first = births.makeRoom().oldest
        #expect(first == [at(1), at(2)] && births.metricCount == 8)
        births.learn(birth(at(5), "big", metrics: 50))
        let second = births.makeRoom().oldest
        #expect(second == [at(3), at(4)] && births.metricCount == 50)
        #expect(name(births, at(6)) == "big")
    }

    /// While a backlog of many runs drains, what is live keeps its names.
    @Test func theRunWithTheNewestTimeOutlivesABacklogOfOthers() {
        var births = births([(at(1, 1, wall: 1_000), "live")], limits: limits(births: 4))
        _ = births.makeRoom()
        for run in 2...20 as ClosedRange<Int32> {
            births.learn(birth(at(run, 1, wall: Int64(run)), "r\(run)"))
            _ = births.makeRoom()
            #expect(name(births, at(run, 2, wall: Int64(run))) == "r\(run)")
        }
        #expect(name(births, at(1, 2, wall: 2_000)) == "live" && births.count == 4)
    }

    // MARK: Definitions

    @Test func aDefinitionHasNamesByAliasAndTypesByName() throws {
        let bytes = SparkplugBytes.payload([
            .init("t", alias: 1, datatype: 3, .int(0)), .init("u", datatype: 2, .int(0)), .init("bare", .int(0)),
            .init("a\0", alias: 2, datatype: 3, .int(0)), .init("long", alias: 3, datatype: 3, .int(0)),
            .init("t", alias: 4, datatype: 7, .int(0)), .init("v", alias: 1, .int(0)),
        ])
        let definition = SparkplugDefinition(
            try SparkplugPayload.decode(ByteBuffer(bytes: bytes)).defined(maximumName: 3), digest: SparkplugDigest([]))
        #expect(definition.metrics.map { String(decoding: $0.name, as: UTF8.self) } == ["t", "u", "t", "v"])
        #expect(definition.metric(alias: 1)?.name == Array("t".utf8), "the first counts")
        #expect(definition.datatype(of: Array("u".utf8)) == 2 && definition.datatype(of: Array("t".utf8)) == 3)
        #expect(definition.metric(alias: 2) == nil && definition.metric(alias: 3) == nil)
    }

    @Test func aDigestKeepsItsBytes() {
        let bytes = (0..<32 as Range<UInt8>).map { 255 - 7 * $0 }
        #expect(SparkplugDigest(bytes).bytes == bytes)
        #expect(SparkplugDigest(bytes) != SparkplugDigest(Array(bytes.reversed())))
    }

    @Test(
        arguments: [
            ([], false), ([.init("a", alias: 1, datatype: 3, .int(0))], false),
            ([.init("a", datatype: 3, .int(0)), .init("b", .int(0))], true),
            ([.init(alias: 1, datatype: 3, .int(0))], true), ([.init("", alias: 1, datatype: 3, .int(0))], true),
        ] as [([SparkplugBytes.Metric], Bool)])
    func whatNamesAndTypesAllNeedsNoBirth(metrics: [SparkplugBytes.Metric], depends: Bool) throws {
        let payload = try SparkplugPayload.decode(ByteBuffer(bytes: SparkplugBytes.payload(seq: 1, metrics)))
        #expect(payload.dependsOnBirth == depends)
    }
}
