import NIOConcurrencyHelpers
import NIOCore

/// Resumes one waiter once, whichever of firing and waiting comes first.
final class OneShot: Sendable {
    private enum State {
        case pending
        case waiting(CheckedContinuation<Void, Never>)
        case fired
    }

    private let state = NIOLockedValueBox(State.pending)

    func wait() async {
        await withCheckedContinuation { continuation in
            let fired = state.withLockedValue { state in
                if case .fired = state { return true }
                state = .waiting(continuation)
                return false
            }
            if fired { continuation.resume() }
        }
    }

    func fire() {
        let waiting: CheckedContinuation<Void, Never>? = state.withLockedValue { state in
            defer { state = .fired }
            if case .waiting(let continuation) = state { return continuation }
            return nil
        }
        waiting?.resume()
    }
}

/// An append that waits for its commit.
struct PendingAppend: Sendable {
    var pieces: [SegmentPiece]
    var bytes: Int
    var continuation: CheckedContinuation<Result<Void, EventLogError>, Never>
}

/// What the writer, the readers and the callers share. Held under one lock, for moments only; continuations are resumed
/// outside it.
struct EmbeddedLogState: Sendable {
    enum Phase: Sendable, Equatable {
        case open
        /// A write or sync failed: nothing that the file holds beyond its last good commit may be trusted until a restart
        /// has read it back.
        case failed(String)
        /// Appends are refused, those that wait are still committed.
        case closing
        case closed
    }

    var phase = Phase.open
    /// Empty when `lastSegment < firstSegment`.
    var firstSegment: Int64 = 1
    var lastSegment: Int64 = 0
    /// First retained and next offset of each partition.
    var first: [Int64]
    var next: [Int64]
    var appendTime: Int64 = 0

    var pending: [PendingAppend] = []
    var pendingBytes = 0
    var isWriterScheduled = false

    /// Readers that have read everything, each with its last waiter.
    var waiters: [ObjectIdentifier: OneShot] = [:]
    /// Member that reads for a group.
    var groups: [String: String] = [:]

    init(partitions: Int) {
        first = Array(repeating: 0, count: partitions)
        next = first
    }

    /// `nil` while readers may read.
    var readError: EventLogError? {
        switch phase {
        case .open, .closing: nil
        case .failed(let reason): .unavailable(reason)
        case .closed: .closed
        }
    }

    var appendError: EventLogError? {
        switch phase {
        case .open: nil
        case .failed(let reason): .unavailable(reason)
        case .closing, .closed: .closed
        }
    }

    /// - Returns: whether the writer has to be started.
    mutating func enqueue(_ append: PendingAppend, maximumPendingBytes: Int) throws(EventLogError) -> Bool {
        if let error = appendError { throw error }
        // One that is larger than the bound alone is let in when nothing waits, else it could never be written.
        guard pendingBytes == 0 || pendingBytes + append.bytes <= maximumPendingBytes else {
            throw .busy("\(pendingBytes) bytes wait for the disk")
        }
        pending.append(append)
        pendingBytes += append.bytes
        guard !isWriterScheduled else { return false }
        isWriterScheduled = true
        return true
    }

    /// The next commit's appends in order of arrival, at most `maximumBytes` unless a single one is larger.
    mutating func takeGroup(maximumBytes: Int) -> [PendingAppend] {
        var bytes = 0
        var count = 0
        for append in pending {
            if count > 0, bytes + append.bytes > maximumBytes { break }
            bytes += append.bytes
            count += 1
        }
        let group = Array(pending[..<count])
        pending.removeFirst(count)
        if pending.isEmpty { isWriterScheduled = false }
        return group
    }

    mutating func takeWaiters() -> [OneShot] {
        defer { waiters = [:] }
        return Array(waiters.values)
    }

    mutating func takePending() -> [PendingAppend] {
        defer {
            pending = []
            pendingBytes = 0
        }
        return pending
    }
}
