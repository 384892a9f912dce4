/// Why the object store did not do what it was asked. The texts are for people and hold no secrets.
package enum ObjectStoreError: Error, Sendable, Equatable, CustomStringConvertible {
    /// It cannot be reached, did not answer in time or is overloaded: the same request may succeed later.
    case unavailable(String)
    /// It answers and refuses: somebody has to change rights, names or clocks.
    case refused(String)
    case tooLarge(key: String, maximumBytes: Int)
    /// Keys are 1 to 900 bytes of A-Z a-z 0-9 . _ - = and / between parts that are not empty, "." or "..".
    case badKey(String)

    package var description: String {
        switch self {
        case .unavailable(let why): "the object store does not answer: \(why)"
        case .refused(let why): "the object store refuses: \(why)"
        case .tooLarge(let key, let maximum): "the object \(key) has more than \(maximum) bytes"
        case .badKey(let key): "\(key) is no key of an object"
        }
    }
}
