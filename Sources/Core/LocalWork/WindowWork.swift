import NIOCore
import SyncModel

/// A message to be committed in the place of those that a window held.
package struct StandIn: Sendable, Equatable {
    package var device: String
    package var topic: ByteBuffer
    package var payload: ByteBuffer
    package var properties = ByteBuffer()
    package var qos: UInt8
    package var retain = false
    package var duplicate = false
    package var isWill = false
    /// Of the last message that it stands for.
    package var clock: FrameClock
    /// To be remembered for the dead band.
    package var sent: SentSeries?
}

/// An aggregate of a topic that is sent.
package struct SentSeries: Sendable, Equatable {
    /// Of the messages, without the rule's suffix.
    package var topic: ByteBuffer
    package var values: SentValues
}

/// Messages of one device that a window held, with consecutive numbers.
package struct HeldRun: Sendable, Equatable {
    package var epoch: Epoch
    package var device: String
    package var sequences: ClosedRange<UInt64>
    package var numbers: ClosedRange<UInt64>
    /// What stands for them; `nil`: what `WindowOutcome.standIns` has of the device.
    package var aggregate: AggregateReference?

    package init(
        epoch: Epoch, device: String, sequences: ClosedRange<UInt64>, numbers: ClosedRange<UInt64>,
        aggregate: AggregateReference? = nil
    ) {
        self.epoch = epoch
        self.device = device
        self.sequences = sequences
        self.numbers = numbers
        self.aggregate = aggregate
    }
}

/// The aggregate of a series that was sent last.
package struct LastSent: Sendable, Equatable {
    package var values: SentValues
    package var epoch: Epoch
    package var sequence: UInt64
    /// Microseconds of the gateway's own time.
    package var time: Int64

    package init(values: SentValues, epoch: Epoch, sequence: UInt64, time: Int64) {
        self.values = values
        self.epoch = epoch
        self.sequence = sequence
        self.time = time
    }
}

/// What becomes of a window: all of it in one transaction.
package struct WindowOutcome: Sendable, Equatable {
    /// Those of a device follow one another.
    package var standIns: [StandIn] = []
    package var runs: [HeldRun] = []
    /// Messages that went into aggregates, sent or not.
    package var aggregated = 0
    /// Messages that go up as they are.
    package var released = 0
    /// Aggregates that were not sent, because of the dead band.
    package var unsent = 0
}

