import NIOCore
import SyncModel

/// What one batch holds: a run of frames, set down before its first send so that every retry sends the same.
package struct Cut: Sendable, Equatable {
    package var id: Int64
    package var firstFrame: Int64
    /// Below `firstFrame` when the cut carries accounts or ledger lines alone.
    package var lastFrame: Int64
    package var messageCount: Int
    package var byteCount: Int

    package init(id: Int64, firstFrame: Int64, lastFrame: Int64, messageCount: Int, byteCount: Int) {
        self.id = id
        self.firstFrame = firstFrame
        self.lastFrame = lastFrame
        self.messageCount = messageCount
        self.byteCount = byteCount
    }
}

/// A committed frame; header and records together are the encoded frame of the sync protocol.
package struct StoredFrame: Sendable {
    package var id: Int64
    package var header: ByteBuffer
    package var records: ByteBuffer
    /// Messages.
    package var count: Int

    package init(id: Int64, header: ByteBuffer, records: ByteBuffer, count: Int) {
        self.id = id
        self.header = header
        self.records = records
        self.count = count
    }
}

/// The uplink's side of the buffer.
package protocol UplinkStore: Sendable {
    /// The oldest unanswered cut, or a new one over the oldest frames (≤ maximumBytes of frames unless one frame is
    /// larger, ≤ maximumMessages), committed before it is returned; nil when there is nothing to send.
    func nextCut(maximumBytes: Int, maximumMessages: Int) async throws(BufferError) -> Cut?
    func contents(
        of cut: Cut
    ) async throws(BufferError) -> (frames: [StoredFrame], accounts: [EpochAccount], ledger: [LedgerLine])
    /// Deletes the cut's frames and ledger lines in one transaction. A cut that is answered already is left alone.
    func acknowledge(_ cut: Cut) async throws(BufferError)
    /// What waits to be sent.
    func backlog() async -> (messages: Int, bytes: Int)
    /// Resumes whenever new data was committed (coalesced), and once at the start.
    func dataAvailable() -> AsyncStream<Void>
}
