import Buffer
import Flow
import NIOPosix
import Operations
import SyncModel
import Testing

@testable import Uplink

@Suite struct UplinkStatusTests {
    private func reason(_ state: HealthState) -> String {
        if case .degraded(let reason) = state { reason } else { "" }
    }

    @Test func aCloudThatIsAwayForMinutesIsAnAlarm() {
        let start = ContinuousClock.now
        var status = UplinkStatus()
        #expect(status.health() == .good)
        (status.failures, status.failingSince) = (2, start)
        #expect(status.health(at: start + .seconds(179)) == .good)
        #expect(reason(status.health(at: start + .seconds(180))).contains("nothing for 3 min, in 2 attempts; the log"))
        status.breaker = .open
        #expect(reason(status.health(at: start + .seconds(5))).contains("the circuit breaker is open"))
        (status.failures, status.failingSince) = (0, nil)
        #expect(status.health(at: start + .seconds(500)) == .good, "its probes are answered")
        status.isRefused = true
        #expect(reason(status.health()).contains("refuses a batch"))
    }

    /// Of a driver that has sent and been answered; the clock hardly moves.
    private func driver(bytesPerHour: Int?) throws -> UplinkDriver {
        var settings = UplinkState.Settings()
        settings.bytesPerHour = bytesPerHour
        let (_, source) = AsyncStream.makeStream(of: UplinkEvent.self)
        let authority = try TestAuthority()
        let tls = authority.client(try authority.issue(uri: "sluice:gateway/plant-7"))
        let client = SyncClient(
            try .init(
                url: "https://127.0.0.1:1", tls: tls, group: MultiThreadedEventLoopGroup.singleton,
                judge: ServerJudge(mayLibraryVerify: { true }) { _, _ in nil }))
        var driver = UplinkDriver(state: UplinkState(settings: settings), source: source, client: client)
        driver.status.bytesPerHour = bytesPerHour
        return driver
    }

    @Test func theForecastPromisesNoMoreThanTheHourAllows() async throws {
        var driver = try driver(bytesPerHour: 1_000_000)
        driver.observe(WaitingData(live: LaneFill(messages: 10, bytes: 10_000)))
        driver.refreshStatus()
        #expect(driver.status.drainSeconds == 0, "the next batch takes it")
        driver.observe(WaitingData(live: LaneFill(messages: 10_000, bytes: 3_000_000)))
        driver.refreshStatus()
        #expect(driver.status.drainSeconds == nil, "more than an hour's bytes")
        driver.observe(WaitingData())
        driver.refreshStatus()
        #expect(driver.status.drainSeconds == 0 && !driver.status.isHeldBack)
        await driver.client.shutdown()
    }

    @Test func liveDataBeyondABatchIsForetoldAsWell() async throws {
        var driver = try driver(bytesPerHour: nil)
        driver.observe(WaitingData(live: LaneFill(messages: 10_000, bytes: 50_000_000)))
        driver.refreshStatus()
        #expect(driver.status.drainSeconds == nil, "how fast it goes is not known yet")
        await driver.client.shutdown()
    }
}
