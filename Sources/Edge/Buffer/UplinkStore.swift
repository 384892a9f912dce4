import NIOCore
import SyncModel

/// What one batch holds: a run of frames, set down before its first send so that every retry sends the same.
package struct Cut: Sendable, Equatable {
    package var id: Int64
    package var firstFrame: Int64
    /// Below `firstFrame` when the cut carries accounts, ledger lines or corrections alone.
    package var lastFrame: Int64
    package var messageCount: Int
    package var byteCount: Int
    package var lane: Lane

    package init(
        id: Int64, firstFrame: Int64, lastFrame: Int64, messageCount: Int, byteCount: Int, lane: Lane = .live
    ) {
        self.id = id
        self.firstFrame = firstFrame
        self.lastFrame = lastFrame
        self.messageCount = messageCount
        self.byteCount = byteCount
        self.lane = lane
    }
}

/// A committed frame, or a run of its messages; header and records together are an encoded frame of the sync protocol.
package struct StoredFrame: Sendable {
    package var id: Int64
    package var header: ByteBuffer
    package var records: ByteBuffer
    /// Messages.
    package var count: Int
    /// Position of the first message in the frame as it was committed.
    package var firstRecord: Int

    package init(id: Int64, header: ByteBuffer, records: ByteBuffer, count: Int, firstRecord: Int = 0) {
        self.id = id
        self.header = header
        self.records = records
        self.count = count
        self.firstRecord = firstRecord
    }
}

/// Frames of one lane that are not answered by the cloud yet.
package struct LaneFill: Sendable, Equatable {
    package var messages = 0
    package var bytes = 0

    package init(messages: Int = 0, bytes: Int = 0) {
        self.messages = messages
        self.bytes = bytes
    }
}

/// What waits to be sent.
package struct WaitingData: Sendable, Equatable {
    package var live: LaneFill
    package var backlog: LaneFill

    package init(live: LaneFill = LaneFill(), backlog: LaneFill = LaneFill()) {
        self.live = live
        self.backlog = backlog
    }
}

/// The uplink's side of the buffer.
package protocol UplinkStore: Sendable {
    /// The unanswered cut of the lane, or a new one over its oldest frames (≤ maximumBytes of frames unless one frame is
    /// larger, ≤ maximumMessages), committed before it is returned; nil when there is nothing to send.
    func nextCut(in lane: Lane, maximumBytes: Int, maximumMessages: Int) async throws(BufferError) -> Cut?
    /// Makes what waits now the backlog; what is committed from now on is live. Says whether there is a backlog.
    func startLive() async throws(BufferError) -> Bool
    func contents(
        of cut: Cut
    ) async throws(BufferError) -> (frames: [StoredFrame], accounts: [EpochAccount], ledger: [LedgerLine])
    /// What the cut carries of corrections of the clock.
    func corrections(of cut: Cut) async throws(BufferError) -> [ClockCorrection]
    /// Makes a message of the cut a dead letter and a ledger line, in one transaction; `contents` has it no more.
    ///
    /// - Returns: false when the message was dropped meanwhile.
    func bury(_ suspect: BatchSplit.Suspect, in cut: Cut) async throws(BufferError) -> Bool
    /// Deletes the cut's frames, ledger lines and corrections in one transaction. A cut that is answered already is left
    /// alone.
    func acknowledge(_ cut: Cut) async throws(BufferError)
    func waiting() async -> WaitingData
    /// Resumes whenever new data was committed (coalesced), and once at the start.
    func dataAvailable() -> AsyncStream<Void>
}

extension UplinkStore {
    /// In the lane live, which is the only one while there is no backlog.
    package func nextCut(maximumBytes: Int, maximumMessages: Int) async throws(BufferError) -> Cut? {
        try await nextCut(in: .live, maximumBytes: maximumBytes, maximumMessages: maximumMessages)
    }
}
