import EventLog
import NIOCore
import SyncModel

/// Entries of several gateways as they may come: live and backlog, out of order and repeated, all from a seed; and what must
/// become of each message.
struct Traffic: Sendable {
    struct Source: Hashable, Sendable {
        var gateway: String
        var epoch: Epoch
    }

    /// Of a message that was sent: what its rows must be.
    struct Expected: Sendable, Equatable {
        /// The number in its payload.
        var n: Int64
        var rows: Int64
    }

    /// xorshift64: the same everywhere.
    struct Seeded: RandomNumberGenerator, Sendable {
        private var state: UInt64

        init(_ seed: UInt64) { state = seed &* 0x9E37_79B9_7F4A_7C15 | 1 }

        mutating func next() -> UInt64 {
            state ^= state << 13
            state ^= state >> 7
            state ^= state << 17
            return state
        }
    }

    private struct DeviceKey: Hashable {
        var source: Int
        var device: Int
    }

    private static let devices = 6
    /// Entries that wait to be overtaken.
    private static let pool = 24
    /// Entries that may come again.
    private static let memory = 40

    private var random: Seeded
    private let sources: [Source]
    private var lastSequence: [UInt64]
    private var lastNumber: [DeviceKey: UInt64] = [:]
    private var waiting: [LogEntry] = []
    private var recent: [LogEntry] = []
    private let prefix: String
    private var n: Int64 = 0
    /// Of each message whose number is a multiple of it the database refuses the rows; 0: of none.
    var refusedEvery: Int64 = 0

    private(set) var messages: [Source: [UInt64: Expected]] = [:]
    private(set) var dropped: UInt64 = 0
    private(set) var refused: UInt64 = 0
    /// Entries that were given to be sent, repetitions included.
    private(set) var recordCount = 0

    init(seed: UInt64, prefix: String = "plant") {
        var random = Seeded(seed)
        self.prefix = prefix
        sources = (0..<5).map { Source(gateway: "\(prefix)-\($0 % 3)", epoch: .random(using: &random)) }
        lastSequence = Array(repeating: 0, count: sources.count)
        self.random = random
    }

    var messageCount: Int { messages.values.reduce(0) { $0 + $1.count } }

    /// About `count` entries.
    mutating func next(_ count: Int) -> [LogEntry] {
        var sent: [LogEntry] = []
        for _ in 0..<count {
            waiting.append(make())
            if waiting.count > Self.pool { sent.append(overtaking()) }
            if Int.random(in: 0..<10, using: &random) == 0, let again = recent.randomElement(using: &random) {
                sent.append(partly(again))
            }
        }
        recordCount += sent.count
        return sent
    }

    /// What still waits, repetitions, and the account of each epoch.
    mutating func rest() -> [LogEntry] {
        var sent = recent.map { partly($0) }
        while !waiting.isEmpty { sent.append(overtaking()) }
        for (index, source) in sources.enumerated() {
            let account = EpochAccount(epoch: source.epoch, lastSequence: lastSequence[index], isClosed: index < 2)
            sent.append(.account(gateway: source.gateway, account))
        }
        recordCount += sent.count
        return sent
    }

    /// What the gateways would say of themselves.
    var accounting: [GatewayAccounting] {
        Dictionary(grouping: sources.indices) { sources[$0].gateway }.map { gateway, indices in
            GatewayAccounting(
                gateway: gateway,
                epochs: indices.map {
                    .init(epoch: sources[$0].epoch.hex, lastSequence: lastSequence[$0], buffered: [])
                }, bufferedMessages: 0, bufferedBytes: 0)
        }
    }

    // MARK: One entry

    private mutating func overtaking() -> LogEntry {
        let entry = waiting.remove(at: Int.random(in: 0..<waiting.count, using: &random))
        if recent.count >= Self.memory { recent.removeFirst() }
        recent.append(entry)
        return entry
    }

    /// The entry, or its second half: batches are cut anew when they are sent again.
    private mutating func partly(_ entry: LogEntry) -> LogEntry {
        guard case .messages(var messages) = entry, messages.messages.count > 1, Bool.random(using: &random) else {
            return entry
        }
        messages.messages.removeFirst(messages.messages.count / 2)
        return .messages(messages)
    }

    private mutating func make() -> LogEntry {
        let source = Int.random(in: sources.indices, using: &random)
        let key = DeviceKey(source: source, device: Int.random(in: 0..<Self.devices, using: &random))
        let count = UInt64.random(in: 1...6, using: &random)
        let sequences = lastSequence[source] + 1...lastSequence[source] + count
        let first = (lastNumber[key] ?? 0) + 1
        lastSequence[source] += count
        lastNumber[key] = first + count - 1
        let gateway = sources[source].gateway
        let device = "\(gateway)-press-\(key.device)"
        if Int.random(in: 0..<20, using: &random) == 0 {
            dropped += count
            return .ledger(
                gateway: gateway,
                LedgerLine(
                    epoch: sources[source].epoch, device: device, sequences: sequences,
                    numbers: first...first + count - 1, reason: .bufferFull))
        }
        let now = 1_700_000_000_000_000 + n * 1_000
        let messages = sequences.enumerated().map { index, sequence in
            SyncedMessage(
                sequence: sequence, number: first + UInt64(index), qos: 1, wallTime: now + Int64(index),
                topic: ByteBuffer(string: "devices/\(device)"), payload: payload(sources[source], sequence))
        }
        let lane: Lane = Int.random(in: 0..<3, using: &random) == 0 ? .backlog : .live
        return .messages(
            DeviceMessages(
                gateway: gateway, epoch: sources[source].epoch, device: device, lane: lane, messages: messages))
    }

    private mutating func payload(_ source: Source, _ sequence: UInt64) -> ByteBuffer {
        n += 1
        let isRefused = refusedEvery > 0 && n % refusedEvery == 0
        if isRefused { refused += 1 }
        let (text, rows): (String, Int64) =
            switch n % 4 {
            case 0: ("{\"n\":\(n),\"m\":1.5\(isRefused ? ",\"bad\":-666" : "")}", 2)
            case 1: ("{\"n\":\(n),\"s\":\"x\"\(isRefused ? ",\"bad\":-666" : "")}", 2)
            case 2: (isRefused ? "{\"n\":\(n),\"bad\":-666}" : "\(n)", 1)
            default: ("{\"n\":\(n)\(isRefused ? ",\"bad\":-666" : "")}", 1)
            }
        // What is refused becomes one event with its bytes.
        messages[source, default: [:]][sequence] = Expected(n: isRefused ? 0 : n, rows: isRefused ? 1 : rows)
        return ByteBuffer(string: text)
    }
}

extension EventLog {
    func append(_ entries: [LogEntry]) async throws(EventLogError) {
        try await append(entries.map { LogRecord(key: $0.routingKey, value: $0.encoded()) })
    }
}

extension LogEntry {
    /// A message of its own source.
    static func one(
        of device: String, _ number: UInt64, gateway: String = "lone", epoch: Epoch = Epoch(high: 7, low: 7),
        sequence: UInt64? = nil, topic: String = "t", bytes: [UInt8]
    ) -> LogEntry {
        .messages(
            DeviceMessages(
                gateway: gateway, epoch: epoch, device: device, lane: .live,
                messages: [
                    SyncedMessage(
                        sequence: sequence ?? number, number: number, qos: 1, wallTime: 1_700_000_000_000_000,
                        topic: ByteBuffer(string: topic), payload: ByteBuffer(bytes: bytes))
                ]))
    }
}
