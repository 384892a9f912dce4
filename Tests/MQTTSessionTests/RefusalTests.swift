import Flow
import MQTTWire
import NIOCore
import SyncModel
import Testing

@testable import MQTTSession

/// What is counted of each device, and what is kept of it.
@Suite struct RefusalTests {
    private static func limited(_ overLimit: OverLimit, _ change: (inout BrokerConfiguration) -> Void = { _ in })
        -> Harness
    {
        Harness {
            $0.defaultRate = RatePolicy(messagesPerSecond: 1, burst: 2, bytesPerSecond: nil, overLimit: overLimit)
            change(&$0)
        }
    }

    private func counts(_ h: Harness, _ device: String) -> CaseCounts<RefusalReason>? {
        h.broker.deviceSnapshots(now: h.now).first { $0.id == device }?.refused
    }

    @Test func refusalsAreStoredOnceAMinuteWithTheOrdinaryCommitsAndSurviveARestart() {
        let h = Self.limited(.refuse)
        _ = h.open(0, "c")
        for _ in 0..<5 { h.publish(0, "up/a") }
        _ = h.settle()
        #expect(counts(h, "d1")?[.rate] == 3)
        h.advance(seconds: 30)
        #expect(h.output.group.changes.isEmpty, "not yet")
        h.advance(seconds: 31)
        _ = h.settle()
        #expect(h.store.refusals["d1"]?.counts[.rate] == 3)
        h.advance(seconds: 200)
        #expect(h.output.group.changes.isEmpty, "nothing has changed since")

        h.restart()
        _ = h.open(0, "c")
        #expect(counts(h, "d1")?[.rate] == 3)
        #expect(h.broker.counters.refused.total == 0, "the process's own counters begin anew")
    }

    @Test func whatIsNotStoredYetIsAtTheEnd() {
        let h = Self.limited(.refuse)
        _ = h.open(0, "c")
        for _ in 0..<4 { h.publish(0, "up/a") }
        h.broker.shutdown(now: h.now, into: &h.output)
        _ = h.settle()
        #expect(h.store.refusals["d1"]?.counts[.rate] == 2)
    }

    @Test func devicesAreBoundedAndTheSumStays() {
        let h = Self.limited(.refuse) { $0.refusalDevicesMaximum = 32 }
        for index in UInt32(0)..<100 {
            _ = h.open(index, "c", device: "d\(index)")
            h.time += 1
            for _ in 0..<3 { h.publish(index, "up/a") }
        }
        h.advance(seconds: 61)
        _ = h.settle()
        #expect(h.store.refusals.count <= 34)
        #expect(h.store.refusals.values.reduce(0) { $0 + $1.counts.total } == 100)
        #expect(h.store.refusals[""]?.counts.total ?? 0 >= 66)
        #expect(h.store.refusals["d99"]?.counts[.rate] == 1)
        h.restart()
        h.advance(seconds: 61)
        #expect(h.output.group.changes.isEmpty)
    }

    @Test func aDeviceOverItsLimitsIsMarkedForAMinuteAlsoWhenItIsGone() throws {
        let h = Self.limited(.slow)
        _ = h.open(0, "c")
        _ = h.open(1, "quiet", device: "d2")
        for id in UInt16(1)...4 { h.publish(0, "up/a", qos: .atLeastOnce, id: id) }
        var seen = h.broker.deviceSnapshots(now: h.now)
        #expect(seen.first { $0.id == "d1" }?.isLimited == true)
        #expect(seen.first { $0.id == "d1" }?.clients.first?.heldMessages == 2)
        #expect(seen.first { $0.id == "d2" }?.isLimited == false)
        h.close(0)
        h.advance(seconds: 59)
        #expect(h.broker.limitedDevices == 1)
        seen = h.broker.deviceSnapshots(now: h.now)
        #expect(seen.first { $0.id == "d1" }?.clients == [])
        h.advance(seconds: 6)
        #expect(h.broker.limitedDevices == 0)
        #expect(!h.broker.deviceSnapshots(now: h.now).contains { $0.id == "d1" })
    }

    @Test func ratesCountWhatIsOfferedRefusedOrNot() throws {
        let h = Self.limited(.refuse)
        _ = h.open(0, "c")
        for _ in 0..<10 {
            for _ in 0..<4 { h.publish(0, "up/a", "123") }
            h.advance(seconds: 1)
            h.receive(0, .pingreq)
        }
        let device = try #require(h.broker.deviceSnapshots(now: h.now).first)
        #expect(device.lastTenSeconds == .init(messages: 4, bytes: 28))
        #expect(h.broker.meter.lastTenSeconds == .init(messages: 4, bytes: 28))
    }

    /// A broken sensor, by simulated minutes.
    @Test func aDeviceFarAboveItsOwnUsualIsFlaggedAndOthersAreNot() {
        let h = Harness()
        _ = h.open(0, "c")
        _ = h.open(1, "steady", device: "d2")
        func minute(_ count: Int) {
            for _ in 0..<12 {
                for _ in 0..<count { h.publish(0, "plain") }
                for _ in 0..<50 { h.publish(1, "plain") }
                h.receive(0, .pingreq)
                h.advance(seconds: 5)
                _ = h.settle()
            }
        }
        for _ in 0..<12 { minute(5) }
        #expect(h.broker.unusualDevices == 0)
        minute(100)
        minute(100)
        #expect(h.broker.unusualDevices == 1)
        #expect(h.broker.deviceSnapshots(now: h.now).filter(\.isUnusual).map(\.id) == ["d1"])
        minute(5)
        minute(5)
        #expect(h.broker.unusualDevices == 0)
    }
}
