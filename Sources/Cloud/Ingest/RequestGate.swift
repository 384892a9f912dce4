import Synchronization

/// Bounds how many bodies are in memory at once.
final class RequestGate: Sendable {
    private let maximum: Int
    private let inside = Atomic<Int>(0)

    init(maximum: Int) { self.maximum = maximum }

    func enter() -> Bool {
        let (_, now) = inside.add(1, ordering: .relaxed)
        guard now <= maximum else {
            leave()
            return false
        }
        return true
    }

    func leave() { inside.subtract(1, ordering: .relaxed) }
}

/// The port that the system gave.
final class BoundAddress: Sendable {
    private let value = Atomic<Int>(-1)

    func set(_ port: Int?) { value.store(port ?? -1, ordering: .relaxed) }

    var port: Int? {
        let port = value.load(ordering: .relaxed)
        return port < 0 ? nil : port
    }
}
