import CoreMetrics
import Synchronization

/// All time series of the process: the backend of swift-metrics, and the source of `/metrics`.
///
/// Series are looked up when they are made, never when they are counted: whoever counts keeps the cell.
package final class MetricsRegistry: MetricsFactory {
    enum Cell: Sendable {
        case counter(MetricCounter)
        case gauge(MetricGauge)
        case histogram(MetricHistogram)
    }

    struct Series: Sendable {
        var labels: [(name: String, value: String)]
        var cell: Cell
    }

    /// Series of one name; a label that takes its values from outside must not fill the memory.
    package static let maximumSeriesPerName = 1_000

    private let families = Mutex<[String: [String: Series]]>([:])
    /// Cells that found no place; they count, but are not exported.
    private let overflow = MetricCounter()

    package init() {}

    // MARK: for whoever counts

    package func counter(_ name: MetricName, _ labels: [(String, String)] = []) -> MetricCounter {
        makeCounter(label: name.rawValue, dimensions: labels) as? MetricCounter ?? MetricCounter()
    }

    package func gauge(_ name: MetricName, _ labels: [(String, String)] = []) -> MetricGauge {
        makeMeter(label: name.rawValue, dimensions: labels) as? MetricGauge ?? MetricGauge()
    }

    package func histogram(
        _ name: MetricName, _ labels: [(String, String)] = [], bounds: [Double] = MetricHistogram.seconds
    ) -> MetricHistogram {
        let cell = cell(name.rawValue, labels) { .histogram(MetricHistogram(bounds: bounds)) }
        if case .histogram(let histogram) = cell { return histogram }
        return MetricHistogram(bounds: bounds)
    }

    // MARK: MetricsFactory

    package func makeCounter(label: String, dimensions: [(String, String)]) -> any CounterHandler {
        if case .counter(let counter) = cell(label, dimensions, { .counter(MetricCounter()) }) { return counter }
        return MetricCounter()
    }

    package func makeFloatingPointCounter(
        label: String, dimensions: [(String, String)]
    ) -> any FloatingPointCounterHandler {
        if case .counter(let counter) = cell(label, dimensions, { .counter(MetricCounter()) }) { return counter }
        return MetricCounter()
    }

    package func makeMeter(label: String, dimensions: [(String, String)]) -> any MeterHandler {
        if case .gauge(let gauge) = cell(label, dimensions, { .gauge(MetricGauge()) }) { return gauge }
        return MetricGauge()
    }

    package func makeRecorder(
        label: String, dimensions: [(String, String)], aggregate: Bool
    ) -> any RecorderHandler {
        guard aggregate else {
            if case .gauge(let gauge) = cell(label, dimensions, { .gauge(MetricGauge()) }) { return gauge }
            return MetricGauge()
        }
        return distribution(label, dimensions, bounds: MetricHistogram.sizes)
    }

    package func makeTimer(label: String, dimensions: [(String, String)]) -> any TimerHandler {
        distribution(label, dimensions, bounds: MetricHistogram.seconds)
    }

    /// Series live as long as the process, as Prometheus expects of counters.
    package func destroyCounter(_ handler: any CounterHandler) {}
    package func destroyFloatingPointCounter(_ handler: any FloatingPointCounterHandler) {}
    package func destroyMeter(_ handler: any MeterHandler) {}
    package func destroyRecorder(_ handler: any RecorderHandler) {}
    package func destroyTimer(_ handler: any TimerHandler) {}

    // MARK: lookup

    private func distribution(
        _ name: String, _ labels: [(String, String)], bounds: [Double]
    ) -> MetricHistogram {
        let cell = cell(name, labels) { .histogram(MetricHistogram(bounds: bounds)) }
        if case .histogram(let histogram) = cell { return histogram }
        return MetricHistogram(bounds: bounds)
    }

    private func cell(_ name: String, _ labels: [(String, String)], _ make: () -> Cell) -> Cell {
        let sorted = labels.sorted { $0.0 < $1.0 }
        let key = sorted.map { "\($0.0)\u{0}\($0.1)" }.joined(separator: "\u{1}")
        return families.withLock { families in
            if let known = families[name]?[key] { return known.cell }
            let made = make()
            guard families[name, default: [:]].count < Self.maximumSeriesPerName else {
                overflow.increment(by: Int64(1))
                return made
            }
            families[name, default: [:]][key] = Series(labels: sorted.map { (name: $0.0, value: $0.1) }, cell: made)
            return made
        }
    }

    /// By name, then by labels.
    func snapshot() -> [(name: String, series: [Series])] {
        families.withLock { families in
            families.sorted { $0.key < $1.key }.map { family in
                (family.key, family.value.sorted { $0.key < $1.key }.map(\.value))
            }
        }
    }
}
