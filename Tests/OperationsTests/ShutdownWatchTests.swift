import Foundation
import Logging
import ServiceLifecycle
import Synchronization
import Testing

@testable import Operations

@Suite struct ShutdownWatchTests {
    private final class Place: Sendable {
        let file = NSTemporaryDirectory() + "sluice-shutdown-\(UUID().uuidString)"
        let cutOff = Mutex<Int32?>(nil)

        deinit { try? FileManager.default.removeItem(atPath: file) }

        var record: ShutdownWatch.Record? {
            (try? String(contentsOfFile: file, encoding: .utf8)).flatMap { ShutdownWatch.Record($0) }
        }
    }

    private let logger = Logger(label: "t") { _ in SwiftLogNoOpLogHandler() }

    private func watch(_ place: Place, limit: Duration, _ registry: MetricRegistry = MetricRegistry()) -> ShutdownWatch
    {
        var settings = ShutdownWatch.Settings(file: place.file, limit: limit)
        settings.cutOff = { status in place.cutOff.withLock { $0 = status } }
        return ShutdownWatch(settings, metrics: registry, logger: logger)
    }

    private func shown(_ registry: MetricRegistry) -> Double {
        registry.text().split(separator: "\n").last { $0.hasPrefix("sluice_shutdown_seconds ") }
            .flatMap { Double($0.split(separator: " ")[1]) } ?? -1
    }

    @Test func theNextStartShowsHowLongItTook() async throws {
        let place = Place()
        let registry = MetricRegistry()
        let watch = watch(place, limit: .seconds(60), registry)
        #expect(shown(registry) == 0 && place.record == nil)
        watch.begin()
        try await Task.sleep(for: .milliseconds(200))
        #expect(shown(registry) >= 0.2, "it grows while it runs")
        #expect(place.record?.isEnded == false, "a process that is killed now has left its time")
        watch.finish()
        let record = try #require(place.record)
        #expect(record.isEnded && record.seconds >= 0.2)
        try await Task.sleep(for: .milliseconds(1_200))
        #expect(place.record == record, "nothing is written after the end")
        #expect(place.cutOff.withLock { $0 } == nil)
        let next = MetricRegistry()
        _ = self.watch(place, limit: .seconds(60), next)
        #expect(shown(next) == record.seconds)
    }

    @Test func whatDoesNotEndIsCutOff() async throws {
        let place = Place()
        let watch = watch(place, limit: .milliseconds(200))
        watch.begin()
        for _ in 0..<500 where place.cutOff.withLock({ $0 }) == nil { try await Task.sleep(for: .milliseconds(10)) }
        #expect(place.cutOff.withLock { $0 } == ShutdownWatch.cutOffStatus)
        #expect(place.record.map { !$0.isEnded && $0.seconds >= 0.2 } == true)
        watch.finish()
    }

    @Test func aGracefulShutdownStartsTheTime() async throws {
        let place = Place()
        let watch = watch(place, limit: .seconds(60))
        let group = ServiceGroup(configuration: .init(services: [watch], logger: logger))
        let running = Task { try await group.run() }
        try await Task.sleep(for: .milliseconds(100))
        await group.triggerGracefulShutdown()
        try await running.value
        watch.finish()
        #expect(place.record?.isEnded == true)
    }

    @Test(arguments: ["", "x ended", "1", "-1 ended", "1 done", "1 ended more"])
    func nonsenseIsNoRecord(text: String) { #expect(ShutdownWatch.Record(text) == nil) }
}

@Suite struct HealthTimingTests {
    @Test func whatIsKnownIsSaidWithoutWaiting() async throws {
        let health = HealthRegistry(cacheLife: .zero)
        let (gate, release) = AsyncStream<Void>.makeStream()
        health.check("database", limit: .milliseconds(30)) {
            for await _ in gate { break }
            return .good
        }
        health.check("event log") { .good }
        #expect(health.overdue().states["database"] == .failed("it has not been run yet"))
        #expect(await !health.ready().isGood)
        let late = health.overdue()
        #expect(!late.isGood && late.states["event log"] == .good && late.states["health"] != nil)
        guard case .failed(let reason)? = late.states["database"] else {
            Issue.record("\(late)")
            return
        }
        #expect(reason.hasPrefix("no answer "))
        let timing = try #require(health.timings.first { $0.check == "database" })
        #expect(timing.isFailed && timing.seconds >= 0.03)
        #expect(health.timings.first { $0.check == "event log" }?.isFailed == false)
        release.finish()
        for _ in 0..<500 {
            if await health.ready().isGood { break }
            try await Task.sleep(for: .milliseconds(10))
        }
        #expect(await health.ready().isGood, "it is asked again when it has come back")
    }

    @Test func gaugesThatComeAndGoAreShownAndTheHighestIsFound() {
        let registry = MetricRegistry()
        let values = Mutex<[(String, Double)]>([("a", 1), ("b", 7)])
        registry.gauges(.processorNewestAge) { values.withLock { $0 }.map { ([("gateway", $0.0)], $0.1) } }
        #expect(registry.text().contains("sluice_processor_newest_row_age_seconds{gateway=\"b\"} 7\n"))
        #expect(registry.highest(ofGauge: MetricName.processorNewestAge.rawValue) == 7)
        values.withLock { $0 = [("a", 2)] }
        #expect(!registry.text().contains("gateway=\"b\""))
        #expect(registry.highest(ofGauge: "sluice_none") == nil)
    }

    @Test func manyObservationsOfOneValueAreCountedAtOnce() {
        let histogram = MetricHistogram(bounds: [1, 10])
        histogram.observe(0.5, count: 3)
        histogram.observe(20, count: 2)
        histogram.observe(5, count: 0)
        #expect(histogram.snapshot.cumulative == [3, 3, 5] && histogram.snapshot.sum == 41.5)
    }
}
