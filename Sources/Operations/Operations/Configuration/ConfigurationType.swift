/// How a scalar of a configuration file is read, and how a person is told what it may be.
package struct ConfigurationType<Value> {
    /// Completes "allowed …".
    package let allowed: String
    package let parse: (String) -> Value?

    package init(allowed: String, parse: @escaping (String) -> Value?) {
        self.allowed = allowed
        self.parse = parse
    }
}

extension ConfigurationType<String> {
    package static var text: Self { Self(allowed: "a text that is not empty") { $0.isEmpty ? nil : $0 } }
}

extension ConfigurationType<Int> {
    package static func integer(_ range: ClosedRange<Int>) -> Self {
        Self(allowed: "a whole number from \(range.lowerBound) to \(range.upperBound)") { text in
            Int(text).flatMap { range.contains($0) ? $0 : nil }
        }
    }

    /// - Parameter range: bytes.
    package static func bytes(_ range: ClosedRange<Int>) -> Self {
        Self(allowed: "a size from \(Quantity.bytes(range.lowerBound)) to \(Quantity.bytes(range.upperBound))") {
            text in
            Quantity.bytes(text).flatMap { range.contains($0) ? $0 : nil }
        }
    }

    /// - Parameter range: seconds.
    package static func seconds(_ range: ClosedRange<Int>) -> Self {
        let least = Quantity.time(milliseconds: range.lowerBound * 1_000)
        let most = Quantity.time(milliseconds: range.upperBound * 1_000)
        return Self(allowed: "a time in whole seconds from \(least) to \(most), as 300s, 5m, 2h or 7d") { text in
            guard let milliseconds = Quantity.milliseconds(text), milliseconds % 1_000 == 0 else { return nil }
            return range.contains(milliseconds / 1_000) ? milliseconds / 1_000 : nil
        }
    }

    /// - Parameter range: milliseconds.
    package static func milliseconds(_ range: ClosedRange<Int>) -> Self {
        let least = Quantity.time(milliseconds: range.lowerBound)
        let most = Quantity.time(milliseconds: range.upperBound)
        return Self(allowed: "a time from \(least) to \(most), as 5ms or 1s") { text in
            Quantity.milliseconds(text).flatMap { range.contains($0) ? $0 : nil }
        }
    }
}

extension ConfigurationType<Double> {
    package static func number(_ range: ClosedRange<Double>) -> Self {
        Self(allowed: "a number from \(range.lowerBound) to \(range.upperBound)") { text in
            Double(text).flatMap { $0.isFinite && range.contains($0) ? $0 : nil }
        }
    }

    package static func percent(_ range: ClosedRange<Double>) -> Self {
        Self(allowed: "a percentage from \(Int(range.lowerBound))% to \(Int(range.upperBound))%") { text in
            guard text.hasSuffix("%"), let number = Double(text.dropLast()) else { return nil }
            return number.isFinite && range.contains(number) ? number : nil
        }
    }
}

extension ConfigurationType<Bool> {
    package static var boolean: Self {
        Self(allowed: "true or false") { text in
            switch text {
            case "true": true
            case "false": false
            default: nil
            }
        }
    }
}

extension ConfigurationType where Value: RawRepresentable & CaseIterable, Value.RawValue == String {
    package static var word: Self {
        let words = Value.allCases.map(\.rawValue)
        let allowed =
            words.count < 2
            ? words.joined() : words.dropLast().joined(separator: ", ") + " or " + (words.last ?? "")
        return Self(allowed: allowed) { Value(rawValue: $0) }
    }
}

extension ConfigurationType {
    /// The word `unlimited` is `nil`.
    package func orUnlimited() -> ConfigurationType<Value?> {
        ConfigurationType<Value?>(allowed: "\(allowed), or unlimited") { text in
            if text == "unlimited" { return .some(nil) }
            return parse(text).map { .some($0) }
        }
    }

    package func optional() -> ConfigurationType<Value?> {
        ConfigurationType<Value?>(allowed: allowed) { text in parse(text).map { .some($0) } }
    }
}

/// Times and sizes as people write them.
enum Quantity {
    private static let timeUnits: [(name: String, milliseconds: Int)] = [
        ("ms", 1), ("s", 1_000), ("m", 60_000), ("h", 3_600_000), ("d", 86_400_000),
    ]

    private static let sizeUnits: [(name: String, bytes: Int)] = [
        ("B", 1), ("KiB", 1 << 10), ("MiB", 1 << 20), ("GiB", 1 << 30), ("TiB", 1 << 40), ("kB", 1_000),
        ("MB", 1_000_000), ("GB", 1_000_000_000), ("TB", 1_000_000_000_000), ("", 1),
    ]

    /// A whole number and a unit; 0 needs none.
    static func milliseconds(_ text: String) -> Int? {
        guard let (number, unit) = split(text) else { return nil }
        if number == 0 && unit.isEmpty { return 0 }
        return timeUnits.first { $0.name == unit }.flatMap { product(number, $0.milliseconds) }
    }

    static func bytes(_ text: String) -> Int? {
        guard let (number, unit) = split(text) else { return nil }
        return sizeUnits.first { $0.name == unit }.flatMap { product(number, $0.bytes) }
    }

    static func time(milliseconds: Int) -> String {
        guard milliseconds != 0 else { return "0s" }
        for unit in timeUnits.reversed() where milliseconds % unit.milliseconds == 0 {
            return "\(milliseconds / unit.milliseconds)\(unit.name)"
        }
        return "\(milliseconds)ms"
    }

    static func bytes(_ count: Int) -> String {
        guard count != 0 else { return "0B" }
        for unit in sizeUnits[..<5].reversed() where count % unit.bytes == 0 {
            return "\(count / unit.bytes)\(unit.name)"
        }
        return "\(count)B"
    }

    private static func split(_ text: String) -> (Int, String)? {
        let digits = text.prefix { $0.isASCII && $0.isNumber }
        guard !digits.isEmpty, let number = Int(digits) else { return nil }
        let unit = text.dropFirst(digits.count)
        return (number, String(unit.first == " " ? unit.dropFirst() : unit))
    }

    private static func product(_ a: Int, _ b: Int) -> Int? {
        let (product, overflow) = a.multipliedReportingOverflow(by: b)
        return overflow ? nil : product
    }
}
