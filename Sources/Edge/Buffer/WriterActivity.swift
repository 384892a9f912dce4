import Atomics
import NIOConcurrencyHelpers

/// What others see of the writer's thread.
final class WriterActivity: Sendable {
    /// The lock is held for a copy only.
    let concerns = NIOLockedValueBox(BufferConcerns())
    /// Since when it is at one piece of work: what a disk that does not answer shows itself by.
    ///
    /// Microseconds on the monotonic clock; 0 while it waits.
    private let since = ManagedAtomic<Int64>(0)

    func begins() { since.store(Clock.monotonic(), ordering: .relaxed) }

    func waits() { since.store(0, ordering: .relaxed) }

    /// Microseconds; `nil` while it waits.
    func busyTime() -> Int64? {
        let since = since.load(ordering: .relaxed)
        return since == 0 ? nil : Clock.monotonic() - since
    }
}
