/// Which of very many devices send more than is expected of them, or far more than they usually do.
///
/// Rates are those of the devices, not of the arrival: messages are counted by the gateway's monotonic clock, in whole
/// minutes, so that a gateway that catches up after a short outage raises no alarm, and one whose clock is wrong neither.
/// Kept are the devices that send most: with a capacity of 4,096 every device that sends more than 1/4,096 of all messages
/// is among them, which is 30 a second of 120,000. Times are microseconds.
package struct DeviceRates: Sendable {
    package struct Device: Hashable, Sendable {
        package var gateway: String
        package var id: String

        package init(gateway: String, id: String) {
            self.gateway = gateway
            self.id = id
        }
    }

    /// When the messages came to the gateway: the kernel's boot, and the monotonic clock in it.
    package struct Moment: Sendable, Equatable {
        package var bootHigh: UInt64
        package var bootLow: UInt64
        package var monotonic: Int64

        package init(bootHigh: UInt64, bootLow: UInt64, monotonic: Int64) {
            self.bootHigh = bootHigh
            self.bootLow = bootLow
            self.monotonic = monotonic
        }

        fileprivate var minute: Int64 { monotonic / DeviceRates.minute }

        fileprivate func isOfSameBoot(as other: Moment) -> Bool {
            bootHigh == other.bootHigh && bootLow == other.bootLow
        }
    }

    package struct Unusual: Sendable, Equatable {
        package var device: Device
        /// Messages a second over its last whole minute.
        package var rate: Double
        /// Messages a second in the minutes in which it sends.
        package var usual: Double
    }

    fileprivate struct History: Sendable {
        /// Of its newest messages.
        var newest: Moment
        /// In the minute of `newest`.
        var count = 0
        /// That minute was seen from its beginning.
        var isWhole = false
        var usual = UsualRate()
        var rate = 0.0
        var isOver = false
        /// When it was last heard of, by our own clock.
        var heard: Int64
    }

    fileprivate static let minute: Int64 = 60_000_000
    /// Without a word for longer, a device is not unusual any more.
    package static let silence: Int64 = 3 * minute
    package static let defaultCapacity = 4_096

    /// Messages a second; `nil`: any.
    private let expected: Double?
    private var devices: HeavyHitters<Device, History>
    private var halved: Int64?

    package init(expected: Double?, capacity: Int = Self.defaultCapacity) {
        self.expected = expected
        devices = HeavyHitters(capacity: capacity)
    }

    /// Live messages that came to the gateway together. What is not later than what is known of the device is a repeat,
    /// and is left out.
    package mutating func observe(_ device: Device, messages: Int, at moment: Moment, now: Int64) {
        forget(at: now)
        let expected = expected
        devices.add(
            UInt64(max(0, messages)), of: device,
            fresh: History(
                newest: Moment(bootHigh: moment.bootHigh, bootLow: moment.bootLow, monotonic: .min), heard: now)
        ) { $0.observe(messages, at: moment, now: now, expected: expected) }
    }

    /// Devices that are unusual now, the fastest first.
    package func unusual(at now: Int64) -> [Unusual] {
        devices.entries.filter { $0.value.isOver && now - $0.value.heard <= Self.silence }
            .map { Unusual(device: $0.key, rate: $0.value.rate, usual: $0.value.usual.average) }
            .sorted { ($0.rate, $1.device.id) > ($1.rate, $0.device.id) }
    }

    private mutating func forget(at now: Int64) {
        guard let last = halved else {
            halved = now
            return
        }
        guard now - last >= Self.minute else { return }
        halved = now
        devices.halve()
    }
}

extension DeviceRates.History {
    fileprivate mutating func observe(_ messages: Int, at moment: DeviceRates.Moment, now: Int64, expected: Double?) {
        let isSameBoot = moment.isOfSameBoot(as: newest)
        guard !isSameBoot || moment.monotonic > newest.monotonic else { return }
        heard = now
        if !isSameBoot || newest.monotonic == .min {
            isWhole = false
            count = 0
        } else if moment.minute > newest.minute {
            if isWhole { judge(expected: expected) }
            // A minute after one without messages may have begun in silence, which makes its rate no higher.
            isWhole = true
            count = 0
        }
        newest = moment
        count += messages
    }

    private mutating func judge(expected: Double?) {
        rate = Double(count) / 60
        usual.observe(minute: rate)
        isOver = usual.isExceeded || expected.map { rate > $0 } ?? false
    }
}
