import EventLog
import Foundation
import NIOCore
import Operations
import SyncModel
import Testing

@testable import Ingest

@Suite struct IngestBudgetTests {
    private static let second: Int64 = 1_000_000

    private func budget(
        gateways: Int = 10, _ change: (inout IngestBudget.Bounds, inout IngestBudget.Bounds) -> Void = { _, _ in }
    ) -> IngestBudget {
        var live = IngestBudget.Bounds(
            batches: 4, messagesPerSecond: 100, gatewayBatches: 2, gatewayMessagesPerSecond: 60)
        var backlog = IngestBudget.Bounds(
            batches: 2, messagesPerSecond: 50, gatewayBatches: 1, gatewayMessagesPerSecond: 30)
        change(&live, &backlog)
        return IngestBudget(live: live, backlog: backlog, maximumGateways: gateways, at: 0)
    }

    private func refusal(_ body: () throws(IngestBudget.Refusal) -> Void) -> IngestBudget.Refusal? {
        do throws(IngestBudget.Refusal) {
            try body()
            return nil
        } catch { return error }
    }

    @Test func placesAreBoundedForEachGatewayAndForAll() throws {
        var budget = budget()
        for _ in 0..<2 { try budget.enter("a", .live, at: 0) }
        #expect(
            refusal { () throws(IngestBudget.Refusal) in try budget.enter("a", .live, at: 0) }?.limit
                == .gatewayInFlight)
        for _ in 0..<2 { try budget.enter("b", .live, at: 0) }
        #expect(refusal { () throws(IngestBudget.Refusal) in try budget.enter("c", .live, at: 0) }?.limit == .inFlight)
        try budget.enter("c", .backlog, at: 0)
        budget.leave("a", .live)
        try budget.enter("c", .live, at: 0)
        #expect(budget.batches(.live) == 4 && budget.batches(.backlog) == 1)
    }

    @Test func ratesAreBoundedForEachGatewayAndForAll() throws {
        var budget = budget()
        try budget.take(60, of: "a", .live, at: 0)
        let own = refusal { () throws(IngestBudget.Refusal) in try budget.take(30, of: "a", .live, at: 0) }
        #expect(own == .init(limit: .gatewayRate, lane: .live, retryAfter: 1))
        try budget.take(40, of: "b", .live, at: 0)
        let all = refusal { () throws(IngestBudget.Refusal) in try budget.take(20, of: "b", .live, at: 0) }
        #expect(all?.limit == .rate)
        // What all may not have is given back to the gateway: it has its 20 left, and no less.
        try budget.take(20, of: "b", .live, at: Self.second)
    }

    /// A gateway's batch keeps its size until it is taken, and small ones of others would keep the bucket from ever being full.
    @Test func aLargeBatchPassesBesideSmallOnes() throws {
        var budget = budget { live, _ in live.gatewayMessagesPerSecond = nil }
        var passed = 0
        for tick in 0..<100 {
            let now = Int64(tick) * Self.second / 10
            // At the limit of all, from another gateway; and the large one each second.
            try? budget.take(10, of: "small", .live, at: now)
            if tick % 10 == 5, (try? budget.take(200, of: "large", .live, at: now + 50_000)) != nil { passed += 1 }
        }
        #expect((2...6).contains(passed), "\(passed)")
    }

    @Test func backlogTakesNothingOfLive() throws {
        var budget = budget { _, backlog in backlog.gatewayMessagesPerSecond = nil }
        try budget.take(1_000, of: "a", .backlog, at: 0)
        let owed = refusal { () throws(IngestBudget.Refusal) in try budget.enter("b", .backlog, at: 0) }
        // 950 are owed at 50 a second.
        #expect(owed == .init(limit: .rate, lane: .backlog, retryAfter: 20))
        try budget.enter("a", .live, at: 0)
        try budget.take(60, of: "a", .live, at: 0)
    }

    @Test func aBatchLargerThanASecondPassesAndIsPaidOff() throws {
        var budget = budget { live, _ in live.messagesPerSecond = nil }
        try budget.enter("a", .live, at: 0)
        try budget.take(6_000_000, of: "a", .live, at: 0)
        let wait = refusal { () throws(IngestBudget.Refusal) in try budget.enter("a", .live, at: 0) }
        #expect(wait == .init(limit: .gatewayRate, lane: .live, retryAfter: IngestBudget.maximumWait))
        #expect(refusal { () throws(IngestBudget.Refusal) in try budget.enter("b", .live, at: 0) } == nil)
        #expect(
            refusal { () throws(IngestBudget.Refusal) in try budget.enter("a", .live, at: 99_999 * Self.second) }?.limit
                == .gatewayRate)
        #expect(
            refusal { () throws(IngestBudget.Refusal) in try budget.enter("a", .live, at: 100_001 * Self.second) }
                == nil)
    }

    @Test func gatewaysThatAreKeptAreBounded() throws {
        var budget = budget(gateways: 16) { live, _ in live.batches = 100 }
        try budget.enter("busy", .live, at: 0)
        try budget.take(60, of: "busy", .live, at: 0)
        for index in 0..<1_000 {
            let now = Int64(index + 1) * Self.second
            try budget.enter("g\(index)", .live, at: now)
            budget.leave("g\(index)", .live)
            #expect(budget.keptGateways <= 16)
        }
        // What has a batch in work is kept, with what it has used.
        budget.leave("busy", .live)
        #expect(budget.batches(.live) == 0)
    }

    /// Whatever comes in whatever order: no more than a second's worth, the rate, and one batch that may leave a debt.
    @Test func overAnyTimeNoMoreThanTheRatePasses() throws {
        var generator = SystemRandomNumberGenerator()
        var budget = budget()
        var (passed, now) = (0, Int64(0))
        for _ in 0..<20_000 {
            now += Int64.random(in: 0...20_000, using: &generator)
            let name = "g\(Int.random(in: 0..<5, using: &generator))"
            let count = Int.random(in: 1...40, using: &generator)
            if refusal({ () throws(IngestBudget.Refusal) in try budget.take(count, of: name, .live, at: now) }) == nil {
                passed += count
            }
        }
        let bound = 100.0 + 100.0 * Double(now) / 1e6
        #expect(Double(passed) <= bound + 40)
        #expect(Double(passed) > bound * 0.5, "and it is not starved")
    }
}

