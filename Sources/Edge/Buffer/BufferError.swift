/// Why the buffer did not do what it was asked.
package enum BufferError: Error, Sendable, Equatable {
    case full
    case io(String)
    case closed
    case damaged(String)
}
