import Flow
import Foundation
import GatewaySupport
import MQTTSession
import MQTTWire
import NIOCore
import NIOSSL
import Operations
import PKI
import Testing

@testable import Gateway

/// Who gets in, how fast, and how long may it take?
@Suite(.serialized) struct AdmissionTests {
    enum Stall: String, CaseIterable {
        case silent, insideTheHandshake, afterTheHandshake, drippingConnect, drippingConnectWithoutTLS

        var hasTLS: Bool { self != .drippingConnectWithoutTLS }
        var finishesHandshake: Bool { self == .afterTheHandshake || self == .drippingConnect }
        var reason: CloseReason { hasTLS && !finishesHandshake ? .handshakeTimeout : .connectTimeout }
    }

    /// Certificates for a listener, the device `d1` and a client of it.
    struct Certificates: Sendable {
        let folder: String
        let listener: EdgeConfiguration.Listener
        let client: NIOSSLContext

        init() throws {
            folder = NSTemporaryDirectory() + "sluice-admission-" + UUID().uuidString
            let pki = PKIDirectory(folder)
            let now = Int64(Date().timeIntervalSince1970)
            try pki.create(now: now)
            let server = try PeerRole(.server, id: "edge")
            let device = try PeerRole(.device, id: "d1")
            try pki.issue([.init(role: server, names: [.dns("localhost")]), .init(role: device)], now: now)
            listener = .init(
                endpoint: .init(address: "127.0.0.1", port: 0),
                tls: .init(
                    certificate: pki.certificate(server), key: pki.key(server), clientCA: pki.authorityCertificate))
            var tls = try TLSProfile.client(
                certificate: pki.certificate(device), key: pki.key(device), ca: pki.authorityCertificate)
            tls.certificateVerification = .noHostnameVerification
            client = try NIOSSLContext(configuration: tls)
        }

        func remove() { try? FileManager.default.removeItem(atPath: folder) }
    }

    @Test(arguments: Stall.allCases)
    func whoStallsBeforeItsSessionIsEndedInTime(stall: Stall) async throws {
        let certificates = try Certificates()
        defer { certificates.remove() }
        let configuration = openConfiguration {
            $0.mqtt.connectTimeout = 1
            if stall.hasTLS { $0.listeners = [certificates.listener] }
        }
        try await withRunningGateway(configuration) { gateway in
            let started = ContinuousClock.now
            let client = try await TestClient.connect(
                port: gateway.port, tls: stall.finishesHandshake ? certificates.client : nil)
            switch stall {
            case .silent: break
            // The beginning of a ClientHello's record.
            case .insideTheHandshake: client.post(ByteBuffer(bytes: [0x16, 0x03, 0x01, 0x02, 0x00, 0x01, 0x00]))
            // An empty write, for which the handshake is completed.
            case .afterTheHandshake: client.post(ByteBuffer())
            case .drippingConnect, .drippingConnectWithoutTLS:
                var bytes = ByteBuffer()
                bytes.write(.connect(Connect(version: .v5, clientID: "drip")), version: .v5)
                let connect = bytes
                Task {
                    var bytes = connect
                    while let byte = bytes.readSlice(length: 1) {
                        client.post(byte)
                        try await Task.sleep(for: .milliseconds(150))
                    }
                }
            }
            #expect(await client.isEnded(within: .seconds(5)))
            let took = ContinuousClock.now - started
            #expect(took > .milliseconds(900) && took < .milliseconds(2_500), "\(took)")
            try await eventually("it is counted") { gateway.closed(stall.reason) == 1 }
            #expect(try await gateway.look { $0.connectionCount } == 0)
            await client.close()
        }
    }

    @Test func whoIsInTimeStaysBeyondTheLimit() async throws {
        let certificates = try Certificates()
        defer { certificates.remove() }
        let configuration = openConfiguration {
            $0.mqtt.connectTimeout = 1
            $0.listeners = [certificates.listener]
        }
        try await withRunningGateway(configuration) { gateway in
            let client = try await TestClient.connect(port: gateway.port, tls: certificates.client)
            #expect(try await client.open(Connect(version: .v5, clientID: "c"))?.reason == .success)
            try await Task.sleep(for: .milliseconds(1_500))
            try await client.send(.pingreq)
            #expect(try await client.next() == .pingresp)
            await client.close()
        }
    }

