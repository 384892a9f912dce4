import Foundation
import Glibc
import Logging
import NIOCore
import Operations
import ServiceLifecycle
import Synchronization
import Testing

@Suite struct HealthTests {
    @Test func readyNeedsTheCriticalChecksAlone() async {
        let health = HealthRegistry(cacheLife: .zero)
        health.check("buffer") { .good }
        health.check("uplink", isCritical: false) { .failed("no network") }
        health.check("disk") { .degraded("90% full") }
        let report = await health.ready()
        #expect(report.isGood)
        #expect(
            report.json() == #"{"status":"good","checks":{"buffer":{"status":"good"},"disk":{"status":"degraded","#
                + #""reason":"90% full"},"uplink":{"status":"failed","reason":"no network"}}}"# + "\n")
        health.check("buffer") { .failed("\"full\"") }
        let failed = await health.ready()
        #expect(!failed.isGood && failed.json().contains(#""reason":"\"full\"""#))
    }

    @Test func aCheckThatHangsFailsInTimeAndRunsOnce() async {
        let health = HealthRegistry(cacheLife: .zero)
        let runs = Mutex(0)
        let stuck = Mutex<CheckedContinuation<Void, Never>?>(nil)
        // A continuation heeds no cancellation.
        health.check("stuck", limit: .milliseconds(20)) {
            runs.withLock { $0 += 1 }
            await withCheckedContinuation { continuation in stuck.withLock { $0 = continuation } }
            return .good
        }
        #expect(await health.ready().states["stuck"] == .failed("no answer within 20 ms"))
        #expect(await health.ready().states["stuck"] == .failed("the check before has not come back yet"))
        #expect(runs.withLock { $0 } == 1)
        var waiting: CheckedContinuation<Void, Never>?
        for _ in 0..<500 where waiting == nil {
            waiting = stuck.withLock { $0 }
            try? await Task.sleep(for: .milliseconds(10))
        }
        waiting?.resume()
        #expect(waiting != nil)
    }

    @Test func aReportIsShared() async {
        let health = HealthRegistry(cacheLife: .seconds(60))
        let runs = Mutex(0)
        health.check("a") {
            runs.withLock { $0 += 1 }
            return .good
        }
        await withTaskGroup(of: Bool.self) { group in
            for _ in 0..<20 { group.addTask { await health.ready().isGood } }
            for await isGood in group { #expect(isGood) }
        }
        #expect(runs.withLock { $0 } == 1)
    }

    @Test func aThreadThatIsStuckIsNotLiveAndAnIdleOneIs() {
        let health = HealthRegistry()
        let busy = Mutex<Int64?>(nil)
        health.watch("writer", limit: .seconds(1)) { busy.withLock { $0 } }
        #expect(health.live().isGood)
        busy.withLock { $0 = 1_000_000 }
        #expect(health.live().isGood)
        busy.withLock { $0 = 1_001_000 }
        #expect(
            health.live().states["writer"] == .failed("no progress for 1001 ms, allowed are 1000 ms"))
        #expect(!health.live().isGood)
        busy.withLock { $0 = nil }
        #expect(health.live().isGood)
    }

    @Test func aHeartbeatThatStopsIsNotLive() async throws {
        let health = HealthRegistry()
        #expect(health.live().isGood)
        let heartbeat = health.heartbeat("writer", limit: .milliseconds(30))
        #expect(health.live().isGood)
        try await Task.sleep(for: .milliseconds(50))
        #expect(!health.live().isGood)
        heartbeat.beat()
        #expect(health.live().isGood)
    }
}

/// A client of bytes, so that nothing mends what is sent. Blocks, hence on a thread of its own.
private func exchange(port: Int, _ request: String, keepOpen: Bool = false) async -> String {
    await withCheckedContinuation { continuation in
        DispatchQueue.global().async { continuation.resume(returning: exchangeBlocking(port: port, request)) }
    }
}

private func exchangeBlocking(port: Int, _ request: String) -> String {
    let descriptor = connectLoopback(port: port)
    defer { close(descriptor) }
    let bytes = Array(request.utf8)
    _ = send(descriptor, bytes, bytes.count, Int32(MSG_NOSIGNAL))
    var answer: [UInt8] = []
    var chunk = [UInt8](repeating: 0, count: 65_536)
    while true {
        let count = recv(descriptor, &chunk, chunk.count, 0)
        guard count > 0 else { break }
        answer.append(contentsOf: chunk[..<count])
    }
    return String(decoding: answer, as: UTF8.self)
}

private func connectLoopback(port: Int) -> Int32 {
    let descriptor = socket(AF_INET, Int32(SOCK_STREAM.rawValue), 0)
    var limit = timeval(tv_sec: 10, tv_usec: 0)
    setsockopt(descriptor, SOL_SOCKET, SO_RCVTIMEO, &limit, socklen_t(MemoryLayout<timeval>.size))
    var address = sockaddr_in()
    address.sin_family = sa_family_t(AF_INET)
    address.sin_port = in_port_t(port).bigEndian
    address.sin_addr.s_addr = inet_addr("127.0.0.1")
    _ = withUnsafePointer(to: &address) { pointer in
        pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) {
            connect(descriptor, $0, socklen_t(MemoryLayout<sockaddr_in>.size))
        }
    }
    return descriptor
}

@Suite struct StatusServerTests {
    /// Other tests keep the machine busy; the limits of time have a test of their own.
    private static var patient: StatusServer.Limits {
        var limits = StatusServer.Limits()
        limits.answerTime = .seconds(8)
        limits.connectionTime = .seconds(9)
        return limits
    }

