import Synchronization

/// Everything that `/metrics` shows. Registering takes a lock and is for the start; measuring goes through the series
/// that was handed out, without a look-up.
///
/// Bounded: a name has at most `maximumSeries` combinations of labels; what comes after shares one series whose values
/// are all `other`. A name that is used with two types keeps the first; the other's measurements go nowhere. Both are
/// counted in `sluice_metrics_rejected_total`.
package final class MetricRegistry: Sendable {
    package typealias Labels = [(name: String, value: String)]

    enum Series: Sendable {
        case counter(MetricCounter)
        case counterReader(@Sendable () -> Double)
        case gauge(MetricGauge)
        case gaugeReader(@Sendable () -> Double)
        case gaugesReader(@Sendable () -> [(labels: Labels, value: Double)])
        case histogram(MetricHistogram)

        var type: String {
            switch self {
            case .counter, .counterReader: "counter"
            case .gauge, .gaugeReader, .gaugesReader: "gauge"
            case .histogram: "histogram"
            }
        }
    }

    struct Family: Sendable {
        var help: String
        var type: String
        /// By their labels as they are written.
        var series: [String: Series] = [:]
    }

    private let families = Mutex<[String: Family]>([:])
    private let rejected = MetricCounter()
    package let maximumSeries: Int
    package let maximumFamilies: Int

    package init(maximumSeries: Int = 200, maximumFamilies: Int = 500) {
        self.maximumSeries = maximumSeries
        self.maximumFamilies = maximumFamilies
        counter(.metricsRejected) { [rejected] in Double(rejected.value) }
    }

    package func counter(_ name: MetricName, _ labels: Labels = []) -> MetricCounter {
        counter(name.rawValue, help: name.help, labels)
    }

    package func gauge(_ name: MetricName, _ labels: Labels = []) -> MetricGauge {
        gauge(name.rawValue, help: name.help, labels)
    }

    package func histogram(
        _ name: MetricName, bounds: [Double] = MetricHistogram.secondsBounds, _ labels: Labels = []
    ) -> MetricHistogram {
        histogram(name.rawValue, help: name.help, bounds: bounds, labels)
    }

    /// A counter that is kept elsewhere; read at each scrape, so it must be quick.
    package func counter(_ name: MetricName, _ labels: Labels = [], read: @escaping @Sendable () -> Double) {
        _ = register(name.rawValue, help: name.help, labels, .counterReader(read))
    }

    /// A gauge that is read at each scrape, so it must be quick.
    package func gauge(_ name: MetricName, _ labels: Labels = [], read: @escaping @Sendable () -> Double) {
        _ = register(name.rawValue, help: name.help, labels, .gaugeReader(read))
    }

    /// Gauges that come and go with what they speak of; read at each scrape, and bounded by who reads. They are all of
    /// the name's series.
    package func gauges(_ name: MetricName, read: @escaping @Sendable () -> [(labels: Labels, value: Double)]) {
        _ = register(name.rawValue, help: name.help, [], .gaugesReader(read))
    }

    /// The highest of a gauge's series now; `nil` where there is no gauge of that name.
    package func highest(ofGauge name: String) -> Double? {
        guard let family = families.withLock({ $0[name] }) else { return nil }
        let values = family.series.values.flatMap { series -> [Double] in
            switch series {
            case .gauge(let gauge): [gauge.value]
            case .gaugeReader(let read): [read()]
            case .gaugesReader(let read): read().map(\.value)
            case .counter, .counterReader, .histogram: []
            }
        }
        return values.max()
    }

    func counter(_ name: String, help: String, _ labels: Labels) -> MetricCounter {
        let fresh = MetricCounter()
        if case .counter(let counter) = register(name, help: help, labels, .counter(fresh)) { return counter }
        return fresh
    }

    func gauge(_ name: String, help: String, _ labels: Labels) -> MetricGauge {
        let fresh = MetricGauge()
        if case .gauge(let gauge) = register(name, help: help, labels, .gauge(fresh)) { return gauge }
        return fresh
    }

    func histogram(_ name: String, help: String, bounds: [Double], _ labels: Labels) -> MetricHistogram {
        let fresh = MetricHistogram(bounds: bounds)
        if case .histogram(let histogram) = register(name, help: help, labels, .histogram(fresh)) { return histogram }
        return fresh
    }

    /// The series that is there already, or the fresh one; `nil` where the name has another type.
    private func register(_ name: String, help: String, _ labels: Labels, _ fresh: Series) -> Series? {
        let name = PrometheusText.name(name)
        return families.withLock { families in
            guard families[name] != nil || families.count < maximumFamilies else {
                rejected.add()
                return nil
            }
            var family = families[name] ?? Family(help: help, type: fresh.type)
            guard family.type == fresh.type else {
                rejected.add()
                return nil
            }
            var key = PrometheusText.labels(labels)
            if family.series[key] == nil && family.series.count >= maximumSeries {
                rejected.add()
                key = PrometheusText.labels(labels.map { ($0.name, "other") })
            }
            let series = family.series[key] ?? fresh
            family.series[key] = series
            families[name] = family
            return series
        }
    }

    /// In Prometheus' text format, version 0.0.4.
    package func text() -> String {
        let snapshot = families.withLock { $0 }
        var text = ""
        for (name, family) in snapshot.sorted(by: { $0.key < $1.key }) {
            PrometheusText.append(name: name, family: family, to: &text)
        }
        return text
    }

    package static let contentType = "text/plain; version=0.0.4; charset=utf-8"
}
