import Foundation
import LocalWork
import NIOCore
import Operations
import SyncModel
import Testing

@testable import Buffer

/// Groups of messages as the broker hands them over where there are rules.
struct LocalGroup {
    private var builder = FrameBuilder()
    private let clock: FrameClock

    init(at clock: SetClock) { self.clock = clock.clock.now() }

    mutating func add(
        _ device: DeviceHandle, _ payload: String, topic: String = "t", _ handling: MessageHandling = .held(rule: 0),
        priority: UInt8 = 5
    ) {
        builder.append(
            device: device, deviceID: "device-\(device)", qos: 1, retain: false, duplicate: false,
            topic: ByteBuffer(string: topic), payload: ByteBuffer(string: payload), properties: ByteBuffer(),
            clock: clock, priority: MessagePriority(priority), handling: handling)
    }

    mutating func take() -> [FrameDraft] { builder.take() }
}

extension Buffer {
    /// Messages of one device, all handled alike.
    @discardableResult
    func commit(
        _ payloads: [String], of device: DeviceHandle = 0, topic: String = "t",
        _ handling: MessageHandling = .held(rule: 0), at clock: SetClock
    ) async throws -> CommitReceipt {
        var group = LocalGroup(at: clock)
        for payload in payloads { group.add(device, payload, topic: topic, handling) }
        return try await commit(group.take())
    }

    /// Lets the writer do what is due by clocks that a test has set.
    func work(until isDone: (BufferFill) -> Bool = { $0.held.messages == 0 }) async throws {
        for _ in 0..<500 {
            _ = try await stats()
            if isDone(fill()) { return }
            try await Task.sleep(for: .milliseconds(5))
        }
        Issue.record("still held: \(fill().held)")
    }

    /// Until all that is done with is deleted.
    func workToTheEnd() async throws {
        for _ in 0..<500 {
            let left = try await perform { store throws(SQLiteError) in
                try store.connection.integer("SELECT count(*) FROM held") ?? 0
            }
            if left == 0 { return }
            try await Task.sleep(for: .milliseconds(5))
        }
        Issue.record("held frames are left")
    }
}

extension LocalRule {
    static func aggregate(
        _ name: String = "r", seconds: Int64 = 60, _ values: AggregateValues = [.mean, .count], deadBand: Double? = nil
    ) -> LocalRule {
        LocalRule(
            name: name,
            action: .aggregate(
                AggregationRule(
                    window: seconds * 1_000_000, values: values, deadBand: deadBand, maximumSilence: 3_600_000_000)))
    }
}

extension Outcome {
    /// Payloads of one device's messages, in the order in which they came.
    func payloads(of device: String = "device-0") -> [String] {
        frames.flatMap { frame in
            frame.records.filter { frame.devices[$0.device].id == device }.map { String(buffer: $0.payload) }
        }
    }

    /// Each aggregated message is counted in an aggregate of its device, and each line names messages of its device.
    func checkAggregates() {
        var counted: [String: UInt64] = [:]
        var sequences: [String: Set<UInt64>] = [:]
        for frame in frames {
            for (index, record) in frame.records.enumerated() {
                let device = frame.devices[record.device].id
                sequences["\(frame.epoch) \(device)", default: []].insert(frame.firstSequence + UInt64(index))
                guard let numbers = NumericPayload(record.payload) else { continue }
                counted[device, default: 0] += UInt64(numbers.members.first { $0.path == "count" }?.value ?? 0)
            }
        }
        var consumed: [String: UInt64] = [:]
        for line in ledger where line.reason == .aggregated {
            consumed[line.device, default: 0] += UInt64(line.numbers.count)
            if let aggregate = line.aggregate {
                let those = sequences["\(aggregate.epoch) \(line.device)"] ?? []
                #expect(those.contains(aggregate.sequences.lowerBound), "\(line)")
                #expect(those.contains(aggregate.sequences.upperBound), "\(line)")
            } else {
                Issue.record("\(line) names nothing")
            }
        }
        #expect(counted == consumed)
    }
}
