import Glibc

/// Reads `/proc` at most every quarter of a second, however many devices ask. One thread's own.
struct HostSampler {
    /// Milliseconds: shorter spans than this are a few ticks of the processor's clock, and say nothing.
    static let period: Int64 = 250

    private var counters: HostCounters
    private var takenAt: Int64
    private var reading: HostReading

    /// - Parameter now: milliseconds of a monotonic clock.
    init(now: Int64) {
        counters = Self.readCounters()
        takenAt = now
        reading = HostReading(from: counters, to: counters, seconds: 1)
    }

    mutating func reading(now: Int64) -> HostReading {
        guard now - takenAt >= Self.period else { return reading }
        let later = Self.readCounters()
        reading = HostReading(from: counters, to: later, seconds: Double(now - takenAt) / 1000)
        counters = later
        takenAt = now
        return reading
    }

    static func readCounters() -> HostCounters {
        HostCounters(
            processor: contents("/proc/stat").flatMap(ProcFiles.processor(stat:)),
            memory: contents("/proc/meminfo").flatMap(ProcFiles.memory(meminfo:)),
            load: contents("/proc/loadavg").flatMap(ProcFiles.load(loadavg:)),
            disk: contents("/proc/diskstats").flatMap(ProcFiles.disk(diskstats:)),
            network: contents("/proc/net/dev").flatMap(ProcFiles.network(dev:)))
    }

    /// The first 64 KiB of a file: what is looked for stands at the start of the long ones.
    private static func contents(_ path: String) -> String? {
        let descriptor = open(path, O_RDONLY | O_CLOEXEC)
        guard descriptor >= 0 else { return nil }
        defer { close(descriptor) }
        var bytes = [UInt8](repeating: 0, count: 65_536)
        var count = 0
        while count < bytes.count {
            let got = bytes.withUnsafeMutableBytes { read(descriptor, $0.baseAddress! + count, $0.count - count) }
            guard got > 0 else { break }
            count += got
        }
        return count == 0 ? nil : String(decoding: bytes[..<count], as: UTF8.self)
    }
}
