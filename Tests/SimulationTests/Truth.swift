import MQTTWire
import NIOCore
import SyncModel

@testable import Buffer

/// What is known from outside the buffer: which message was to get which identity, and up to where each epoch was
/// confirmed. It is compared with what the buffer and the cloud say.
struct Truth {
    struct Message {
        var device: String
        var number: Int
        var qos: QoS
    }

    struct EpochTruth {
        var messages: [UInt64: ModelCloud.Row] = [:]
        /// Receipts say that all up to here is committed.
        var confirmed: UInt64 = 0
        /// The buffer has said so at a later start, or at the end.
        var last: UInt64?
    }

    /// By payload.
    var published: [String: Message] = [:]
    private(set) var epochs: [Epoch: EpochTruth] = [:]
    private(set) var problems: [String] = []
    /// The buffer commits messages of its own, for those that it has aggregated or released.
    var hasStandIns = false

    mutating func problem(_ text: String) { if problems.count < 5 { problems.append(text) } }

    /// A group is given to the buffer.
    ///
    /// - Parameter numbers: the last of each device.
    /// - Returns: the last numbers of each device when the group is committed.
    mutating func attempted(
        _ drafts: [FrameDraft], epoch: Epoch, first: UInt64, numbers: [String: UInt64]
    ) -> [String: UInt64] {
        var numbers = numbers
        var next = first
        for draft in drafts where draft.count > 0 {
            let firstNumbers = draft.devices.map { numbers[$0.id, default: 0] + 1 }
            let header = draft.header(epoch: epoch, firstSequence: next, firstNumbers: firstNumbers)
            guard let parts = FrameParts(header: header, records: draft.records) else {
                problem("a draft is no frame")
                continue
            }
            for index in 0..<parts.count {
                let message = parts.message(at: index)
                let row = ModelCloud.Row(
                    device: message.device, number: message.number, payload: String(buffer: message.payload))
                let old = epochs[epoch, default: EpochTruth()].messages.updateValue(row, forKey: message.sequence)
                // What the buffer commits by itself may have come between a group's failure and its return.
                let mayChange = hasStandIns && message.sequence > epochs[epoch]?.confirmed ?? 0
                if let old, old != row, !mayChange { problem("sequence \(message.sequence) is given to two messages") }
            }
            for device in draft.devices { numbers[device.id, default: 0] += device.count }
            next += UInt64(draft.count)
        }
        return numbers
    }

    mutating func confirmed(_ receipt: CommitReceipt, first: UInt64) {
        guard receipt.messageCount > 0 else { return }
        if receipt.firstSequence != first { problem("a commit begins at \(receipt.firstSequence), not at \(first)") }
        epochs[receipt.epoch, default: EpochTruth()].confirmed = receipt.lastSequence
    }

    /// Stand-ins that the buffer has committed; what was confirmed before does not change.
    mutating func stoodIn(_ rows: [(sequence: UInt64, row: ModelCloud.Row)], epoch: Epoch, isCommitted: Bool) {
        for (sequence, row) in rows where sequence > epochs[epoch]?.confirmed ?? 0 {
            epochs[epoch, default: EpochTruth()].messages[sequence] = row
        }
        guard isCommitted, let last = rows.last?.sequence else { return }
        epochs[epoch, default: EpochTruth()].confirmed = max(epochs[epoch]?.confirmed ?? 0, last)
    }

    // MARK: What the buffer says

    mutating func started(_ epoch: Epoch, _ store: BufferStore, isDamaged: Bool) {
        if epochs[epoch] != nil { problem("an epoch comes twice") }
        compare(store, isDamaged: isDamaged)
        // Stand-ins alone may be committed in it, and the daemon end before they are seen.
        epochs[epoch] = EpochTruth()
    }

    /// Each epoch ends between what was confirmed and what was tried.
    mutating func compare(_ store: BufferStore, isDamaged: Bool) {
        let result = store.attempt { () throws(SQLiteError) in try store.accounting() }
        guard case .success(let accounting) = result else { return }
        for (epoch, truth) in epochs {
            let said = accounting.epochs.first { $0.epochValue == epoch }?.lastSequence ?? 0
            // Damage may take what nothing else tells of.
            if said < truth.confirmed, !isDamaged {
                problem("an epoch ends at \(said), \(truth.confirmed) were confirmed")
            }
            if said > UInt64(truth.messages.count) {
                problem("an epoch ends at \(said), \(truth.messages.count) were tried")
            }
            if let last = truth.last, last != said, epoch != store.epoch, !isDamaged {
                problem("a closed epoch ended at \(last), now at \(said)")
            }
            epochs[epoch]?.last = epoch == store.epoch ? nil : said
        }
        for entry in accounting.epochs {
            guard let epoch = entry.epochValue, epochs[epoch] != nil else {
                // The table of epochs has no checksums.
                if !isDamaged { problem("an epoch that nobody began: \(entry.epoch)") }
                continue
            }
            if entry.bufferedRanges == nil { problem("the accounting of an epoch makes no sense: \(entry)") }
        }
    }
}
