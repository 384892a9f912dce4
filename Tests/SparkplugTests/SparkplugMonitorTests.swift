import NIOCore
import TestSupport
import Testing

@testable import Sparkplug

@Suite struct SparkplugMonitorTests {
    private typealias Metric = SparkplugBytes.Metric

    private func tell(
        _ monitor: inout SparkplugMonitor, _ topic: String, seq: UInt64? = nil, at time: Int64 = 0,
        _ metrics: [Metric] = []
    ) {
        monitor.observe(
            topic: ByteBuffer(string: "spBv1.0/\(topic)"),
            payload: ByteBuffer(bytes: SparkplugBytes.payload(seq: seq, metrics)), wallTime: time)
    }

    private func bdSeq(_ number: UInt64) -> [Metric] { [Metric("bdSeq", datatype: 8, .long(number))] }

    private func sight(_ monitor: SparkplugMonitor) -> SparkplugMonitor.Sight? { monitor.sights(maximum: 10).first }

    @Test func aNodeAndItsDevicesLiveFromBirthToDeath() {
        var monitor = SparkplugMonitor()
        tell(&monitor, "g/NBIRTH/n", seq: 0, at: 77, bdSeq(1))
        tell(&monitor, "g/DBIRTH/n/a", seq: 1)
        tell(&monitor, "g/DBIRTH/n/b", seq: 2)
        tell(&monitor, "g/DDEATH/n/b", seq: 3)
        #expect(monitor.nodesOnline == 1 && monitor.devicesOnline == 1)
        #expect(
            sight(monitor)
                == .init(name: "g/n", state: .online, bornAt: 77, devices: 2, devicesOnline: 1, lost: 0))
        tell(&monitor, "g/NDEATH/n", bdSeq(1))
        #expect(monitor.nodesOnline == 0 && monitor.devicesOnline == 0 && sight(monitor)?.state == .offline)
        #expect(monitor.counters.births == 3 && monitor.counters.deaths == 2)
    }

    /// The will of a connection that broke may come after the node has connected and been born again.
    @Test func aDeathOfAnOlderConnectionIsIgnored() {
        var monitor = SparkplugMonitor()
        tell(&monitor, "g/NBIRTH/n", seq: 0, bdSeq(4))
        tell(&monitor, "g/NBIRTH/n", seq: 0, bdSeq(5))
        tell(&monitor, "g/NDEATH/n", bdSeq(4))
        #expect(sight(monitor)?.state == .online && monitor.counters.staleDeaths == 1)
        tell(&monitor, "g/NDEATH/n", bdSeq(5))
        #expect(sight(monitor)?.state == .offline && monitor.counters.staleDeaths == 1)
    }

    @Test func aNodesBirthForgetsItsDevices() {
        var monitor = SparkplugMonitor()
        tell(&monitor, "g/NBIRTH/n", seq: 0, bdSeq(0))
        tell(&monitor, "g/DBIRTH/n/a", seq: 1)
        tell(&monitor, "g/NBIRTH/n", seq: 0, bdSeq(1))
        #expect(monitor.devicesOnline == 0 && sight(monitor)?.devices == 0)
        tell(&monitor, "g/DDATA/n/a", seq: 1)
        #expect(monitor.devicesOnline == 0 && sight(monitor)?.devices == 1, "not there before its own birth")
        tell(&monitor, "g/DBIRTH/n/a", seq: 2)
        #expect(monitor.devicesOnline == 1 && sight(monitor)?.devices == 1)
    }

    /// A node that numbers its devices anew at each start.
    @Test func devicesWhoseNamesChangeDoNotUseUpTheBounds() {
        var limits = SparkplugMonitor.Limits()
        limits.devices = 2
        limits.aliases = 2
        var monitor = SparkplugMonitor(limits: limits)
        for life in 1...20 {
            tell(&monitor, "g/NBIRTH/n", seq: 0)
            for (device, alias) in [("a\(life)", 1), ("b\(life)", 2)] as [(String, UInt64)] {
                tell(&monitor, "g/DBIRTH/n/\(device)", seq: alias, [Metric("m", alias: alias, .int(0))])
                tell(&monitor, "g/DDATA/n/\(device)", [Metric(alias: alias, .int(0))])
            }
        }
        #expect(monitor.devicesOnline == 2 && monitor.counters.unfollowed == 0)
        #expect(monitor.counters.unknownAliases == 0)
    }

    /// A full table of nodes that are there: strangers are turned away before their payloads are looked at.
    @Test func strangersAreTurnedAwayUnread() {
        var limits = SparkplugMonitor.Limits()
        limits.nodes = 2
        var monitor = SparkplugMonitor(limits: limits)
        for name in ["a", "b"] { tell(&monitor, "g/NBIRTH/\(name)", seq: 0, bdSeq(0)) }
        func stranger(_ monitor: inout SparkplugMonitor) {
            monitor.observe(
                topic: ByteBuffer(string: "spBv1.0/g/NDATA/c"), payload: ByteBuffer(string: "{}"), wallTime: 0)
        }
        stranger(&monitor)
        #expect(monitor.counters.unfollowed == 1 && monitor.counters.malformed == 0)
        tell(&monitor, "g/NDEATH/a", bdSeq(0))
        stranger(&monitor)
        #expect(monitor.counters.unfollowed == 1 && monitor.counters.malformed == 1 && monitor.nodeCount == 2)
        tell(&monitor, "g/NDATA/c", seq: 1)
        #expect(Set(monitor.sights(maximum: 9).map(\.name)) == ["g/b", "g/c"])
    }

    @Test func missingNumbersOfTheSequenceAreCounted() {
        var monitor = SparkplugMonitor()
        tell(&monitor, "g/NBIRTH/n", seq: 0, bdSeq(0))
        for number in 1...300 as ClosedRange<UInt64> { tell(&monitor, "g/NDATA/n", seq: number % 256) }
        #expect(monitor.counters.lost == 0, "255 is followed by 0")
        tell(&monitor, "g/DDATA/n/a", seq: 300 % 256 + 4)
        #expect(monitor.counters.lost == 3 && sight(monitor)?.lost == 3, "one sequence for a node and its devices")
        tell(&monitor, "g/NDATA/n", seq: 300 % 256 + 4)
        #expect(monitor.counters.lost == 3, "the same again is no gap")
        tell(&monitor, "g/NDATA/n", seq: 256)
        #expect(monitor.counters.lost == 3, "no number of a sequence")
        tell(&monitor, "g/NBIRTH/n", seq: 0, bdSeq(1))
        tell(&monitor, "g/NDATA/n", seq: 1)
        #expect(monitor.counters.lost == 3, "a birth begins anew")
    }

    @Test func aNodeIsUnknownUntilItsBirth() {
        var monitor = SparkplugMonitor()
        tell(&monitor, "g/NDATA/n", seq: 9, [Metric(alias: 1, .int(5)), Metric("named", .int(1))])
        #expect(sight(monitor)?.state == .unknown && monitor.nodesOnline == 0 && monitor.counters.lost == 0)
        #expect(monitor.counters.unknownAliases == 1)
        tell(&monitor, "g/NDEATH/n", bdSeq(3))
        #expect(sight(monitor)?.state == .offline)
    }

    @Test func aliasesAreThoseOfTheLastBirth() {
        var monitor = SparkplugMonitor()
        tell(&monitor, "g/NBIRTH/n", seq: 0, [Metric("a", alias: 1, .int(0)), Metric("b", alias: 2, .int(0))])
        tell(&monitor, "g/DBIRTH/n/d", seq: 1, [Metric("c", alias: 3, .int(0))])
        tell(&monitor, "g/NDATA/n", seq: 2, [Metric(alias: 1, .int(1)), Metric(alias: 2, .int(1))])
        tell(&monitor, "g/DDATA/n/d", seq: 3, [Metric(alias: 3, .int(1))])
        #expect(monitor.counters.unknownAliases == 0)
        tell(&monitor, "g/DDATA/n/d", seq: 4, [Metric(alias: 1, .int(1))])
        #expect(monitor.counters.unknownAliases == 1, "a device has aliases of its own")
        tell(&monitor, "g/NBIRTH/n", seq: 0, [Metric("b", alias: 2, .int(0))])
        tell(&monitor, "g/NDATA/n", seq: 1, [Metric(alias: 1, .int(1)), Metric(alias: 2, .int(1))])
        #expect(monitor.counters.unknownAliases == 2)
    }

    @Test func commandsHostsAndStrangersChangeNothing() {
        var monitor = SparkplugMonitor()
        tell(&monitor, "g/NCMD/n", [Metric("Node Control/Rebirth", .boolean(true))])
        tell(&monitor, "g/DCMD/n/d")
        monitor.observe(
            topic: ByteBuffer(string: "spBv1.0/STATE/host"), payload: ByteBuffer(string: "{\"online\":true}"),
            wallTime: 0)
        #expect(monitor.nodeCount == 0 && monitor.counters == .init())
        tell(&monitor, "g/NWORD/n")
        monitor.observe(
            topic: ByteBuffer(string: "spBv1.0/g/NDATA/n"), payload: ByteBuffer(string: "{}"), wallTime: 0)
        #expect(monitor.nodeCount == 0 && monitor.counters.malformed == 2)
    }

    @Test func itIsBounded() {
        var limits = SparkplugMonitor.Limits()
        limits.nodes = 3
        limits.devices = 2
        limits.aliases = 4
        var monitor = SparkplugMonitor(limits: limits)
        for name in ["a", "b", "c"] { tell(&monitor, "g/NBIRTH/\(name)", seq: 0, bdSeq(0)) }
        tell(&monitor, "g/NBIRTH/d", seq: 0)
        #expect(monitor.nodeCount == 3 && monitor.counters.unfollowed == 1, "all are there")
        for name in ["x", "y", "z"] { tell(&monitor, "g/DBIRTH/a/\(name)", seq: 1) }
        #expect(monitor.devicesOnline == 2 && monitor.counters.unfollowed == 2)
        tell(&monitor, "g/NDEATH/b", bdSeq(0))
        tell(&monitor, "g/NDEATH/a", bdSeq(0))
        tell(
            &monitor, "g/NBIRTH/d", seq: 0, (1...9 as ClosedRange<UInt64>).map { Metric("m\($0)", alias: $0, .int(0)) })
        #expect(monitor.nodeCount == 3 && !monitor.sights(maximum: 9).contains { $0.name == "g/b" })
        tell(&monitor, "g/NDATA/d", seq: 1, (1...9 as ClosedRange<UInt64>).map { Metric(alias: $0, .int(0)) })
        #expect(monitor.counters.unknownAliases == 5, "four of nine were remembered")
        // The node with the devices makes room, and theirs with it.
        tell(&monitor, "g/NBIRTH/e", seq: 0)
        tell(&monitor, "g/DBIRTH/e/x", seq: 1)
        #expect(monitor.nodeCount == 3 && monitor.devicesOnline == 1 && monitor.nodesOnline == 3)
    }
}
