import Flow

/// What of one file is durable, and what was done to it since.
final class DiskFile {
    private enum Change {
        case write(offset: Int, [UInt8])
        case truncate(Int)
    }

    /// A disk writes so many bytes whole, unless the power fails meanwhile.
    private static let sector = 512

    private var durable: DiskBytes
    private var pending: [Change] = []
    /// As the kernel has it.
    private(set) var size: Int
    var isEntryDurable: Bool
    var isRebuild = false
    /// The 32 bytes of a log's header were torn, which tells nothing of what lies behind them: see `LogScan`.
    private(set) var hasTornHeader = false
    /// Open handles.
    var links = 0

    init(contents: [UInt8], isEntryDurable: Bool) {
        durable = DiskBytes(contents)
        size = contents.count
        self.isEntryDurable = isEntryDurable
    }

    func write(_ bytes: [UInt8], at offset: Int) {
        size = max(size, offset + bytes.count)
        pending.append(.write(offset: offset, bytes))
    }

    func truncate(to count: Int) {
        size = count
        pending.append(.truncate(count))
    }

    func sync() {
        for change in pending { Self.apply(change, to: &durable) }
        pending.removeAll(keepingCapacity: true)
        isEntryDurable = true
    }

    /// A sync has failed: each sector reached the disk or did not, and the kernel writes none of them again.
    func loseCleanly(using random: inout SplitMix64) {
        durable = survivor(using: &random)
        pending.removeAll(keepingCapacity: true)
    }

    /// The contents after a power cut.
    func survivor(using random: inout SplitMix64) -> DiskBytes {
        var bytes = durable
        for change in pending {
            switch change {
            case .truncate: if Bool.random(using: &random) { Self.apply(change, to: &bytes) }
            case .write(let offset, let written):
                switch Int.random(in: 0..<4, using: &random) {
                case 0: break
                case 1: Self.apply(change, to: &bytes)
                default:
                    Self.tear(written, at: offset, in: &bytes, using: &random)
                    hasTornHeader = hasTornHeader || offset == 0 && written.count == 32
                }
            }
        }
        return bytes
    }

    private static func tear(
        _ written: [UInt8], at offset: Int, in bytes: inout DiskBytes, using random: inout SplitMix64
    ) {
        var begin = 0
        while begin < written.count {
            let end = min(written.count, ((offset + begin) / sector + 1) * sector - offset)
            switch Int.random(in: 0..<8, using: &random) {
            case 0..<3: break
            case 3: bytes.put(written, begin..<Int.random(in: begin..<end, using: &random), at: offset + begin)
            default: bytes.put(written, begin..<end, at: offset + begin)
            }
            begin = end
        }
    }

    private static func apply(_ change: Change, to bytes: inout DiskBytes) {
        switch change {
        case .write(let offset, let written): bytes.put(written, at: offset)
        case .truncate(let count): bytes.resize(to: count)
        }
    }
}
