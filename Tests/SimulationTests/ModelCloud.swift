import Flow
import NIOCore
import SyncModel

/// The cloud as the gateway sees it: a log that answers 200 when a batch is durable, and a processor that brings the log
/// into tables in transactions of rows, deduplication and offset together.
struct ModelCloud {
    struct Identity: Hashable, Comparable {
        var epoch: Epoch
        var sequence: UInt64

        static func < (a: Self, b: Self) -> Bool { (a.epoch, a.sequence) < (b.epoch, b.sequence) }
    }

    struct Row: Equatable {
        var device: String
        var number: UInt64
        var payload: String
    }

    struct Line {
        var line: LedgerLine
        /// Numbers that it ended.
        var new: [ClosedRange<UInt64>]
    }

    struct Device: Hashable {
        var epoch: Epoch
        var id: String
    }

    struct Tables {
        var rows: [Identity: Row] = [:]
        var ledger: [Line] = []
        var ended: [Device: DeduplicationState] = [:]
        var accounts: [Epoch: EpochAccount] = [:]
        var offset = 0
    }

    private(set) var log: [LogEntry] = []
    private(set) var tables = Tables()
    private(set) var problems: [String] = []
    let gateway: String
    let bug: PlantedBug?
    /// What poisons a batch.
    static let poison = "poison"

    init(gateway: String, bug: PlantedBug?) {
        self.gateway = gateway
        self.bug = bug
    }

    var isProcessed: Bool { tables.offset == log.count }

    /// - Returns: the status.
    mutating func receive(_ bytes: ByteBuffer) -> Int {
        let batch: Batch
        do {
            batch = try Batch.decode(bytes)
        } catch {
            problem("a batch cannot be decoded: \(error)")
            return 400
        }
        if batch.gateway != gateway { problem("a batch is of the gateway \(batch.gateway)") }
        let isPoisoned = batch.frames.contains { frame in
            frame.records.contains { $0.payload.readableBytesView.starts(with: Self.poison.utf8) }
        }
        if isPoisoned { return 400 }
        log += batch.logEntries()
        return 200
    }

    /// One transaction over so many entries.
    ///
    /// - Parameter crashes: before it is committed; the processor starts again where its offset says.
    mutating func process(_ count: Int, crashes: Bool) {
        var next = tables
        let end = min(log.count, tables.offset + count)
        for entry in log[tables.offset..<end] { apply(entry, to: &next) }
        next.offset = end
        if !crashes {
            tables = next
        } else if bug == .forgottenOffset {
            // The rows were committed by themselves.
            tables.rows = next.rows
        }
    }

    private mutating func apply(_ entry: LogEntry, to tables: inout Tables) {
        switch entry {
        // The messages stay as they are.
        case .correction: break
        case .account(_, let account):
            let known = tables.accounts[account.epoch]
            if account.lastSequence >= known?.lastSequence ?? 0 { tables.accounts[account.epoch] = account }
        case .messages(let messages):
            let device = Device(epoch: messages.epoch, id: messages.device)
            var state = tables.ended[device] ?? DeduplicationState()
            guard let new = try? state.apply(messages.messages) else {
                problem("deduplication of \(messages.device) overflows")
                return
            }
            tables.ended[device] = state
            for index in new {
                let message = messages.messages[index]
                let identity = Identity(epoch: messages.epoch, sequence: message.sequence)
                let row = Row(
                    device: messages.device, number: message.number, payload: String(buffer: message.payload))
                if let old = tables.rows.updateValue(row, forKey: identity) {
                    problem("\(identity) has two rows: \(Self.short(old)) and \(Self.short(row))")
                }
            }
        case .ledger(_, let line):
            let device = Device(epoch: line.epoch, id: line.device)
            var state = tables.ended[device] ?? DeduplicationState()
            guard let result = try? state.apply(line) else {
                problem("deduplication of \(line.device) overflows")
                return
            }
            tables.ended[device] = state
            tables.ledger.append(Line(line: line, new: result.new))
        }
    }

    private mutating func problem(_ text: String) { if problems.count < 5 { problems.append(text) } }

    private static func short(_ row: Row) -> String { "\(row.device) \(row.number) \(row.payload.prefix(12))" }
}

extension ModelCloud.Identity: CustomStringConvertible {
    var description: String { "message \(epoch.low & 0xffff):\(sequence)" }
}