    /// Runs a server for the length of the body.
    private func withServer(
        health: HealthRegistry = HealthRegistry(), registry: MetricRegistry = MetricRegistry(),
        routes: [String: StatusServer.Route] = [:], limits: StatusServer.Limits = Self.patient,
        _ body: (Int) async throws -> Void
    ) async throws {
        let server = StatusServer(
            endpoint: .init(address: "127.0.0.1", port: 0), health: health, metrics: registry, routes: routes,
            limits: limits, logger: Logger(label: "t") { _ in SwiftLogNoOpLogHandler() })
        let running = Task { try await server.run() }
        var port: Int?
        for _ in 0..<500 where port == nil {
            port = server.port
            try await Task.sleep(for: .milliseconds(10))
        }
        try await body(try #require(port))
        running.cancel()
        try await running.value
    }

    @Test func probesAndMetricsAreServed() async throws {
        let health = HealthRegistry(cacheLife: .zero)
        let registry = MetricRegistry()
        registry.counter(.messagesReceived).add(7)
        health.check("buffer") { .failed("closed") }
        try await withServer(
            health: health, registry: registry, routes: ["/": { StatusResponse(contentType: "text/html", body: "hi") }]
        ) { port in
            let live = await exchange(port: port, "GET /health/live HTTP/1.1\r\nHost: x\r\n\r\n")
            #expect(live.hasPrefix("HTTP/1.1 200 OK\r\n") && live.contains(#"{"status":"good","checks":{}}"#))
            let ready = await exchange(port: port, "GET /health/ready?x=1 HTTP/1.1\r\nHost: x\r\n\r\n")
            #expect(ready.hasPrefix("HTTP/1.1 503 ") && ready.contains(#""reason":"closed""#))
            let metrics = await exchange(port: port, "GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
            #expect(metrics.contains("text/plain; version=0.0.4") && metrics.contains("received_total 7"))
            let page = await exchange(port: port, "GET / HTTP/1.0\r\n\r\n")
            #expect(page.contains("text/html") && page.hasSuffix("hi"))
        }
    }

    @Test func aPortThatIsTakenIsNamed() async throws {
        try await withServer { port in
            let second = StatusServer(
                endpoint: .init(address: "127.0.0.1", port: port), health: HealthRegistry(), metrics: MetricRegistry(),
                logger: Logger(label: "t") { _ in SwiftLogNoOpLogHandler() })
            let error = await #expect(throws: BindError.self) { try await second.run() }
            #expect(
                "\(error.map { "\($0)" } ?? "")".hasPrefix(
                    "The status port 127.0.0.1:\(port) (status) cannot be bound: Address already in use. Is"))
        }
    }

    @Test func otherMethodsAndPathsAreRefused() async throws {
        try await withServer { port in
            #expect(await exchange(port: port, "GET /x HTTP/1.1\r\nHost: x\r\n\r\n").hasPrefix("HTTP/1.1 404 "))
            let post = await exchange(port: port, "POST /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n")
            #expect(post.hasPrefix("HTTP/1.1 405 ") && post.contains("Allow: GET, HEAD"))
            let head = await exchange(port: port, "HEAD /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
            #expect(head.hasPrefix("HTTP/1.1 200 ") && head.hasSuffix("\r\n\r\n"))
        }
    }

    @Test func garbageAndLongHeadsEndTheConnection() async throws {
        try await withServer { port in
            #expect(!(await exchange(port: port, "\u{16}\u{3}\u{1}garbage\r\n\r\n")).contains("200 OK"))
            let long = "GET /metrics HTTP/1.1\r\nX: \(String(repeating: "a", count: 9_000))\r\n\r\n"
            #expect(!(await exchange(port: port, long)).contains("200 OK"))
            #expect(await exchange(port: port, "GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n").contains("200 OK"))
        }
    }

    @Test func aSlowRouteAndASlowClientAreBounded() async throws {
        var limits = StatusServer.Limits()
        limits.answerTime = .milliseconds(50)
        limits.connectionTime = .milliseconds(300)
        let (gate, release) = AsyncStream<Void>.makeStream()
        try await withServer(
            routes: [
                "/slow": {
                    for await _ in gate { break }
                    return StatusResponse(body: "late")
                }
            ], limits: limits
        ) { port in
            let start = SystemClock.monotonicMicroseconds()
            let slow = await exchange(port: port, "GET /slow HTTP/1.1\r\nHost: x\r\n\r\n")
            #expect(slow.hasPrefix("HTTP/1.1 503 "))
            #expect(await exchange(port: port, "GET /met") == "")
            #expect(SystemClock.monotonicMicroseconds() - start < 30_000_000)
            release.finish()
        }
    }

    @Test func connectionsAreBounded() async throws {
        var limits = Self.patient
        limits.connections = 2
        try await withServer(limits: limits) { port in
            let held = [connectLoopback(port: port), connectLoopback(port: port)]
            var refused = ""
            for _ in 0..<100 {
                refused = await exchange(port: port, "GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
                if refused.isEmpty { break }
            }
            #expect(refused.isEmpty)
            for descriptor in held { close(descriptor) }
            var answered = ""
            for _ in 0..<200 where answered.isEmpty {
                answered = await exchange(port: port, "GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
                try await Task.sleep(for: .milliseconds(5))
            }
            #expect(answered.contains("200 OK"))
        }
    }
}
