import Glibc
import Synchronization
import Testing

@testable import Simulator

/// `sluice simulate` crashed in 1 of 10 runs while its threads still freed what OpenSSL had, and `exit` did too.
@Suite struct JoinedThreadTests {
    private static let hasEnded = Atomic(false)

    /// What libraries free when a thread ends (OpenSSL's error queues among them) is freed before the result is there.
    @Test func theResultComesAfterTheThreadsOwnCleanup() async throws {
        var key = pthread_key_t()
        #expect(
            pthread_key_create(&key) { _ in
                usleep(300_000)
                JoinedThreadTests.hasEnded.store(true, ordering: .sequentiallyConsistent)
            } == 0)
        let result = await JoinedThread.run { [key] in
            pthread_setspecific(key, UnsafeRawPointer(bitPattern: 1))
        }
        let hasEnded = Self.hasEnded.load(ordering: .sequentiallyConsistent)
        #expect(hasEnded)
        #expect(try result.get() == 0)
        pthread_key_delete(key)
    }
}
