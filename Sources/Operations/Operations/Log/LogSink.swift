import Dispatch
import Glibc
import Synchronization

/// Writes whole lines to a descriptor from a thread of its own, so that nobody who logs waits for a reader that is
/// stuck. At most `maximumBytes` wait; lines beyond that are dropped and counted, and a line says so when there is
/// room again.
package final class LogSink: Sendable {
    private struct State {
        var pending: [UInt8] = []
        var isDraining = false
        var unreported: UInt64 = 0
        var dropped: UInt64 = 0
    }

    private let descriptor: Int32
    private let maximumBytes: Int
    private let queue = DispatchQueue(label: "sluice.log")
    private let state = Mutex(State())

    package static let standardError = LogSink(descriptor: STDERR_FILENO)

    /// - Parameter descriptor: stays the caller's, and must outlive the sink.
    package init(descriptor: Int32, maximumBytes: Int = 1024 * 1024) {
        self.descriptor = descriptor
        self.maximumBytes = maximumBytes
    }

    /// Lines that were dropped since the start.
    package var dropped: UInt64 { state.withLock { $0.dropped } }

    /// - Parameter line: with its newline.
    func write(_ line: [UInt8]) {
        let mustStart = state.withLock { state in
            guard state.pending.count + line.count <= maximumBytes else {
                state.unreported += 1
                state.dropped += 1
                return false
            }
            state.pending.append(contentsOf: line)
            defer { state.isDraining = true }
            return !state.isDraining
        }
        if mustStart { queue.async { self.drain() } }
    }

    /// Waits until what was logged is written. Blocks: for the end of a process and for tests.
    ///
    /// - Returns: false where the reader did not take it in time.
    @discardableResult
    package func flush(milliseconds: Int = 1_000) -> Bool {
        let done = DispatchSemaphore(value: 0)
        queue.async { done.signal() }
        return done.wait(timeout: .now() + .milliseconds(milliseconds)) == .success
    }

    private func drain() {
        while true {
            let (bytes, lost) = state.withLock { state -> ([UInt8], UInt64) in
                defer {
                    state.pending = []
                    state.unreported = 0
                }
                if state.pending.isEmpty && state.unreported == 0 { state.isDraining = false }
                return (state.pending, state.unreported)
            }
            if bytes.isEmpty && lost == 0 { return }
            writeAll(bytes)
            if lost > 0 { writeAll(LogLine.dropped(count: lost)) }
        }
    }

    private func writeAll(_ bytes: [UInt8]) {
        var done = 0
        while done < bytes.count {
            let count = bytes.withUnsafeBytes { Glibc.write(descriptor, $0.baseAddress! + done, $0.count - done) }
            if count > 0 {
                done += count
            } else if errno == EAGAIN {
                var waiting = pollfd(fd: descriptor, events: Int16(POLLOUT), revents: 0)
                poll(&waiting, 1, 1_000)
            } else if errno != EINTR {
                // The reader is gone: what it did not read is lost, and nobody can be told.
                let lost = UInt64(bytes[done...].count { $0 == UInt8(ascii: "\n") })
                state.withLock { $0.dropped += lost }
                return
            }
        }
    }
}
