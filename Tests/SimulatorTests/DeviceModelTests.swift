import Testing

@testable import Simulator

@Suite struct DeviceModelTests {
    private func model(qos: UInt8 = 1, inFlight: Int = 2, start: Int64 = 0) -> DeviceModel {
        DeviceModel(id: "sim-0001", qos: qos, firstNumber: 1000, interval: 100, inFlightLimit: inFlight, start: start)
    }

    private func connectedModel(qos: UInt8 = 1, inFlight: Int = 2) -> DeviceModel {
        var model = model(qos: qos, inFlight: inFlight)
        model.connecting(now: 0)
        model.connected()
        return model
    }

    @Test func connectsAtItsStart() {
        let model = model(start: 50)
        #expect(!model.shouldConnect(now: 49))
        #expect(model.shouldConnect(now: 50))
    }

    @Test func numbersAscendWithEachPublish() {
        var model = connectedModel(inFlight: 10)
        #expect(model.takePublish(now: 0) == 1000)
        #expect(model.takePublish(now: 50) == nil)
        #expect(model.takePublish(now: 100) == 1001)
        #expect(model.takePublish(now: 200) == 1002)
        #expect(model.counts.published == 3)
    }

    @Test func aStallIsNotCaughtUp() {
        var model = connectedModel(inFlight: 10)
        #expect(model.takePublish(now: 0) == 1000)
        #expect(model.takePublish(now: 1050) == 1001)
        #expect(model.takePublish(now: 1051) == nil)
        #expect(model.takePublish(now: 1100) == 1002)
        #expect(model.counts.heldBack == 9)
    }

    @Test func holdsBackAtTheInFlightLimit() {
        var model = connectedModel(inFlight: 1)
        let first = model.takePublish(now: 0)
        #expect(first == 1000)
        model.sent(n: 1000, packetID: 1)
        #expect(model.takePublish(now: 100) == nil)
        #expect(model.counts.heldBack == 1)
        #expect(model.answered(packetID: 1, reason: 0) == .acknowledged(n: 1000))
        #expect(model.takePublish(now: 200) == 1001)
    }

    @Test func aBrokenConnectionResendsWhatIsUnanswered() {
        var model = connectedModel()
        model.sent(n: 1001, packetID: 8)
        model.sent(n: 1000, packetID: 7)
        #expect(model.broke(now: 500, jitter: 0, reason: "reset") == [1000, 1001])
        #expect(model.counts.resent == 2)
        #expect(model.counts.connected == 0)
        #expect(model.counts.lastFailure == "reset")
        #expect(model.hasOutstanding)
    }

    @Test func aConnectionThatWasNeverAcceptedResendsNothing() {
        var model = connectedModel()
        model.sent(n: 1000, packetID: 7)
        _ = model.broke(now: 500, jitter: 0, reason: "reset")
        model.connecting(now: 600)
        #expect(model.broke(now: 601, jitter: 0, reason: "refused") == [])
        #expect(model.counts.resent == 1)
        model.connecting(now: 900)
        model.connected()
        #expect(model.counts.reconnects == 1)
        #expect(model.broke(now: 950, jitter: 0, reason: "reset") == [1000])
    }

    @Test func breakingTwiceIsOnce() {
        var model = connectedModel()
        model.sent(n: 1000, packetID: 7)
        _ = model.broke(now: 500, jitter: 0, reason: "reset")
        #expect(model.broke(now: 501, jitter: 0, reason: "again") == [])
        #expect(model.counts.lastFailure == "reset")
    }

    @Test func backoffDoublesUpToItsCeilingAndStartsAnew() {
        var model = connectedModel()
        var waits: [Int64] = []
        for _ in 0..<8 {
            _ = model.broke(now: 0, jitter: 0, reason: "refused")
            if case .down(let retryAt) = model.link { waits.append(retryAt) }
            model.connecting(now: 0)
        }
        #expect(waits == [50, 100, 200, 400, 800, 1000, 1000, 1000])
        model.connected()
        _ = model.broke(now: 0, jitter: 0.5, reason: "reset")
        #expect(model.link == .down(retryAt: 75))
    }

    @Test func aSilentServerTimesOut() {
        var model = model()
        model.connecting(now: 5)
        #expect(!model.connectTimedOut(now: 10_004))
        #expect(model.connectTimedOut(now: 10_005))
    }

    @Test func answersBecomeOutcomes() {
        var model = connectedModel(qos: 2, inFlight: 5)
        model.sent(n: 1, packetID: 1)
        model.sent(n: 2, packetID: 2)
        model.sent(n: 3, packetID: 3)
        #expect(model.answered(packetID: 1, reason: 0x97) == .refused(n: 1, reason: 0x97))
        #expect(model.answered(packetID: 2, reason: 0x10) == .acknowledged(n: 2))
        #expect(model.answered(packetID: 3, reason: 0x92) == .acknowledged(n: 3))
        #expect(model.answered(packetID: 3, reason: 0) == nil)
        #expect(model.counts.refused == 1 && model.counts.acknowledged == 2 && model.counts.outstanding == 0)
    }

    @Test func qualityZeroWaitsForNothing() {
        var model = connectedModel(qos: 0)
        model.sent(n: 1, packetID: 1)
        #expect(!model.hasOutstanding)
    }

    @Test func mixedQualityTakesTurns() {
        #expect((1...4).map { SimulationPlan.Quality.mixed.level(ofDevice: $0) } == [1, 2, 1, 2])
        #expect(SimulationPlan.deviceIDs(prefix: "sim", count: 2) == ["sim-0001", "sim-0002"])
        #expect(SimulationPlan.deviceIDs(prefix: "x", count: 12_345).last == "x-12345")
    }
}
