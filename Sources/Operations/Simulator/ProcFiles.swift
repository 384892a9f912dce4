/// The files of `/proc` as values. Each function takes a whole file and gives nil when what it looks for is not in it.
package enum ProcFiles {
    /// The sum line of `/proc/stat`: `cpu user nice system idle iowait irq softirq steal …`, in ticks.
    package static func processor(stat: String) -> HostCounters.Processor? {
        guard let line = lines(stat).first(where: { $0.hasPrefix("cpu ") }) else { return nil }
        let ticks = fields(line).dropFirst().compactMap { UInt64($0) }
        guard ticks.count >= 5 else { return nil }
        // Guests' time (fields 9 and 10) is in user's and nice's already.
        let total = ticks.prefix(8).reduce(0, &+)
        return HostCounters.Processor(
            user: ticks[0] &+ ticks[1], system: ticks[2], idle: ticks[3], wait: ticks[4], total: total)
    }

    /// `/proc/meminfo`, whose unit is KiB.
    package static func memory(meminfo: String) -> MemoryReading? {
        var total: UInt64?
        var available: UInt64?
        for line in lines(meminfo) {
            let parts = fields(line)
            guard parts.count >= 2, let kibibytes = UInt64(parts[1]), kibibytes < 1 << 50 else { continue }
            switch parts[0] {
            case "MemTotal:": total = kibibytes * 1024
            case "MemAvailable:": available = kibibytes * 1024
            default: break
            }
        }
        guard let total, let available else { return nil }
        return MemoryReading(total: total, available: available)
    }

    /// `/proc/loadavg`.
    package static func load(loadavg: String) -> LoadReading? {
        let values = fields(loadavg[...]).prefix(3).compactMap { Double($0) }.filter(\.isFinite)
        guard values.count == 3 else { return nil }
        return LoadReading(one: values[0], five: values[1], fifteen: values[2])
    }

    /// `/proc/diskstats`: fields 6 and 10 are sectors of 512 bytes, whatever the device's own are. Partitions, loop and
    /// RAM devices are left out, since their traffic is that of the disk beneath, or none at all.
    package static func disk(diskstats: String) -> HostCounters.Traffic? {
        var sum: HostCounters.Traffic?
        for line in lines(diskstats) {
            let parts = fields(line)
            guard parts.count >= 10, isWholeDisk(parts[2]), let read = UInt64(parts[5]), let written = UInt64(parts[9])
            else { continue }
            let before = sum ?? HostCounters.Traffic(incoming: 0, outgoing: 0)
            sum = HostCounters.Traffic(
                incoming: before.incoming &+ read &* 512, outgoing: before.outgoing &+ written &* 512)
        }
        return sum
    }

    /// `sda`, `vdb`, `xvda`, `nvme0n1`, `mmcblk0`; not `sda1`, `nvme0n1p2`, `mmcblk0p1`, `loop3`.
    package static func isWholeDisk(_ name: Substring) -> Bool {
        for prefix in ["sd", "vd", "hd", "xvd"] where name.hasPrefix(prefix) {
            let rest = name.dropFirst(prefix.count)
            return !rest.isEmpty && rest.allSatisfy { $0.isLowercase && $0.isASCII }
        }
        for prefix in ["nvme", "mmcblk"] where name.hasPrefix(prefix) {
            return !name.dropFirst(prefix.count).contains("p")
        }
        return false
    }

    /// `/proc/net/dev`: after the interface's name and a colon, field 1 is bytes received and field 9 bytes sent.
    package static func network(dev: String) -> HostCounters.Traffic? {
        var sum: HostCounters.Traffic?
        for line in lines(dev) {
            guard let colon = line.firstIndex(of: ":") else { continue }
            let name = line[..<colon].drop { $0 == " " }
            let parts = fields(line[line.index(after: colon)...])
            guard name != "lo", parts.count >= 9, let received = UInt64(parts[0]), let sent = UInt64(parts[8])
            else { continue }
            let before = sum ?? HostCounters.Traffic(incoming: 0, outgoing: 0)
            sum = HostCounters.Traffic(incoming: before.incoming &+ received, outgoing: before.outgoing &+ sent)
        }
        return sum
    }

    private static func lines(_ text: String) -> [Substring] {
        text.split(separator: "\n")
    }

    private static func fields(_ line: Substring) -> [Substring] {
        line.split { $0 == " " || $0 == "\t" || $0 == "\n" }
    }
}
