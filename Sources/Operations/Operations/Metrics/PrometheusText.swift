/// Prometheus' text format: https://prometheus.io/docs/instrumenting/exposition_formats/
enum PrometheusText {
    /// A name of `[a-zA-Z_:][a-zA-Z0-9_:]*`; other letters become `_`.
    static func name(_ text: String) -> String { clean(text, colon: true) }

    /// `{a="b",c="d"}` sorted by name, or nothing. A name that comes twice keeps its last value, since Prometheus
    /// refuses a whole scrape over one such line.
    static func labels(_ labels: MetricRegistry.Labels) -> String {
        guard !labels.isEmpty else { return "" }
        var byName: [String: String] = [:]
        for label in labels { byName[clean(label.name, colon: false)] = label.value }
        let texts = byName.sorted { $0.key < $1.key }.map { "\($0.key)=\"\(escape($0.value, quotes: true))\"" }
        return "{" + texts.joined(separator: ",") + "}"
    }

    static func append(name: String, family: MetricRegistry.Family, to text: inout String) {
        text += "# HELP \(name) \(escape(family.help, quotes: false))\n# TYPE \(name) \(family.type)\n"
        for (labels, series) in family.series.sorted(by: { $0.key < $1.key }) {
            switch series {
            case .counter(let counter): text += "\(name)\(labels) \(counter.value)\n"
            case .gauge(let gauge): text += "\(name)\(labels) \(number(gauge.value))\n"
            case .counterReader(let read), .gaugeReader(let read): text += "\(name)\(labels) \(number(read()))\n"
            case .gaugesReader(let read):
                for (labels, value) in read() { text += "\(name)\(self.labels(labels)) \(number(value))\n" }
            case .histogram(let histogram): append(name: name, labels: labels, histogram: histogram, to: &text)
            }
        }
    }

    private static func append(name: String, labels: String, histogram: MetricHistogram, to text: inout String) {
        let (cumulative, sum) = histogram.snapshot
        let inner = labels.isEmpty ? "" : labels.dropFirst().dropLast() + ","
        for (bound, count) in zip(histogram.bounds.map(number) + ["+Inf"], cumulative) {
            text += "\(name)_bucket{\(inner)le=\"\(bound)\"} \(count)\n"
        }
        text += "\(name)_sum\(labels) \(number(sum))\n\(name)_count\(labels) \(cumulative.last ?? 0)\n"
    }

    static func number(_ value: Double) -> String {
        if value.isNaN { return "NaN" }
        if value.isInfinite { return value > 0 ? "+Inf" : "-Inf" }
        if let integer = Int64(exactly: value) { return "\(integer)" }
        return "\(value)"
    }

    private static func escape(_ text: String, quotes: Bool) -> String {
        var result = ""
        for character in text.unicodeScalars {
            switch character {
            case "\\": result += "\\\\"
            case "\n": result += "\\n"
            case "\"" where quotes: result += "\\\""
            default: result.unicodeScalars.append(character)
            }
        }
        return result
    }

    private static func clean(_ text: String, colon: Bool) -> String {
        var result = ""
        for scalar in text.unicodeScalars {
            let isLetter =
                scalar == "_" || (scalar.isASCII && scalar.properties.isAlphabetic) || (colon && scalar == ":")
            let isDigit = ("0"..."9").contains(scalar)
            if isDigit && result.isEmpty { result += "_" }
            result.unicodeScalars.append(isLetter || isDigit ? scalar : "_")
        }
        return result.isEmpty ? "_" : result
    }
}
