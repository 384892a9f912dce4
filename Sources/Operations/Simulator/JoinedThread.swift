import Glibc

/// A POSIX thread for work that blocks, whose end is waited for.
///
/// Foundation's threads cannot be joined. Without that a program that has its result may exit while the thread still frees
/// what OpenSSL and libmosquitto gave it; `exit` runs OpenSSL's own cleanup at the same time, and both free the same memory.
enum JoinedThread {
    struct NotStarted: Error {
        /// `errno` of pthread_create.
        let code: Int32
    }

    private final class Work: Sendable {
        let body: @Sendable () -> Void

        init(_ body: @escaping @Sendable () -> Void) { self.body = body }
    }

    /// The result of `body`, once its thread is no more: all that `body` held is freed, and so is what libraries keep for each
    /// thread.
    static func run<Result: Sendable>(
        _ body: @escaping @Sendable () -> Result
    ) async -> Swift.Result<Result, NotStarted> {
        var thread = pthread_t()
        let outcome: Swift.Result<Result, NotStarted> = await withCheckedContinuation { continuation in
            let work = Unmanaged.passRetained(Work { continuation.resume(returning: .success(body())) })
            let code = pthread_create(
                &thread, nil,
                { argument in
                    guard let argument else { return nil }
                    Unmanaged<Work>.fromOpaque(argument).takeRetainedValue().body()
                    return nil
                }, work.toOpaque())
            guard code == 0 else {
                work.release()
                continuation.resume(returning: .failure(NotStarted(code: code)))
                return
            }
        }
        // It blocks for as long as a thread takes to end after its last line.
        if case .success = outcome { pthread_join(thread, nil) }
        return outcome
    }
}
