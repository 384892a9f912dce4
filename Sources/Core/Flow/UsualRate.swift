/// Whether something sends far more than it usually does: its rate of a minute against a slow average of the minutes in
/// which it sent at all. A device that reports once an hour is judged by those minutes, not by the silence between them.
package struct UsualRate: Sendable, Equatable {
    /// Times the average.
    package static let factor = 10.0
    /// Messages a second up to which nothing is remarkable.
    package static let floor = 1.0
    /// Minutes before anything is judged.
    package static let warmUp = 10
    /// Minutes that the average remembers: a day of sending.
    package static let memory = 1_440

    /// Messages a second; 0 before the first.
    package private(set) var average = 0.0
    private var minutes = 0
    package private(set) var isExceeded = false

    package init() {}

    /// The rate from which on it is far above the usual; `nil` while too little is known.
    package var threshold: Double? {
        minutes >= Self.warmUp ? max(Self.floor, Self.factor * average) : nil
    }

    /// What goes beyond counts little, and no more than the threshold itself, so that a burst does not become usual, and a
    /// rate that stays does within days. It is over below half of the threshold.
    ///
    /// - Parameter rate: messages a second over the minute that ended.
    package mutating func observe(minute rate: Double) {
        let threshold = threshold
        if let threshold {
            isExceeded = isExceeded ? rate >= threshold / 2 : rate > threshold
        }
        guard rate > 0 else { return }
        minutes = min(minutes + 1, Self.memory)
        // Also in the first days, when a minute would else weigh much.
        let weight = 1 / Double(isExceeded ? Self.memory : minutes)
        average += (min(rate, threshold ?? rate) - average) * weight
    }
}