    @Test func theCapOnConnectionsHoldsAndAPlaceIsFreeAgain() async throws {
        try await withRunningGateway(openConfiguration { $0.global.connections = 2 }) { gateway in
            let first = try await TestClient.connect(port: gateway.port)
            #expect(try await first.open(Connect(version: .v5, clientID: "1"))?.reason == .success)
            let second = try await TestClient.connect(port: gateway.port)
            #expect(try await second.open(Connect(version: .v5, clientID: "2"))?.reason == .success)
            let third = try await TestClient.connect(port: gateway.port)
            #expect(try await third.next() == nil)
            #expect(gateway.closed(.tooManyConnections) == 1)
            try await second.send(.pingreq)
            #expect(try await second.next() == .pingresp)
            await first.close()
            try await eventually("the place is free") { try await gateway.look { $0.connectionCount } == 1 }
            let fourth = try await TestClient.connect(port: gateway.port)
            #expect(try await fourth.open(Connect(version: .v5, clientID: "4"))?.reason == .success)
            for client in [second, third, fourth] { await client.close() }
        }
    }

    /// At two a second, those who gave up would stand before the others for 15 s.
    @Test func whoGaveUpWaitingCostsNobodyATurn() async throws {
        try await withRunningGateway(openConfiguration { $0.global.connectionsPerSecond = 2 }) { gateway in
            for _ in 0..<34 {
                let client = try await TestClient.connect(port: gateway.port)
                client.post(ByteBuffer(bytes: [0x16, 0x03]))
                await client.close()
            }
            let started = ContinuousClock.now
            let client = try await TestClient.connect(port: gateway.port)
            #expect(try await client.open(Connect(version: .v5, clientID: "patient"))?.reason == .success)
            #expect(ContinuousClock.now - started < .seconds(4))
            #expect(gateway.closed(.networkClosed) >= 30)
            await client.close()
        }
    }

    /// Two listeners share the budget: 5 at once, then 10 a second.
    @Test func connectionsAreAcceptedAtTheirRateAndNoneIsLost() async throws {
        let configuration = openConfiguration {
            $0.global.connectionsPerSecond = 10
            $0.listeners.append($0.listeners[0])
        }
        try await withRunningGateway(configuration) { gateway in
            let ports = gateway.service.addresses.compactMap(\.port)
            let started = ContinuousClock.now
            try await withThrowingTaskGroup(of: TestClient.self) { group in
                for index in 0..<24 {
                    group.addTask {
                        let client = try await TestClient.connect(port: ports[index % 2])
                        try await client.send(.connect(Connect(version: .v5, clientID: "c\(index)")))
                        guard case .connack(let answer)? = try await client.next(timeout: .seconds(20)) else {
                            Issue.record("client \(index) was not answered")
                            return client
                        }
                        #expect(answer.reason == .success)
                        return client
                    }
                }
                var clients: [TestClient] = []
                for try await client in group { clients.append(client) }
                // 10 are the burst, and two are taken when the listeners begin to wait for the first.
                #expect(ContinuousClock.now - started > .milliseconds(1_100))
                for client in clients { await client.close() }
            }
        }
    }

    /// MQTT-3.14.4-3, MQTT-3.1.2-10: the client's rate holds its messages, its socket is not read, and it has said goodbye.
    @Test(arguments: [ProtocolVersion.v311, .v5])
    func aDisconnectIsReadThoughReadingIsWithheld(version: ProtocolVersion) async throws {
        let configuration = openConfiguration {
            $0.deviceLimits.messagesPerSecond = 1
            $0.deviceLimits.burst = 5
            $0.deviceLimits.overLimit = .slow
        }
        try await withRunningGateway(configuration) { gateway in
            let client = try await TestClient.connect(port: gateway.port, version: version)
            let will = Will(topic: "devices/c/will", payload: ByteBuffer(string: "lost"))
            _ = try await client.open(Connect(version: version, clientID: "c", will: will))
            var bytes = ByteBuffer()
            for _ in 0..<200 {
                bytes.write(message("devices/c/t", ByteBuffer(string: "x"), qos: .atMostOnce), version: version)
            }
            client.post(bytes)
            try await eventually("the socket is not read any more") {
                try await gateway.look { $0.broker.connections.contains { $0.isPaused } }
            }
            bytes.clear()
            bytes.write(.disconnect(Disconnect()), version: version)
            client.post(bytes)
            await client.close()
            try await eventually("the connection is gone") { try await gateway.look { $0.connectionCount == 0 } }
            let counters = try await gateway.look { $0.broker.counters }
            #expect(counters.willsPublished == 0)
            // Five at once, five in debt; the rest is counted.
            #expect(counters.synced == 10 && counters.refusedSilently == 190)
        }
    }

