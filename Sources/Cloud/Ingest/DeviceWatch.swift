import Flow
import Logging
import NIOConcurrencyHelpers
import Operations
import PKI
import SyncModel

/// Watches how fast each device sends, and tells of those that send too much. It refuses nothing: the limit of a device is
/// at its gateway, which meters it as it publishes.
final class DeviceWatch: Sendable {
    private struct State {
        var rates: DeviceRates
        /// When it was looked for unusual devices, and when they were last told of.
        var looked: Int64?
        var told: Int64?
    }

    /// Microseconds.
    private static let lookInterval: Int64 = 10_000_000
    private static let logInterval: Int64 = 300_000_000
    /// Devices that a line names.
    private static let named = 5

    private let state: NIOLockedValueBox<State>
    private let logger: Logger

    init(expected: Int?, metrics: MetricRegistry, logger: Logger) {
        let state = NIOLockedValueBox(State(rates: DeviceRates(expected: expected.map(Double.init))))
        self.state = state
        self.logger = logger
        metrics.gauge(.ingestUnusual) {
            let now = SystemClock.monotonicMicroseconds()
            return Double(state.withLockedValue { $0.rates.unusual(at: now).count })
        }
    }

    /// A batch that is in the log. Backlog says nothing of how fast devices send now.
    func observe(_ batch: Batch, now: Int64 = SystemClock.monotonicMicroseconds()) {
        guard batch.lane == .live else { return }
        let unusual = state.withLockedValue { state -> [DeviceRates.Unusual] in
            for frame in batch.frames { Self.observe(frame, of: batch.gateway, now, &state.rates) }
            guard state.looked.map({ now - $0 >= Self.lookInterval }) ?? true else { return [] }
            state.looked = now
            guard state.told.map({ now - $0 >= Self.logInterval }) ?? true else { return [] }
            let unusual = state.rates.unusual(at: now)
            if !unusual.isEmpty { state.told = now }
            return unusual
        }
        if !unusual.isEmpty { tell(unusual) }
    }

    private static func observe(_ frame: Frame, of gateway: String, _ now: Int64, _ rates: inout DeviceRates) {
        var counts = [Int](repeating: 0, count: frame.devices.count)
        for record in frame.records where counts.indices.contains(record.device) { counts[record.device] += 1 }
        let moment = DeviceRates.Moment(
            bootHigh: frame.clock.bootHigh, bootLow: frame.clock.bootLow, monotonic: frame.clock.monotonicTime)
        for (device, count) in zip(frame.devices, counts) where count > 0 {
            rates.observe(.init(gateway: gateway, id: device.id), messages: count, at: moment, now: now)
        }
    }

    private func tell(_ unusual: [DeviceRates.Unusual]) {
        let worst = unusual.prefix(Self.named).map { unusual in
            let (device, rate, usual) = (unusual.device, Self.shown(unusual.rate), Self.shown(unusual.usual))
            return "\(device.id.printable) at \(device.gateway.printable): \(rate)/s, usually \(usual)/s"
        }
        logger.warning(
            "Devices send more than is expected of them, or far more than they usually do; the fastest are named.",
            [.count: "\(unusual.count)", .device: "\(worst.joined(separator: "; "))"])
    }

    private static func shown(_ rate: Double) -> String { "\((rate * 10).rounded() / 10)" }
}
