import Atomics
import Logging

/// The least grave level that is written by all loggers that were given none of their own. It may change while they are in
/// use.
package final class LogThreshold: Sendable {
    /// The process's.
    package static let shared = LogThreshold(.info)

    /// The place of the level among all, which ascend in gravity.
    private let place: ManagedAtomic<Int>

    package init(_ level: Logger.Level) { place = ManagedAtomic(Self.place(of: level)) }

    package var level: Logger.Level {
        get { Logger.Level.allCases[place.load(ordering: .relaxed)] }
        set { place.store(Self.place(of: newValue), ordering: .relaxed) }
    }

    private static func place(of level: Logger.Level) -> Int { Logger.Level.allCases.firstIndex(of: level) ?? 0 }
}
