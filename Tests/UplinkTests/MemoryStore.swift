import Buffer
import NIOConcurrencyHelpers
import NIOCore
import SyncModel

/// A buffer in memory that keeps to the contract: one unanswered cut a lane, the same one until it is acknowledged.
final class MemoryStore: UplinkStore {
    struct State {
        var frames: [StoredFrame] = []
        var accounts: [EpochAccount] = []
        var ledger: [LedgerLine] = []
        var corrections: [ClockCorrection] = []
        var open: [Lane: Cut] = [:]
        /// Frames up to here are backlog.
        var liveStart: Int64 = 0
        var lastFrame: Int64 = 0
        var liveStarts = 0
        var buried: [BatchSplit.Suspect] = []
        var nextID: Int64 = 1
        var acknowledged: [Cut] = []
        var cutRequests = 0
        /// Thrown by the next calls, in order.
        var acknowledgeErrors: [BufferError] = []
        var cutErrors: [BufferError] = []
    }

    let state = NIOLockedValueBox(State())
    private let signal: AsyncStream<Void>
    private let source: AsyncStream<Void>.Continuation

    init() { (signal, source) = AsyncStream.makeStream(of: Void.self, bufferingPolicy: .bufferingNewest(1)) }

    /// Commits a frame of one device with so many messages.
    func commit(_ count: Int, payload: String = "{\"t\":20.5}") {
        state.withLockedValue { state in
            state.lastFrame += 1
            let id = state.lastFrame
            var builder = FrameBuilder()
            let clock = FrameClock(
                wallTime: 1_700_000_000_000_000, monotonicTime: 0, bootHigh: 1, bootLow: 2, isSynchronised: true)
            for _ in 0..<count {
                builder.append(
                    device: 0, deviceID: "pump", qos: 1, retain: false, duplicate: false,
                    topic: ByteBuffer(string: "plant/pump"), payload: ByteBuffer(string: payload),
                    properties: ByteBuffer(), clock: clock)
            }
            let first = state.accounts.last?.lastSequence ?? 0
            for draft in builder.take() {
                let header = draft.header(
                    epoch: Epoch(high: 7, low: 8), firstSequence: first + 1, firstNumbers: [first + 1])
                state.frames.append(StoredFrame(id: id, header: header, records: draft.records, count: draft.count))
            }
            state.accounts = [
                EpochAccount(epoch: Epoch(high: 7, low: 8), lastSequence: first + UInt64(count), isClosed: false)
            ]
        }
        source.yield()
    }

    func nextCut(in lane: Lane, maximumBytes: Int, maximumMessages: Int) async throws(BufferError) -> Cut? {
        let result: Result<Cut?, BufferError> = state.withLockedValue { state in
            state.cutRequests += 1
            if !state.cutErrors.isEmpty { return .failure(state.cutErrors.removeFirst()) }
            if let open = state.open[lane] { return .success(open) }
            let other = state.open.values.first
            let frames = state.frames.filter { frame in
                (frame.id > state.liveStart) == (lane == .live)
                    && other.map { !($0.firstFrame...$0.lastFrame ~= frame.id) } ?? true
            }
            guard let first = frames.first else { return .success(nil) }
            var bytes = 0
            var messages = 0
            var last = first.id - 1
            for frame in frames {
                let size = frame.header.readableBytes + frame.records.readableBytes
                guard messages == 0 || (bytes + size <= maximumBytes && messages + frame.count <= maximumMessages),
                    frame.id == last + 1
                else { break }
                bytes += size
                messages += frame.count
                last = frame.id
            }
            let cut = Cut(
                id: state.nextID, firstFrame: first.id, lastFrame: last, messageCount: messages, byteCount: bytes,
                lane: lane)
            state.nextID += 1
            state.open[lane] = cut
            return .success(cut)
        }
        return try result.get()
    }

    func startLive() async throws(BufferError) -> Bool {
        state.withLockedValue { state in
            state.liveStarts += 1
            state.liveStart = state.lastFrame
            return !state.frames.isEmpty
        }
    }

    func contents(
        of cut: Cut
    ) async throws(BufferError) -> (frames: [StoredFrame], accounts: [EpochAccount], ledger: [LedgerLine]) {
        state.withLockedValue { state in
            (
                state.frames.filter { cut.firstFrame...cut.lastFrame ~= $0.id }.flatMap { frame in
                    Self.without(state.buried.filter { $0.piece.frame == frame.id }.map(\.piece.records), frame)
                },
                cut.lane == .live ? state.accounts : [], cut.lane == .live ? state.ledger : []
            )
        }
    }

    func corrections(of cut: Cut) async throws(BufferError) -> [ClockCorrection] {
        cut.lane == .live ? state.withLockedValue { $0.corrections } : []
    }

    func acknowledge(_ cut: Cut) async throws(BufferError) {
        let error: BufferError? = state.withLockedValue { state in
            if !state.acknowledgeErrors.isEmpty { return state.acknowledgeErrors.removeFirst() }
            state.frames.removeAll { cut.firstFrame...cut.lastFrame ~= $0.id }
            if cut.lane == .live { (state.ledger, state.corrections) = ([], []) }
            state.open[cut.lane] = nil
            state.acknowledged.append(cut)
            return nil
        }
        if let error { throw error }
    }

    private static func without(_ buried: [Range<Int>], _ frame: StoredFrame) -> [StoredFrame] {
        guard !buried.isEmpty, let parts = FrameParts(header: frame.header, records: frame.records) else {
            return [frame]
        }
        return (0..<parts.count).filter { index in !buried.contains { $0.contains(index) } }.map { index in
            let (header, records) = parts.encoded(index..<(index + 1))
            return StoredFrame(id: frame.id, header: header, records: records, count: 1, firstRecord: index)
        }
    }

    func bury(_ suspect: BatchSplit.Suspect, in cut: Cut) async throws(BufferError) -> Bool {
        state.withLockedValue { state in
            guard state.frames.contains(where: { $0.id == suspect.piece.frame }) else { return false }
            state.buried.append(suspect)
            return true
        }
    }

    func waiting() async -> WaitingData {
        state.withLockedValue { state in
            state.frames.reduce(into: WaitingData()) { waiting, frame in
                let lane = frame.id > state.liveStart ? \WaitingData.live : \.backlog
                waiting[keyPath: lane].messages += frame.count
                waiting[keyPath: lane].bytes += frame.header.readableBytes + frame.records.readableBytes
            }
        }
    }

    func dataAvailable() -> AsyncStream<Void> { signal }

    var waiting: Int { state.withLockedValue { $0.frames.count } }
    var acknowledgedCount: Int { state.withLockedValue { $0.acknowledged.count } }
}
