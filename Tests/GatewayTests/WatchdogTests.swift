import Foundation
import GatewaySupport
import Operations
import Testing

@testable import Buffer

/// What the watchdog is fed by.
@Suite struct WatchdogTests {
    @Test func aStalledDiskStopsTheFeedingAndAnIdleWriterDoesNot() async throws {
        try await withRunningGateway(openConfiguration()) { gateway in
            let buffer = gateway.buffer
            let health = HealthRegistry()
            health.watch("buffer writer", limit: .milliseconds(100)) { buffer.writerBusyTime() }
            try await Task.sleep(for: .milliseconds(300))
            #expect(health.live().isGood, "idle for longer than the limit")

            let goesOn = DispatchSemaphore(value: 0)
            let job = Task { try await buffer.perform { _ in goesOn.wait() } }
            try await eventually("the writer is stuck") { !health.live().isGood }
            // The gateway's own limit is far away.
            #expect(gateway.health.live().states["buffer writer"] == .good)
            goesOn.signal()
            try await job.value
            try await eventually("the writer goes on") { health.live().isGood && buffer.writerBusyTime() == nil }
        }
    }
}
