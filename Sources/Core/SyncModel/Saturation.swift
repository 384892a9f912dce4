extension UInt64 {
    /// Gateways may claim any range of numbers; a sum that does not fit is as large as it gets.
    package func addingSaturated(_ other: UInt64) -> UInt64 {
        let (sum, isTooLarge) = addingReportingOverflow(other)
        return isTooLarge ? .max : sum
    }

    package mutating func addSaturated(_ other: UInt64) { self = addingSaturated(other) }

    /// 0 where `other` is larger.
    package func subtractingSaturated(_ other: UInt64) -> UInt64 { self - Swift.min(self, other) }
}

extension Sequence<UInt64> {
    package func saturatedSum() -> UInt64 { reduce(0) { $0.addingSaturated($1) } }
}
