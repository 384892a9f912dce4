import Buffer
import NIOConcurrencyHelpers
import NIOCore
import SyncModel

/// A buffer in memory that keeps to the contract: one unanswered cut at a time, the same one until it is acknowledged.
final class MemoryStore: UplinkStore {
    struct State {
        var frames: [StoredFrame] = []
        var accounts: [EpochAccount] = []
        var ledger: [LedgerLine] = []
        var open: Cut?
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
            let id = (state.frames.last?.id ?? state.acknowledged.last?.lastFrame ?? 0) + 1
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

    func nextCut(maximumBytes: Int, maximumMessages: Int) async throws(BufferError) -> Cut? {
        let result: Result<Cut?, BufferError> = state.withLockedValue { state in
            state.cutRequests += 1
            if !state.cutErrors.isEmpty { return .failure(state.cutErrors.removeFirst()) }
            if let open = state.open { return .success(open) }
            guard let first = state.frames.first else { return .success(nil) }
            var bytes = 0
            var messages = 0
            var last = first.id
            for frame in state.frames {
                let size = frame.header.readableBytes + frame.records.readableBytes
                guard messages == 0 || (bytes + size <= maximumBytes && messages + frame.count <= maximumMessages)
                else { break }
                bytes += size
                messages += frame.count
                last = frame.id
            }
            let cut = Cut(
                id: state.nextID, firstFrame: first.id, lastFrame: last, messageCount: messages, byteCount: bytes)
            state.nextID += 1
            state.open = cut
            return .success(cut)
        }
        return try result.get()
    }

    func contents(
        of cut: Cut
    ) async throws(BufferError) -> (frames: [StoredFrame], accounts: [EpochAccount], ledger: [LedgerLine]) {
        state.withLockedValue { state in
            (state.frames.filter { cut.firstFrame...cut.lastFrame ~= $0.id }, state.accounts, state.ledger)
        }
    }

    func acknowledge(_ cut: Cut) async throws(BufferError) {
        let error: BufferError? = state.withLockedValue { state in
            if !state.acknowledgeErrors.isEmpty { return state.acknowledgeErrors.removeFirst() }
            state.frames.removeAll { $0.id <= cut.lastFrame }
            state.ledger = []
            state.open = nil
            state.acknowledged.append(cut)
            return nil
        }
        if let error { throw error }
    }

    func backlog() async -> (messages: Int, bytes: Int) {
        state.withLockedValue { state in
            (
                state.frames.reduce(0) { $0 + $1.count },
                state.frames.reduce(0) { $0 + $1.header.readableBytes + $1.records.readableBytes }
            )
        }
    }

    func dataAvailable() -> AsyncStream<Void> { signal }

    var waiting: Int { state.withLockedValue { $0.frames.count } }
    var acknowledgedCount: Int { state.withLockedValue { $0.acknowledged.count } }
}
