import CoreMetrics
import Foundation
import Metrics
import Operations
import Testing

@Suite struct MetricTests {
    private func lines(_ registry: MetricRegistry) -> [String] {
        registry.text().split(separator: "\n").map(String.init)
    }

    @Test func aCounterIsShownWithHelpAndType() {
        let registry = MetricRegistry()
        registry.counter(.messagesReceived).add(3)
        registry.counter(.messagesReceived).add()
        let found = lines(registry)
        #expect(found.contains("# HELP sluice_messages_received_total \(MetricName.messagesReceived.help)"))
        #expect(found.contains("# TYPE sluice_messages_received_total counter"))
        #expect(found.contains("sluice_messages_received_total 4"))
    }

    @Test func labelsAreSortedAndEscaped() {
        let registry = MetricRegistry()
        registry.counter(.messagesRefused, [("reason", "a\"b\\c\nd"), ("a", "1")]).add()
        #expect(lines(registry).contains(#"sluice_messages_refused_total{a="1",reason="a\"b\\c\nd"} 1"#))
    }

    @Test func gaugesGoUpAndDownAndCanBeRead() {
        let registry = MetricRegistry()
        let gauge = registry.gauge(.connections)
        gauge.set(5)
        gauge.add(-1.5)
        #expect(lines(registry).contains("sluice_connections 3.5"))
        let other = MetricRegistry()
        other.gauge(.connections) { 42 }
        #expect(lines(other).contains("sluice_connections 42"))
    }

    @Test func bucketsAreCumulative() {
        let registry = MetricRegistry()
        let histogram = registry.histogram(.connections, bounds: [2, 1, .infinity], [("k", "v")])
        for value in [0.5, 1, 1.5, 9, .nan] { histogram.observe(value) }
        let found = lines(registry).filter { $0.hasPrefix("sluice_connections") }
        #expect(
            found == [
                #"sluice_connections_bucket{k="v",le="1"} 2"#, #"sluice_connections_bucket{k="v",le="2"} 3"#,
                #"sluice_connections_bucket{k="v",le="+Inf"} 4"#, #"sluice_connections_sum{k="v"} 12"#,
                #"sluice_connections_count{k="v"} 4"#,
            ])
    }

    @Test func labelValuesAreBounded() {
        let registry = MetricRegistry(maximumSeries: 10)
        for number in 0..<100 { registry.counter(.messagesRefused, [("reason", "\(number)")]).add() }
        let found = lines(registry).filter { $0.hasPrefix("sluice_messages_refused_total{") }
        #expect(found.count == 11)
        #expect(found.contains(#"sluice_messages_refused_total{reason="other"} 90"#))
        #expect(lines(registry).contains("sluice_metrics_rejected_total 90"))
    }

    @Test func aNameKeepsItsFirstType() {
        let registry = MetricRegistry()
        registry.counter(.connections).add()
        registry.gauge(.connections).set(7)
        registry.histogram(.connections).observe(1)
        #expect(lines(registry).contains("sluice_connections 1"))
        #expect(lines(registry).contains("sluice_metrics_rejected_total 2"))
    }

    @Test func librariesMeasureThroughTheFactory() {
        let registry = MetricRegistry()
        let factory = RegistryMetricsFactory(registry: registry)
        Counter(label: "http.requests", dimensions: [("path", "/")], factory: factory).increment(by: 2)
        Timer(label: "9latency", dimensions: [], factory: factory).recordNanoseconds(1_000_000)
        Gauge(label: "level", dimensions: [], factory: factory).record(2.5)
        Recorder(label: "sizes", dimensions: [], aggregate: true, factory: factory).record(3)
        let meter = Meter(label: "meter", dimensions: [], factory: factory)
        meter.set(4)
        meter.decrement(by: 1)
        let found = lines(registry)
        for expected in [
            #"http_requests_total{path="/"} 2"#, #"_9latency_seconds_bucket{le="0.001"} 1"#, "level 2.5", "meter 3",
            #"sizes_bucket{le="4"} 1"#, "sizes_count 1",
        ] { #expect(found.contains(expected), "\(expected) in \(found)") }
    }

    @Test func ourOwnNamesHaveTheirHelpThroughTheFactoryToo() {
        let registry = MetricRegistry()
        let factory = RegistryMetricsFactory(registry: registry)
        Counter(label: MetricName.uplinkBatches.rawValue, dimensions: [], factory: factory).increment()
        Gauge(label: MetricName.uplinkDrain.rawValue, dimensions: [], factory: factory).record(1)
        Timer(label: MetricName.ingestDuration.rawValue, dimensions: [], factory: factory).recordNanoseconds(1)
        Gauge(label: "level", dimensions: [], factory: factory).record(1)
        let found = lines(registry)
        for name in [MetricName.uplinkBatches, .uplinkDrain, .ingestDuration] {
            #expect(found.contains("# HELP \(name.rawValue) \(name.help)"))
        }
        #expect(found.contains("# HELP level level"))
    }

    @Test func everyNameHasAHelpAndFollowsTheConventions() {
        for name in MetricName.allCases {
            #expect(!name.help.isEmpty)
            #expect(name.rawValue.hasPrefix("sluice_"))
            #expect(name.rawValue.utf8.allSatisfy { $0 == UInt8(ascii: "_") || (97...122).contains($0) })
        }
    }

    @Test func countersLoseNothingUnderConcurrency() {
        let registry = MetricRegistry()
        let gauge = registry.gauge(.connections)
        DispatchQueue.concurrentPerform(iterations: 8) { _ in
            let counter = registry.counter(.messagesReceived)
            for _ in 0..<1_000 {
                counter.add()
                gauge.add(1)
            }
        }
        #expect(registry.counter(.messagesReceived).value == 8_000 && gauge.value == 8_000)
    }

    /// Debian's prometheus package has promtool.
    @Test(.enabled(if: FileManager.default.isExecutableFile(atPath: "/usr/bin/promtool"), "promtool is not installed"))
    func promtoolAgrees() throws {
        let registry = MetricRegistry()
        registry.counter(.messagesRefused, [("reason", "a\"b\\c\nd")]).add()
        _ = registry.gauge(.connections)
        let process = Process()
        process.executableURL = URL(fileURLWithPath: "/usr/bin/promtool")
        process.arguments = ["check", "metrics"]
        let (input, output) = (Pipe(), Pipe())
        process.standardInput = input
        process.standardError = output
        process.standardOutput = output
        try process.run()
        input.fileHandleForWriting.write(Data(registry.text().utf8))
        try input.fileHandleForWriting.close()
        let said = String(decoding: output.fileHandleForReading.readDataToEndOfFile(), as: UTF8.self)
        process.waitUntilExit()
        #expect(process.terminationStatus == 0, "\(said)")
    }
}
