import Flow
import LocalWork
import NIOCore
import SyncModel
import Testing

private let epoch = Epoch(high: 1, low: 1)

/// One message of a window, as a test says it.
private struct Sample {
    var device: String
    var topic = "t"
    var payload: String
}

/// Frames as a gateway commits them: sequences and numbers are dense, and some messages are not held.
private struct FrameMaker {
    var epoch = Epoch(high: 1, low: 1)
    var sequence: UInt64 = 0
    var numbers: [String: UInt64] = [:]
    var time: Int64 = 1_000_000

    mutating func skip(_ device: String) {
        sequence += 1
        numbers[device, default: 0] += 1
    }

    mutating func frame(_ samples: [Sample]) -> Frame {
        time += 10_000_000
        let clock = FrameClock(
            wallTime: time + 5, monotonicTime: time, bootHigh: 1, bootLow: 2, isSynchronised: true)
        var frame = Frame(epoch: epoch, firstSequence: sequence + 1, clock: clock, devices: [], records: [])
        for (index, sample) in samples.enumerated() {
            if !frame.devices.contains(where: { $0.id == sample.device }) {
                frame.devices.append(
                    FrameDevice(id: sample.device, firstNumber: (numbers[sample.device] ?? 0) + 1))
            }
            skip(sample.device)
            frame.records.append(
                FrameRecord(
                    device: frame.devices.firstIndex { $0.id == sample.device }!, qos: 1, offset: Int64(index),
                    topic: ByteBuffer(string: sample.topic), payload: ByteBuffer(string: sample.payload)))
        }
        return frame
    }
}

extension WindowWork {
    fileprivate func finish(now: Int64 = 0, last: [String: LastSent] = [:]) -> WindowOutcome {
        finish(now: now) { device, topic in last["\(device) \(String(buffer: topic))"] }
    }
}

extension StandIn {
    fileprivate var text: String { String(buffer: payload) }
}

@Suite struct WindowWorkTests {
    private func rule(
        _ values: AggregateValues = .all, deadBand: Double? = nil, suffix: String = ""
    ) -> AggregationRule {
        AggregationRule(
            window: 60_000_000, values: values, deadBand: deadBand, maximumSilence: 100, topicSuffix: suffix)
    }

    @Test func windowsLieSideBySide() {
        let rule = AggregationRule(window: 10, values: .last)
        #expect([0, 9, 10, 11, -1, -10, -11].map(rule.windowEnd) == [10, 10, 20, 20, 0, 0, -10])
    }

