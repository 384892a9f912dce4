import Metrics

/// Brings what libraries measure through swift-metrics into the registry. Counters get `_total`, times are seconds.
package struct RegistryMetricsFactory: MetricsFactory {
    private let registry: MetricRegistry

    package init(registry: MetricRegistry) { self.registry = registry }

    package func makeCounter(label: String, dimensions: [(String, String)]) -> any CounterHandler {
        CountingHandler(
            registry.counter(Self.total(label), help: Self.help(Self.total(label)), Self.labels(dimensions)))
    }

    package func makeMeter(label: String, dimensions: [(String, String)]) -> any MeterHandler {
        GaugeHandler(registry.gauge(label, help: Self.help(label), Self.labels(dimensions)))
    }

    package func makeRecorder(
        label: String, dimensions: [(String, String)], aggregate: Bool
    ) -> any RecorderHandler {
        guard aggregate else {
            return GaugeHandler(registry.gauge(label, help: Self.help(label), Self.labels(dimensions)))
        }
        return HistogramHandler(
            registry.histogram(
                label, help: Self.help(label), bounds: MetricHistogram.sizeBounds, Self.labels(dimensions)))
    }

    package func makeTimer(label: String, dimensions: [(String, String)]) -> any TimerHandler {
        let name = label.hasSuffix("_seconds") ? label : label + "_seconds"
        return HistogramHandler(
            registry.histogram(
                name, help: Self.help(name),
                bounds: MetricHistogram.secondsBounds, Self.labels(dimensions)))
    }

    /// Our own services measure through swift-metrics too; of a library's metric the name is all that there is.
    private static func help(_ name: String) -> String { MetricName(rawValue: name)?.help ?? name }

    // A series stays for the life of the process: Prometheus takes one that vanishes and comes back for a reset.
    package func destroyCounter(_ handler: any CounterHandler) {}
    package func destroyMeter(_ handler: any MeterHandler) {}
    package func destroyRecorder(_ handler: any RecorderHandler) {}
    package func destroyTimer(_ handler: any TimerHandler) {}

    private static func total(_ label: String) -> String { label.hasSuffix("_total") ? label : label + "_total" }

    private static func labels(_ dimensions: [(String, String)]) -> MetricRegistry.Labels {
        dimensions.map { (name: $0.0, value: $0.1) }
    }
}

private final class CountingHandler: CounterHandler {
    private let counter: MetricCounter

    init(_ counter: MetricCounter) { self.counter = counter }

    func increment(by amount: Int64) { counter.add(UInt64(max(0, amount))) }

    /// Prometheus' counters never go back.
    func reset() {}
}

private final class GaugeHandler: MeterHandler, RecorderHandler {
    private let gauge: MetricGauge

    init(_ gauge: MetricGauge) { self.gauge = gauge }

    func set(_ value: Int64) { gauge.set(Double(value)) }
    func set(_ value: Double) { gauge.set(value) }
    func increment(by amount: Double) { gauge.add(amount) }
    func decrement(by amount: Double) { gauge.add(-amount) }
    func record(_ value: Int64) { gauge.set(Double(value)) }
    func record(_ value: Double) { gauge.set(value) }
}

private final class HistogramHandler: RecorderHandler, TimerHandler {
    private let histogram: MetricHistogram

    init(_ histogram: MetricHistogram) { self.histogram = histogram }

    func record(_ value: Int64) { histogram.observe(Double(value)) }
    func record(_ value: Double) { histogram.observe(value) }
    func recordNanoseconds(_ duration: Int64) { histogram.observe(Double(duration) / 1_000_000_000) }
}
