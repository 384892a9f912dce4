import NIOCore
import SyncModel

/// Batches as gateways send them: messages with one number each, a frame a batch, devices in turn.
struct Workload: Sendable {
    var gateways = 20
    /// Of each gateway.
    var devices = 50
    /// Of each batch.
    var messages = 5_000
    /// Microseconds since 1970 of the first message; one follows each millisecond of a gateway.
    var start: Int64

    private var next: [UInt64]
    private var sent = 0

    init(start: Int64) {
        self.start = start
        next = Array(repeating: 0, count: gateways)
    }

    /// The next batch, of the next gateway in turn, with at most `limit` messages.
    mutating func batch(limit: Int = .max) -> Batch {
        let gateway = sent % gateways
        sent += 1
        let first = next[gateway]
        let count = UInt64(min(messages, limit))
        next[gateway] += count
        let width = UInt64(devices)
        let names = (0..<devices).map { "line-\(gateway)-\($0)" }
        let topics = names.map { ByteBuffer(string: "devices/\($0)/temperature") }
        var records: [FrameRecord] = []
        records.reserveCapacity(Int(count))
        for number in first..<(first + count) {
            let device = Int(number % width)
            let value = 20 + Double(number % 1_000) / 100
            records.append(
                FrameRecord(
                    device: device, qos: 1, offset: Int64(number - first) * 1_000, topic: topics[device],
                    payload: ByteBuffer(string: "{\"celsius\":\(value)}")))
        }
        // Numbers are dense for each device; they are dealt in turn, so a device's next one follows from the sequence.
        let frameDevices = names.indices.map { device in
            FrameDevice(id: names[device], firstNumber: (first + width - 1 - UInt64(device)) / width + 1)
        }
        let clock = FrameClock(
            wallTime: start + Int64(first) * 1_000, monotonicTime: Int64(first) * 1_000, bootHigh: 1,
            bootLow: UInt64(gateway), isSynchronised: true)
        let epoch = Epoch(high: 0x5105_1CE, low: UInt64(gateway) + 1)
        return Batch(
            gateway: "bench-\(gateway)",
            accounts: [EpochAccount(epoch: epoch, lastSequence: first + count, isClosed: false)],
            frames: [
                Frame(epoch: epoch, firstSequence: first + 1, clock: clock, devices: frameDevices, records: records)
            ])
    }

}
