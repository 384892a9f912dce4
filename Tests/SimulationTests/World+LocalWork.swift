import NIOCore
import SyncModel

@testable import Buffer

/// What the buffer commits by itself where there are rules, seen in its file.
extension World {
    /// After each turn of the writer.
    func lookForStandIns(_ edge: Edge) {
        guard !plan.rules.isEmpty, !disk.isDead, edge.store.failure == nil, edge.store.lastSequence > edge.recorded
        else { return }
        let rows = disk.quietly { self.rows(of: edge.store, after: edge.lookedAt) }[edge.epoch] ?? []
        let new = rows.filter { edge.recorded < $0.sequence && $0.sequence <= edge.store.lastSequence }
        if new.count != Int(edge.store.lastSequence - edge.recorded) {
            truth.problem("\(new.count) stand-ins are in the file from \(edge.recorded) to \(edge.store.lastSequence)")
        }
        for (_, row) in new { edge.numbers[row.device] = max(edge.numbers[row.device] ?? 0, row.number) }
        truth.stoodIn(new, epoch: edge.epoch, isCommitted: true)
        note("commits \(new.count) stand-ins to \(edge.store.lastSequence)")
        edge.recorded = edge.store.lastSequence
        edge.lookedAt = edge.store.last.frame
    }

    /// Power was cut while stand-ins were committed: the file tells whether they are.
    func recallStandIns(_ store: BufferStore) {
        for (epoch, rows) in disk.quietly({ self.rows(of: store, after: 0) }) where truth.epochs[epoch] != nil {
            truth.stoodIn(rows, epoch: epoch, isCommitted: false)
        }
    }

    /// In the order of their sequences.
    private func rows(
        of store: BufferStore, after frame: Int64
    ) -> [Epoch: [(sequence: UInt64, row: ModelCloud.Row)]] {
        var rows: [Epoch: [(sequence: UInt64, row: ModelCloud.Row)]] = [:]
        guard let frames = try? store.frames(from: frame + 1, through: .max, maximumBytes: .max).frames else {
            return [:]
        }
        for stored in frames {
            var encoded = stored.header
            encoded.writeImmutableBuffer(stored.records)
            guard let frame = try? Frame.decode(encoded) else { continue }
            var numbers = frame.devices.map(\.firstNumber)
            for (index, record) in frame.records.enumerated() {
                let row = ModelCloud.Row(
                    device: frame.devices[record.device].id, number: numbers[record.device],
                    payload: String(buffer: record.payload))
                rows[frame.epoch, default: []].append((frame.firstSequence + UInt64(index), row))
                numbers[record.device] += 1
            }
        }
        for epoch in rows.keys { rows[epoch]?.sort { $0.sequence < $1.sequence } }
        return rows
    }

    // MARK: Findings

    /// Aggregates stand for what their ledger lines say.
    func localProblems() -> [String] {
        guard !plan.rules.isEmpty, !isDamaged else { return [] }
        var problems: [String] = []
        var aggregated: UInt64 = 0
        for applied in cloud.tables.ledger where applied.line.reason == .aggregated {
            aggregated += applied.new.reduce(0) { $0 + $1.upperBound - $1.lowerBound + 1 }
            guard let aggregate = applied.line.aggregate else {
                problems.append("a line names no aggregate: \(applied.line)")
                continue
            }
            let known = truth.epochs[aggregate.epoch]
            let last = known?.last ?? known?.confirmed ?? 0
            for sequence in [aggregate.sequences.lowerBound, aggregate.sequences.upperBound]
            where sequence > last || known?.messages[sequence]?.device != applied.line.device {
                problems.append("\(applied.line) names an aggregate that is none of the device's")
            }
        }
        let isComplete = cloud.tables.ledger.allSatisfy { [.aggregated, .filtered].contains($0.line.reason) }
        guard isComplete, plan.rulesGone == 0, plan.poison == 0, plan.deadBand == nil else { return problems }
        let counted = cloud.tables.rows.values.reduce(UInt64(0)) { $0 + Self.count(in: $1.payload) }
        if counted != aggregated {
            problems.append("\(aggregated) messages were aggregated, and the aggregates count \(counted)")
        }
        return problems
    }

    /// How many messages an aggregate says it stands for; 0 for what is none.
    private static func count(in payload: String) -> UInt64 {
        guard payload.hasPrefix("{"), let colon = payload.lastIndex(of: ":") else { return 0 }
        return UInt64(payload[payload.index(after: colon)...].prefix { $0.isNumber }) ?? 0
    }
}