/// The same over HTTPS.
@Suite struct IngestLimitTests {
    private func withIngest(
        _ log: any EventLog = ScriptedLog(), _ change: (inout IngestConfiguration) -> Void,
        _ body: (TestIngest) async throws -> Void
    ) async throws {
        let ingest = try await TestIngest(pki: try TestPKI.shared.get(), log: log, change)
        do { try await body(ingest) } catch {
            try await ingest.shutdown()
            throw error
        }
        try await ingest.shutdown()
    }

    @Test func aGatewaysRateIsItsOwn() async throws {
        try await withIngest {
            $0.gatewayMessagesPerSecond = 10
        } _: { ingest in
            let batch = sampleBatch(messages: 40)
            #expect(try await post(ingest, batch: batch.encoded()).status == 200, "a larger one than a second's")
            let busy = try await post(ingest, batch: batch.encoded())
            let wait = busy.retryAfter.flatMap { Int($0) } ?? 0
            #expect(busy.status == 429 && 2...4 ~= wait && busy.body.contains("of this gateway"), "\(busy)")
            let other = sampleBatch(gateway: "plant-8", messages: 10)
            #expect(try await post(ingest, as: TestPKI.other, batch: other.encoded()).status == 200)
            let text = ingest.metrics.text()
            #expect(text.contains(#"sluice_ingest_limited_total{lane="live",limit="gateway_rate"} 1"#))
            #expect(text.contains(#"sluice_request_duration_seconds_count{outcome="good",service="ingest"} 2"#))
            #expect(text.contains(#"sluice_request_duration_seconds_count{outcome="limited",service="ingest"} 1"#))
        }
    }

    @Test func allGatewaysShareOneRateAndBacklogHasItsOwn() async throws {
        try await withIngest {
            $0.messagesPerSecond = 10
            $0.backlogMessagesPerSecond = 1_000
        } _: { ingest in
            #expect(try await post(ingest, batch: sampleBatch(messages: 40).encoded()).status == 200)
            let other = sampleBatch(gateway: "plant-8", messages: 10)
            let busy = try await post(ingest, as: TestPKI.other, batch: other.encoded())
            #expect(busy.status == 429 && busy.body.contains("batches bring more"), "\(busy)")
            var backlog = sampleBatch(gateway: "plant-8", messages: 500)
            backlog.lane = .backlog
            let body = backlog.encoded()
            let reply = try await post(
                ingest, as: TestPKI.other, body: compressed(body),
                headers: [
                    ("Content-Encoding", "zstd"), ("Sluice-Digest", digest(of: body)),
                    (SyncProtocol.laneHeader, SyncProtocol.backlogLane),
                ])
            #expect(reply.status == 200, "\(reply)")
        }
    }

    @Test func aBusyLogIs429AndTheCloudsOwnFault() async throws {
        try await withIngest(ScriptedLog(.busy("its queue is full"))) { _ in
        } _: { ingest in
            let reply = try await post(ingest, batch: sampleBatch().encoded())
            #expect(reply.status == 429 && reply.retryAfter == "2" && reply.body.contains("its queue is full"))
            let text = ingest.metrics.text()
            #expect(text.contains(#"sluice_ingest_limited_total{lane="live",limit="log_busy"} 1"#))
            #expect(text.contains(#"sluice_request_duration_seconds_count{outcome="failed",service="ingest"} 1"#))
        }
    }

    @Test func devicesThatSendTooMuchAreNamedOnce() async throws {
        try await withIngest {
            $0.expectedDeviceMessagesPerSecond = 1
        } _: { ingest in
            for minute in Int64(0)..<6 {
                var batch = sampleBatch(messages: 400)
                batch.frames[0].clock.monotonicTime = minute * 60_000_000
                let reply = try await post(ingest, batch: batch.encoded())
                #expect(reply.status == 200)
            }
            #expect(ingest.metrics.text().contains("sluice_ingest_devices_unusual_rate 2"))
        }
    }

    @Test func theCertificatesDaysAreShown() async throws {
        try await withIngest { _ in
        } _: { ingest in
            let line = ingest.metrics.text().split(separator: "\n")
                .first { $0.hasPrefix("sluice_certificate_expiry_days{") }
            #expect(line.flatMap { Double($0.split(separator: " ")[1]) }.map { $0 > 1 } == true, "\(line ?? "none")")
        }
    }
}
