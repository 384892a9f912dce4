/// Counters of this host as `/proc` shows them at one moment.
package struct HostCounters: Sendable, Equatable {
    /// Ticks since boot, summed over all processors.
    package struct Processor: Sendable, Equatable {
        package var user: UInt64
        package var system: UInt64
        package var idle: UInt64
        package var wait: UInt64
        /// All of the line, so also interrupts and stolen time.
        package var total: UInt64
    }

    /// Bytes since boot.
    package struct Traffic: Sendable, Equatable {
        package var incoming: UInt64
        package var outgoing: UInt64
    }

    package var processor: Processor?
    package var memory: MemoryReading?
    package var load: LoadReading?
    /// Bytes read and written on all block devices.
    package var disk: Traffic?
    /// Bytes received and sent on all interfaces but loopback.
    package var network: Traffic?
}

/// Bytes.
package struct MemoryReading: Sendable, Equatable {
    package var total: UInt64
    package var available: UInt64
}

/// Mean number of runnable processes over 1, 5 and 15 minutes.
package struct LoadReading: Sendable, Equatable {
    package var one: Double
    package var five: Double
    package var fifteen: Double
}

/// What a simulated device reports: rates between two moments and the levels at the later one. A value that `/proc`
/// does not offer here is left out rather than invented.
package struct HostReading: Sendable, Equatable {
    /// Percent of all processors' time.
    package struct Processor: Sendable, Equatable {
        package var user: Double
        package var system: Double
        package var idle: Double
        package var wait: Double
    }

    /// Bytes a second.
    package struct Rates: Sendable, Equatable {
        package var incoming: Double
        package var outgoing: Double
    }

    package var processor: Processor?
    package var memory: MemoryReading?
    package var load: LoadReading?
    package var disk: Rates?
    package var network: Rates?

    /// - Parameter seconds: the time between the two moments, above 0.
    package init(from earlier: HostCounters, to later: HostCounters, seconds: Double) {
        if let old = earlier.processor, let new = later.processor, new.total > old.total {
            let span = Double(new.total - old.total)
            func percent(_ field: KeyPath<HostCounters.Processor, UInt64>) -> Double {
                Self.rounded(100 * Self.growth(old[keyPath: field], new[keyPath: field]) / span)
            }
            processor = Processor(
                user: percent(\.user), system: percent(\.system), idle: percent(\.idle), wait: percent(\.wait))
        }
        memory = later.memory
        load = later.load
        disk = Self.rates(earlier.disk, later.disk, seconds)
        network = Self.rates(earlier.network, later.network, seconds)
    }

    private static func rates(
        _ earlier: HostCounters.Traffic?, _ later: HostCounters.Traffic?, _ seconds: Double
    ) -> Rates? {
        guard let earlier, let later, seconds > 0 else { return nil }
        return Rates(
            incoming: rounded(growth(earlier.incoming, later.incoming) / seconds),
            outgoing: rounded(growth(earlier.outgoing, later.outgoing) / seconds))
    }

    /// A counter that went back (a device was removed, idle time was corrected) did not grow.
    private static func growth(_ earlier: UInt64, _ later: UInt64) -> Double {
        later > earlier ? Double(later - earlier) : 0
    }

    /// To two decimals, as an instrument would report.
    private static func rounded(_ value: Double) -> Double {
        (value * 100).rounded() / 100
    }
}

extension HostReading {
    /// The payload of one message: a JSON object with the message's number at `n`.
    package func payload(n: Int64) -> [UInt8] {
        var json = "{\"n\":\(n)"
        if let processor {
            json += ",\"cpu\":{\"user\":\(processor.user),\"system\":\(processor.system)"
            json += ",\"idle\":\(processor.idle),\"wait\":\(processor.wait)}"
        }
        if let memory {
            json += ",\"memory\":{\"total\":\(memory.total),\"available\":\(memory.available)}"
        }
        if let load {
            json += ",\"load\":{\"one\":\(load.one),\"five\":\(load.five),\"fifteen\":\(load.fifteen)}"
        }
        if let disk {
            json += ",\"disk\":{\"read\":\(disk.incoming),\"written\":\(disk.outgoing)}"
        }
        if let network {
            json += ",\"network\":{\"received\":\(network.incoming),\"sent\":\(network.outgoing)}"
        }
        json += "}"
        return Array(json.utf8)
    }
}