    /// Does the kernel find out that a client without a keep-alive is gone?
    @Test func theKernelProbesIdleConnections() async throws {
        try await withRunningGateway(openConfiguration()) { gateway in
            let client = try await TestClient.connect(port: gateway.port, version: .v311)
            _ = try await client.open(Connect(version: .v311, clientID: "c", keepAlive: 0))
            let options = try await gateway.look { driver -> EventLoopFuture<[Int]> in
                var channel: (any Channel)?
                driver.forEachConnection { channel = $0.context?.channel }
                let names: [ChannelOptions.Types.SocketOption] = [
                    .init(level: .socket, name: .so_keepalive),
                    .init(level: .tcp, name: .init(rawValue: TCP_KEEPIDLE)),
                    .init(level: .tcp, name: .init(rawValue: TCP_KEEPINTVL)),
                    .init(level: .tcp, name: .init(rawValue: TCP_KEEPCNT)),
                ]
                guard let channel else { return driver.eventLoop.makeFailedFuture(ChannelError.ioOnClosedChannel) }
                return EventLoopFuture<Int>.whenAllSucceed(names.map { channel.getOption($0) }, on: driver.eventLoop)
            }.get()
            #expect(options == [1, 120, 30, 4])
            await client.close()
        }
    }
}

/// What may the listeners accept, by the clock?
@Suite struct AcceptBudgetTests {
    /// How many are accepted within a second, asking again when it is told to.
    private func accepted(_ budget: AcceptBudget, from start: Int64) -> Int {
        var now = start
        var count = 0
        while now < start + 1_000_000 {
            switch budget.take(at: now) {
            case .admitted: count += 1
            case .wait(let wait): now += wait
            }
            if count > 10_000 { return count }
        }
        return count
    }

    @Test func theRateAndItsBurst() {
        let budget = AcceptBudget(rate: 50, at: 0)
        #expect((99...100).contains(accepted(budget, from: 0)))
        #expect((49...50).contains(accepted(budget, from: 1_000_000)))
    }

    @Test func withoutARateThereIsNoLimit() {
        #expect(accepted(AcceptBudget(rate: nil, at: 0), from: 0) > 10_000)
    }

    @Test(arguments: [50.0, nil])
    func aTrickleWhileOverloaded(rate: Double?) {
        let budget = AcceptBudget(rate: rate, at: 0)
        budget.isOverloaded = true
        #expect((5...6).contains(accepted(budget, from: 0)))
        budget.isOverloaded = false
        #expect(accepted(budget, from: 1_000_000) >= 49)
    }
}

/// The loop is late: are new clients told, and do the others live on?
@Suite(.serialized) struct LateLoopTests {
    @Test(arguments: [ProtocolVersion.v311, .v5])
    func newClientsAreToldThatTheServerIsBusy(version: ProtocolVersion) async throws {
        try await withRunningGateway(openConfiguration { $0.global.eventLoopLag = 100 }) { gateway in
            let here = try await TestClient.connect(port: gateway.port, version: version)
            _ = try await here.open(Connect(version: version, clientID: "here"))
            #expect(gateway.metric("sluice_overloaded") == 0)
            let loop = gateway.service.driver.eventLoop
            // Late again and again, with a little time for everything else between.
            let blocking = loop.scheduleRepeatedTask(initialDelay: .zero, delay: .milliseconds(20)) { _ in
                usleep(250_000)
            }
            try await eventually("the overload is noticed") { gateway.metric("sluice_overloaded") == 1 }
            let late = try await TestClient.connect(port: gateway.port, version: version)
            let answer = try await late.open(Connect(version: version, clientID: "late"))
            // 3.1.1 has one code for both, 3.
            #expect(answer?.reason == (version == .v5 ? .serverBusy : .serverUnavailable))
            #expect(try await late.next() == nil)
            try await eventually("it is counted") { gateway.closed(.serverBusy) == 1 }
            try await here.send(message("devices/here/t", ByteBuffer(string: "1"), id: 1), version: version)
            #expect(try await here.next() == .puback(Acknowledgement(packetID: 1)))
            blocking.cancel()

            try await eventually("the overload is over") { gateway.metric("sluice_overloaded") == 0 }
            let again = try await TestClient.connect(port: gateway.port, version: version)
            #expect(try await again.open(Connect(version: version, clientID: "late"))?.reason == .success)
            let lag = gateway.metric("sluice_event_loop_lag_seconds_sum") ?? 0
            #expect(lag > 0.1)
            for client in [here, late, again] { await client.close() }
        }
    }

    @Test func aLoopWithoutALimitRefusesNobody() async throws {
        try await withRunningGateway(openConfiguration { $0.global.eventLoopLag = nil }) { gateway in
            let loop = gateway.service.driver.eventLoop
            try await eventually("it ticks") { (gateway.metric("sluice_event_loop_lag_seconds_count") ?? 0) > 0 }
            _ = try await loop.submit { usleep(1_500_000) }.get()
            try await eventually("the lag is seen") { (gateway.metric("sluice_event_loop_lag_seconds_sum") ?? 0) > 1 }
            let client = try await TestClient.connect(port: gateway.port)
            #expect(try await client.open(Connect(version: .v5, clientID: "c"))?.reason == .success)
            await client.close()
        }
    }
}
