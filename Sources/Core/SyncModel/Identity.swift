/// 128 random bits, new at every start of the edge daemon; a message keeps the epoch in which it was committed.
package struct Epoch: Hashable, Sendable, Comparable {
    package let high: UInt64
    package let low: UInt64

    package init(high: UInt64, low: UInt64) {
        self.high = high
        self.low = low
    }

    package static func random(using generator: inout some RandomNumberGenerator) -> Epoch {
        Epoch(high: generator.next(), low: generator.next())
    }

    /// Not an order in time: only for stable listings.
    package static func < (a: Epoch, b: Epoch) -> Bool { (a.high, a.low) < (b.high, b.low) }
}

/// Order holds per device within a lane, not across lanes.
package enum Lane: UInt8, Sendable {
    case live = 0
    case backlog = 1
}
