#if canImport(Glibc)
    import Glibc
#elseif canImport(Musl)
    import Musl
#endif

extension Buffer.Configuration {
    static let readAttempts = 3

    /// Whether the disk can read all of the file and its log.
    var isReadable: Bool { ["", "-wal"].allSatisfy { FileBytes.isReadable(path + $0) } }

    /// A page that cannot be read may be readable a moment later, and a salvage would give it up: so it is asked for again,
    /// a few times.
    ///
    /// - Parameter isUnread: whether the disk could not read what was asked for.
    func readingAgain<Answer, Failure: Error>(
        _ body: () throws(Failure) -> Answer, while isUnread: (Result<Answer, Failure>) -> Bool
    ) throws(Failure) -> Answer {
        var attempt = 1
        while true {
            let result = Result(catching: body)
            guard isUnread(result), attempt < Self.readAttempts else { return try result.get() }
            attempt += 1
            usleep(readPause)
        }
    }
}
