import Foundation
import Testing

@testable import Simulator

@Suite struct ProcFilesTests {
    @Test func processorIsTheSumLine() {
        let stat = "cpu  100 5 30 800 20 1 2 3 50 0\ncpu0 50 2 15 400 10 0 1 1 25 0\nintr 1\n"
        let processor = ProcFiles.processor(stat: stat)
        #expect(processor == .init(user: 105, system: 30, idle: 800, wait: 20, total: 961))
    }

    @Test(arguments: ["", "cpu0 1 2 3 4 5", "cpu  1 2 3", "cpu  a b c d e"])
    func processorIsMissingFromOtherText(stat: String) {
        #expect(ProcFiles.processor(stat: stat) == nil)
    }

    @Test func memoryIsInBytes() {
        let meminfo = "MemTotal:        2048 kB\nMemFree:  1 kB\nMemAvailable:     512 kB\n"
        #expect(ProcFiles.memory(meminfo: meminfo) == MemoryReading(total: 2_097_152, available: 524_288))
        #expect(ProcFiles.memory(meminfo: "MemTotal: 2048 kB\n") == nil)
        #expect(ProcFiles.memory(meminfo: "MemTotal: 18446744073709551615 kB\nMemAvailable: 1 kB\n") == nil)
    }

    @Test func loadIsThreeNumbers() {
        #expect(ProcFiles.load(loadavg: "0.10 1.25 2.00 1/234 567\n") == LoadReading(one: 0.1, five: 1.25, fifteen: 2))
        #expect(ProcFiles.load(loadavg: "0.10 nan 2.00 1/234 567\n") == nil)
    }

    @Test func diskSumsWholeDisksInBytes() {
        let diskstats = """
               8       0 sda 10 0 100 5 20 0 200 5 0 10 10
               8       1 sda1 10 0 100 5 20 0 200 5 0 10 10
             259       0 nvme0n1 10 0 1 5 20 0 2 5 0 10 10
             259       1 nvme0n1p1 10 0 7 5 20 0 7 5 0 10 10
               7       0 loop0 10 0 9 5 20 0 9 5 0 10 10
            """
        #expect(ProcFiles.disk(diskstats: diskstats) == .init(incoming: 101 * 512, outgoing: 202 * 512))
        #expect(ProcFiles.disk(diskstats: "   7       0 loop0 10 0 9 5 20 0 9 5 0 10 10\n") == nil)
    }

    @Test(arguments: [
        ("sda", true), ("vdb", true), ("xvdc", true), ("mmcblk0", true), ("nvme1n1", true), ("sda1", false),
        ("mmcblk0p1", false), ("nvme0n1p2", false), ("ram0", false), ("sd", false), ("dm-0", false),
    ])
    func wholeDisks(name: String, isWhole: Bool) {
        #expect(ProcFiles.isWholeDisk(name[...]) == isWhole)
    }

    @Test func networkLeavesLoopbackOut() {
        let dev = """
            Inter-|   Receive                                                |  Transmit
             face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs
                lo:  999       1    0    0    0     0          0         0      999       1    0
              eth0: 1000       1    0    0    0     0          0         0     2000       1    0
            wlan0:5 1 0 0 0 0 0 0 7 1 0
            """
        #expect(ProcFiles.network(dev: dev) == .init(incoming: 1005, outgoing: 2007))
    }

    @Test func thisHostIsReadable() {
        let counters = HostSampler.readCounters()
        #expect(counters.processor != nil)
        #expect(counters.memory.map { $0.total > 0 && $0.available <= $0.total } == true)
        #expect(counters.load != nil)
    }
}

@Suite struct HostReadingTests {
    private func counters(user: UInt64, idle: UInt64, total: UInt64, received: UInt64) -> HostCounters {
        HostCounters(
            processor: .init(user: user, system: 0, idle: idle, wait: 0, total: total),
            memory: MemoryReading(total: 100, available: 40), load: LoadReading(one: 0.5, five: 1, fifteen: 2),
            disk: nil, network: .init(incoming: received, outgoing: 0))
    }

    @Test func ratesAreOverTheSpan() {
        let reading = HostReading(
            from: counters(user: 10, idle: 80, total: 100, received: 1000),
            to: counters(user: 40, idle: 150, total: 200, received: 2000), seconds: 2)
        #expect(reading.processor == .init(user: 30, system: 0, idle: 70, wait: 0))
        #expect(reading.network == .init(incoming: 500, outgoing: 0))
        #expect(reading.disk == nil)
    }

    @Test func aCounterThatWentBackDidNotGrow() {
        let reading = HostReading(
            from: counters(user: 10, idle: 80, total: 100, received: 5000),
            to: counters(user: 40, idle: 70, total: 200, received: 20), seconds: 1)
        #expect(reading.processor?.idle == 0)
        #expect(reading.network?.incoming == 0)
    }

    @Test func payloadIsJSONWithTheNumber() throws {
        let one = counters(user: 10, idle: 80, total: 100, received: 0)
        let two = counters(user: 40, idle: 150, total: 200, received: 300)
        let payload = HostReading(from: one, to: two, seconds: 1).payload(n: 1_763_900_000_000_000)
        let parsed = try #require(try JSONSerialization.jsonObject(with: Data(payload)) as? [String: Any])
        #expect((parsed["n"] as? NSNumber)?.int64Value == 1_763_900_000_000_000)
        #expect((parsed["cpu"] as? [String: Double])?["user"] == 30)
        #expect((parsed["memory"] as? [String: Double])?["available"] == 40)
        #expect((parsed["network"] as? [String: Double])?["received"] == 300)
        #expect(parsed["disk"] == nil)
    }
}