    @Test func aLoneNumberBecomesItsValues() {
        var work = WindowWork(rule())
        var maker = FrameMaker()
        work.add(maker.frame([3, 1.5, 9, 2].map { Sample(device: "d", payload: "\($0)") }))
        let outcome = work.finish()
        #expect(outcome.standIns.map(\.text) == [#"{"last":2,"mean":3.875,"min":1.5,"max":9,"count":4}"#])
        #expect(
            outcome.runs == [HeldRun(epoch: epoch, device: "d", sequences: 1...4, numbers: 1...4, aggregate: nil)])
        #expect(outcome.aggregated == 4 && outcome.released == 0)
        // The time is that of the last message.
        #expect(outcome.standIns[0].clock.monotonicTime == maker.time + 3)
        #expect(outcome.standIns[0].clock.wallTime == maker.time + 8)
    }

    @Test func eachMemberIsAggregatedByItself() {
        var work = WindowWork(rule([.minimum, .maximum], suffix: "/minute"))
        var maker = FrameMaker()
        work.add(
            maker.frame([
                Sample(device: "d", topic: "a", payload: #"{"x":1,"y":-1}"#),
                Sample(device: "d", topic: "b", payload: "7"),
                Sample(device: "d", topic: "a", payload: #"{"y":4,"z":0.5}"#),
            ]))
        let outcome = work.finish()
        #expect(outcome.standIns.map { String(buffer: $0.topic) } == ["a/minute", "b/minute"])
        #expect(
            outcome.standIns.map(\.text) == [
                #"{"x":{"min":1,"max":1},"y":{"min":-1,"max":4},"z":{"min":0.5,"max":0.5}}"#, #"{"min":7,"max":7}"#,
            ])
        // One line for both topics: the device's numbers follow one another.
        #expect(outcome.runs.map(\.numbers) == [1...3])
    }

    @Test func objectsWithinObjectsStayThere() {
        var work = WindowWork(rule([.last]))
        var maker = FrameMaker()
        work.add(
            maker.frame([
                Sample(device: "d", payload: #"{"cpu":{"user":1,"idle":2},"n":3}"#),
                Sample(device: "d", payload: #"{"n":4,"cpu":{"idle":5,"wait":{"x":6}}}"#),
            ]))
        #expect(
            work.finish().standIns.map(\.text) == [
                #"{"cpu":{"user":{"last":1},"idle":{"last":5},"wait":{"x":{"last":6}}},"n":{"last":4}}"#
            ])
    }

    @Test func numbersThatWereNotHeldPartTheLines() {
        var work = WindowWork(rule())
        var maker = FrameMaker()
        work.add(maker.frame([Sample(device: "d", payload: "1"), Sample(device: "e", payload: "1")]))
        maker.skip("d")
        work.add(maker.frame([Sample(device: "d", payload: "1"), Sample(device: "e", payload: "2")]))
        maker.epoch = Epoch(high: 2, low: 2)
        maker.sequence = 0
        maker.numbers = [:]
        work.add(maker.frame([Sample(device: "d", payload: "1")]))
        let outcome = work.finish()
        #expect(
            outcome.runs == [
                HeldRun(epoch: epoch, device: "d", sequences: 1...1, numbers: 1...1),
                HeldRun(epoch: epoch, device: "d", sequences: 4...4, numbers: 3...3),
                HeldRun(epoch: Epoch(high: 2, low: 2), device: "d", sequences: 1...1, numbers: 1...1),
                HeldRun(epoch: epoch, device: "e", sequences: 2...5, numbers: 1...2),
            ])
        #expect(outcome.standIns.count == 2)
    }

    @Test func whatCannotBeReadGoesUpAsItIs() {
        var work = WindowWork(rule([.count]))
        var maker = FrameMaker()
        work.add(maker.frame([Sample(device: "d", payload: "1"), Sample(device: "d", topic: "u", payload: "on")]))
        let outcome = work.finish()
        #expect(outcome.standIns.map(\.text) == [#"{"count":1}"#, "on"])
        #expect(String(buffer: outcome.standIns[1].topic) == "u")
        #expect(outcome.aggregated == 1 && outcome.released == 1)
    }

    @Test func withoutARuleAllGoesUpAsItIs() {
        var work = WindowWork(nil)
        var maker = FrameMaker()
        work.add(maker.frame(["1", "x"].map { Sample(device: "d", payload: $0) }))
        let outcome = work.finish()
        #expect(outcome.standIns.map(\.text) == ["1", "x"] && outcome.released == 2 && outcome.runs.count == 1)
    }

    // MARK: Dead band

    private func sent(_ payload: String, at time: Int64, sequence: UInt64, _ rule: AggregationRule) throws -> LastSent {
        var work = WindowWork(rule)
        var maker = FrameMaker()
        work.add(maker.frame([Sample(device: "d", payload: payload)]))
        let values = try #require(work.finish().standIns.first?.sent?.values)
        #expect(SentValues(encoded: values.encoded) == values)
        return LastSent(values: values, epoch: Epoch(high: 9, low: 9), sequence: sequence, time: time)
    }

    @Test func withinTheDeadBandNothingIsSent() throws {
        let rule = rule([.mean, .count], deadBand: 0.5)
        let last = try sent("10", at: 1_000, sequence: 77, rule)
        for (payloads, now, isSent) in [
            (["10.5", "10.5"], 1_050, false), (["9.5"], 1_099, false), (["10.6"], 1_050, true),
            // Silent for too long.
            (["10"], 1_100, true), ([#"{"x":10}"#], 1_050, true),
        ] as [([String], Int64, Bool)] {
            var work = WindowWork(rule)
            var maker = FrameMaker()
            work.add(maker.frame(payloads.map { Sample(device: "d", payload: $0) }))
            let outcome = work.finish(now: now, last: ["d t": last])
            #expect(outcome.standIns.count == (isSent ? 1 : 0), "\(payloads)")
            #expect(outcome.unsent == (isSent ? 0 : 1))
            let reference = AggregateReference(epoch: Epoch(high: 9, low: 9), sequences: 77...77)
            #expect(outcome.runs.map(\.aggregate) == [isSent ? nil : reference])
        }
    }

    @Test func whatIsNotSentStandsWithWhatIsSentOfTheDevice() throws {
        let rule = rule([.last], deadBand: 1)
        let last = try sent("10", at: 0, sequence: 5, rule)
        var work = WindowWork(rule)
        var maker = FrameMaker()
        work.add(
            maker.frame([Sample(device: "d", payload: "10"), Sample(device: "d", topic: "other", payload: "1")]))
        let outcome = work.finish(now: 1, last: ["d t": last])
        #expect(outcome.standIns.map { String(buffer: $0.topic) } == ["other"] && outcome.unsent == 1)
        #expect(outcome.runs.map(\.aggregate) == [nil])
    }

    // MARK: Bounds

    @Test func aWindowOfTooMuchIsClosedInParts() {
        var maker = FrameMaker()
        var held = WindowWork(rule([.last]))
        var count = 0
        while !held.isFull {
            held.add(
                maker.frame((0..<1_000).map { Sample(device: "d", topic: "t\(count + $0)", payload: "1") }))
            count += 1_000
        }
        #expect(count == WindowWork.maximumMembers)
        var released = WindowWork(nil)
        let large = String(repeating: "x", count: 100_000)
        for _ in 0..<10 { released.add(maker.frame([Sample(device: "d", payload: large)])) }
        #expect(!released.isFull)
        released.add(maker.frame([Sample(device: "d", payload: large)]))
        #expect(released.isFull)
        var scattered = WindowWork(rule([.last]))
        for _ in 0..<WindowWork.maximumRuns {
            #expect(!scattered.isFull)
            scattered.add(maker.frame([Sample(device: "d", payload: "1")]))
            maker.skip("d")
        }
        #expect(scattered.isFull)
    }

    // MARK: Against a naive model

    /// Whatever comes: the values are those of the messages, and each number is in exactly one run.
    @Test(arguments: 1...40 as ClosedRange<UInt64>) func itAgreesWithANaiveModel(seed: UInt64) throws {
        var random = SplitMix64(seed: seed)
        var work = WindowWork(rule())
        var maker = FrameMaker()
        var values: [String: [Double]] = [:]
        var held: Set<String> = []
        var texts: [String] = []
        for _ in 0..<Int.random(in: 1...20, using: &random) {
            var samples: [Sample] = []
            for _ in 0..<Int.random(in: 1...30, using: &random) {
                let device = "d\(Int.random(in: 0...3, using: &random))"
                let topic = "t\(Int.random(in: 0...2, using: &random))"
                let value = Double(Int.random(in: -1_000...1_000, using: &random)) / 8
                let isNumber = Int.random(in: 0..<10, using: &random) > 0
                samples.append(Sample(device: device, topic: topic, payload: isNumber ? "\(value)" : "no \(value)"))
                if isNumber {
                    values["\(device) \(topic)", default: []].append(value)
                } else {
                    texts.append("no \(value)")
                }
            }
            let frame = maker.frame(samples)
            for run in frame.deviceRuns { for number in run.numbers { held.insert("\(run.device) \(number)") } }
            work.add(frame)
            if Bool.random(using: &random) { maker.skip("d\(Int.random(in: 0...3, using: &random))") }
        }
        let outcome = work.finish()
        var seen: [String: [String: Double]] = [:]
        for standIn in outcome.standIns where !standIn.text.hasPrefix("no") {
            let numbers = try #require(NumericPayload(standIn.payload))
            seen["\(standIn.device) \(String(buffer: standIn.topic))"] = Dictionary(
                uniqueKeysWithValues: numbers.members.map { ($0.path, $0.value) })
        }
        // Eighths add up exactly, so the naive mean is the right one.
        let expected = values.mapValues { all in
            [
                "last": all.last!, "mean": all.reduce(0, +) / Double(all.count), "min": all.min()!, "max": all.max()!,
                "count": Double(all.count),
            ]
        }
        #expect(seen == expected)
        #expect(outcome.standIns.map(\.text).filter { $0.hasPrefix("no") }.sorted() == texts.sorted())
        #expect(outcome.aggregated == values.values.reduce(0) { $0 + $1.count } && outcome.released == texts.count)
        var ended: [String] = []
        for run in outcome.runs { for number in run.numbers { ended.append("\(run.device) \(number)") } }
        #expect(ended.count == held.count && Set(ended) == held)
        // Those of a device follow one another.
        let devices = outcome.standIns.map(\.device)
        #expect(zip(devices, devices.dropFirst()).count { $0 != $1 } == Set(devices).count - 1)
    }
}