/// Collects the held messages of one window and decides what stands for them: pure, frames in, an outcome out. Without a
/// rule, because it is gone, all messages are released: they go up as they are.
package struct WindowWork: Sendable {
    /// Members of series, in all. A window of more is closed in parts.
    package static let maximumMembers = 100_000
    package static let maximumRuns = 20_000
    /// What the payloads that brought them hold, with the members' values: of all series, and of one, which is one message.
    package static let maximumMemberBytes = (all: 32 * 1024 * 1024, series: 128 * 1024)
    package static let maximumReleasedBytes = 1024 * 1024
    /// MQTT 5.0, 1.5.4.
    private static let maximumTopicBytes = 65_535

    private struct Series {
        var topic: ByteBuffer
        var summary = SeriesSummary()
        var memberBytes = 0
        var clock: FrameClock
    }

    private struct Device {
        var id: String
        var series: [Series] = []
        var places: [ByteBuffer: Int] = [:]
        var released: [StandIn] = []
        var runs: [HeldRun] = []
    }

    private let rule: AggregationRule?
    private var devices: [Device] = []
    private var places: [String: Int] = [:]
    private var members = 0
    private var memberBytes = 0
    private var hasLongSeries = false
    private var runs = 0
    private var releasedBytes = 0
    private var aggregated = 0

    package init(_ rule: AggregationRule?) { self.rule = rule }

    /// It is to be finished with what it has, and the rest of the window is another part.
    package var isFull: Bool {
        members >= Self.maximumMembers || runs >= Self.maximumRuns || releasedBytes >= Self.maximumReleasedBytes
            || hasLongSeries || memberBytes >= Self.maximumMemberBytes.all
    }

    /// Frames come in the order of their commits.
    package mutating func add(_ frame: Frame) {
        var numbers = frame.devices.map(\.firstNumber)
        let slots = frame.devices.map { place(of: $0.id) }
        for (index, record) in frame.records.enumerated() {
            let place = slots[record.device]
            note(
                epoch: frame.epoch, sequence: frame.firstSequence + UInt64(index), number: numbers[record.device],
                place: place)
            numbers[record.device] += 1
            add(record, clock: frame.clock.moved(by: record.offset), place: place)
        }
    }

    private mutating func place(of device: String) -> Int {
        if let place = places[device] { return place }
        places[device] = devices.count
        devices.append(Device(id: device))
        return devices.count - 1
    }

    private mutating func note(epoch: Epoch, sequence: UInt64, number: UInt64, place: Int) {
        if let last = devices[place].runs.last, last.epoch == epoch, last.numbers.upperBound + 1 == number {
            let index = devices[place].runs.count - 1
            devices[place].runs[index].numbers = last.numbers.lowerBound...number
            devices[place].runs[index].sequences = last.sequences.lowerBound...sequence
            return
        }
        devices[place].runs.append(
            HeldRun(
                epoch: epoch, device: devices[place].id, sequences: sequence...sequence, numbers: number...number))
        runs += 1
    }

    private mutating func add(_ record: FrameRecord, clock: FrameClock, place: Int) {
        guard rule != nil, let payload = NumericPayload(record.payload) else {
            devices[place].released.append(
                StandIn(
                    device: devices[place].id, topic: record.topic, payload: record.payload,
                    properties: record.properties, qos: record.qos, retain: record.retain, duplicate: record.duplicate,
                    isWill: record.isWill, clock: clock))
            releasedBytes +=
                record.topic.readableBytes + record.payload.readableBytes + record.properties.readableBytes + 64
            return
        }
        var index = devices[place].places[record.topic]
        if index == nil {
            index = devices[place].series.count
            // A copy: a slice would keep its whole frame.
            let topic = ByteBuffer(bytes: record.topic.readableBytesView)
            devices[place].places[topic] = index
            devices[place].series.append(Series(topic: topic, clock: clock))
        }
        guard let index else { return }
        let new = devices[place].series[index].summary.add(payload)
        if new > 0 {
            let bytes = record.payload.readableBytes + 64 * new
            members += new
            memberBytes += bytes
            devices[place].series[index].memberBytes += bytes
            hasLongSeries =
                hasLongSeries || devices[place].series[index].memberBytes >= Self.maximumMemberBytes.series
        }
        devices[place].series[index].clock = clock
        aggregated += 1
    }

    /// - Parameters:
    ///   - now: microseconds of the gateway's own time.
    ///   - lastSent: of a device and a topic; asked only where the rule has a dead band.
    package func finish<Failure: Error>(
        now: Int64, lastSent: (_ device: String, _ topic: ByteBuffer) throws(Failure) -> LastSent?
    ) throws(Failure) -> WindowOutcome {
        var outcome = WindowOutcome(aggregated: aggregated)
        for device in devices {
            var standIns: [StandIn] = []
            // Of what is not sent: the newest of the aggregates that stand for it.
            var earlier: LastSent?
            for series in device.series {
                let last = rule?.deadBand == nil ? nil : try lastSent(device.id, series.topic)
                if let last, let rule, isQuiet(series, rule, last, now: now) {
                    outcome.unsent += 1
                    if last.time >= earlier?.time ?? .min { earlier = last }
                } else {
                    standIns.append(standIn(series, of: device.id))
                }
            }
            standIns += device.released
            outcome.released += device.released.count
            outcome.standIns += standIns
            let aggregate = standIns.isEmpty ? earlier : nil
            outcome.runs += device.runs.map { run in
                var run = run
                run.aggregate = aggregate.map {
                    AggregateReference(epoch: $0.epoch, sequences: $0.sequence...$0.sequence)
                }
                return run
            }
        }
        return outcome
    }

    private func isQuiet(_ series: Series, _ rule: AggregationRule, _ last: LastSent, now: Int64) -> Bool {
        guard let deadBand = rule.deadBand, now - last.time < rule.maximumSilence else { return false }
        return series.summary.sentValues(rule.values).isWithin(deadBand, of: last.values)
    }

    private func standIn(_ series: Series, of device: String) -> StandIn {
        let values = rule?.values ?? []
        var topic = series.topic
        if let suffix = rule?.topicSuffix, topic.readableBytes + suffix.utf8.count <= Self.maximumTopicBytes {
            topic.writeString(suffix)
        }
        return StandIn(
            device: device, topic: topic, payload: series.summary.payload(values), qos: 1, clock: series.clock,
            sent: rule?.deadBand == nil
                ? nil : SentSeries(topic: series.topic, values: series.summary.sentValues(values)))
    }
}

extension FrameClock {
    /// - Parameter offset: microseconds; the decoder has checked that the sums fit.
    fileprivate func moved(by offset: Int64) -> FrameClock {
        var clock = self
        clock.wallTime += offset
        clock.monotonicTime += offset
        return clock
    }
}
