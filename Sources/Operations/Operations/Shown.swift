/// Quantities for people, on the status page and in the command line's tables.
package enum Shown {
    /// Per second: two digits that matter, whole numbers from 10 on.
    package static func rate(_ value: Double) -> String {
        guard value.isFinite, value > 0 else { return "0" }
        if value < 0.01 { return "<0.01" }
        if value < 1 { return decimal(value, digits: 2) }
        if value < 9.95 { return decimal(value, digits: 1) }
        return count(Int(min(value, 1e15).rounded()))
    }

    /// With a narrow space between thousands.
    package static func count(_ value: Int) -> String {
        var text = ""
        let digits = String(value.magnitude)
        for (index, digit) in digits.enumerated() {
            if index > 0, (digits.count - index) % 3 == 0 { text.append("\u{202F}") }
            text.append(digit)
        }
        return value < 0 ? "−" + text : text
    }

    /// Powers of 1,024.
    package static func bytes(_ value: Double) -> String {
        var value = value.isFinite ? max(0, value) : 0
        var unit = "B"
        for next in ["KiB", "MiB", "GiB", "TiB"] where value >= 1_024 {
            value /= 1_024
            unit = next
        }
        let number = unit == "B" || value >= 99.95 ? count(Int(value.rounded())) : decimal(value, digits: 1)
        return "\(number) \(unit)"
    }

    /// The two largest units.
    package static func duration(seconds: Int64) -> String {
        if seconds < 0 { return "0 s" }
        let parts = [
            (seconds / 86_400, "d"), (seconds / 3_600 % 24, "h"), (seconds / 60 % 60, "min"), (seconds % 60, "s"),
        ]
        let first = parts.firstIndex { $0.0 > 0 } ?? 3
        return parts[first...].prefix(2).filter { $0.0 > 0 || $0.1 == parts[first].1 }
            .map { "\($0.0) \($0.1)" }.joined(separator: " ")
    }

    private static func decimal(_ value: Double, digits: Int) -> String {
        let scale = digits == 1 ? 10.0 : 100.0
        let scaled = Int((value * scale).rounded())
        let fraction = String(scaled % Int(scale))
        return "\(scaled / Int(scale)).\(String(repeating: "0", count: digits - fraction.count))\(fraction)"
    }
}
