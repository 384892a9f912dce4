/// Prometheus' text exposition format 0.0.4; written here because no library for it can be had.
package enum PrometheusText {
    package static let contentType = "text/plain; version=0.0.4; charset=utf-8"

    package static func encode(_ registry: MetricsRegistry) -> String {
        var text = ""
        for family in registry.snapshot() {
            let name = sanitised(family.name)
            guard let first = family.series.first else { continue }
            if let help = MetricName(rawValue: family.name)?.help { text += "# HELP \(name) \(escapedHelp(help))\n" }
            text += "# TYPE \(name) \(type(of: first.cell))\n"
            for series in family.series { write(series, name: name, into: &text) }
        }
        return text
    }

    private static func type(of cell: MetricsRegistry.Cell) -> String {
        switch cell {
        case .counter: "counter"
        case .gauge: "gauge"
        case .histogram: "histogram"
        }
    }

    private static func write(_ series: MetricsRegistry.Series, name: String, into text: inout String) {
        switch series.cell {
        case .counter(let counter): text += "\(name)\(labels(series.labels)) \(number(counter.current))\n"
        case .gauge(let gauge): text += "\(name)\(labels(series.labels)) \(number(gauge.current))\n"
        case .histogram(let histogram):
            let reading = histogram.current
            for (index, count) in reading.buckets.enumerated() {
                let bound = index < histogram.bounds.count ? number(histogram.bounds[index]) : "+Inf"
                text += "\(name)_bucket\(labels(series.labels + [(name: "le", value: bound)])) \(count)\n"
            }
            text += "\(name)_sum\(labels(series.labels)) \(number(reading.sum))\n"
            text += "\(name)_count\(labels(series.labels)) \(reading.count)\n"
        }
    }

    private static func labels(_ labels: [(name: String, value: String)]) -> String {
        guard !labels.isEmpty else { return "" }
        return "{" + labels.map { "\(sanitised($0.name))=\"\(escapedValue($0.value))\"" }.joined(separator: ",") + "}"
    }

    private static func number(_ value: Double) -> String {
        if value.isNaN { return "NaN" }
        if value.isInfinite { return value > 0 ? "+Inf" : "-Inf" }
        if value == value.rounded(), abs(value) < 1e15 { return "\(Int64(value))" }
        return "\(value)"
    }

    private static func escapedHelp(_ text: String) -> String {
        text.map { $0 == "\\" ? "\\\\" : $0 == "\n" ? "\\n" : String($0) }.joined()
    }

    private static func escapedValue(_ text: String) -> String {
        text.map { $0 == "\\" ? "\\\\" : $0 == "\n" ? "\\n" : $0 == "\"" ? "\\\"" : String($0) }.joined()
    }

    /// Letters, digits and underscores; not a digit first.
    private static func sanitised(_ name: String) -> String {
        var clean = name.map { $0.isASCII && ($0.isLetter || $0.isNumber) || $0 == "_" || $0 == ":" ? $0 : "_" }
        if let first = clean.first, first.isNumber { clean.insert("_", at: 0) }
        return String(clean)
    }
}
