import Buffer
import Flow
import Foundation
import Logging
import NIOConcurrencyHelpers
import NIOCore
import NIOHTTP1
import NIOPosix
import NIOSSL
import ServiceLifecycle
import SyncModel
import TestSupport
import Testing

@testable import Uplink

/// A store, a server that does as the script says, and the uplink between them, run until `body` ends.
private struct Rig {
    let authority: TestAuthority
    let store = MemoryStore()
    let lines = LogLines()
    var serverURI = "sluice:server/cloud"
    var serverName = "localhost"
    var trusted: TestAuthority?
    /// Of the gateways' certificates; the cloud has the right time.
    private let gateways: TestAuthority
    var judge = roleJudge
    var requestTimeout: Int64 = 60_000_000

    init(validFrom start: TimeInterval = -3_600) throws {
        authority = try TestAuthority(validFrom: start)
        gateways = try TestAuthority("gateways")
    }

    func run(
        _ answers: [TestServer.Answer], shutdown: Bool = true,
        _ body: (TestServer, ServiceGroup) async throws -> Void
    ) async throws {
        var serving = authority.server(try authority.issue(uri: serverURI, dns: serverName))
        serving.trustRoots = .certificates([gateways.certificate])
        let server = try await TestServer(tls: serving, answers: answers)
        var tls = authority.client(try gateways.issue(uri: "sluice:gateway/plant-7"))
        if let trusted { tls.trustRoots = .certificates([trusted.certificate]) }
        var settings = UplinkService.Settings(gateway: "plant-7", url: server.url, tls: tls)
        settings.state.linger = 5_000
        settings.state.requestTimeout = requestTimeout
        settings.state.refusedDelay = 30_000
        settings.state.shutdownTimeout = 400_000
        settings.backoff = Backoff(base: 2_000, cap: 20_000)
        let service = try UplinkService(
            settings: settings, store: store, logger: lines.logger, judge: judge)
        let group = ServiceGroup(
            configuration: .init(
                services: [.init(service: service, successTerminationBehavior: .gracefullyShutdownGroup)],
                logger: Logger(label: "group")))
        try await withThrowingTaskGroup(of: Void.self) { tasks in
            tasks.addTask { try await group.run() }
            do {
                try await body(server, group)
            } catch {
                Issue.record(error)
            }
            if shutdown { await group.triggerGracefulShutdown() }
            try await tasks.waitForAll()
        }
        try await server.stop()
    }
}

/// Knows the role alone: the rest is the library's.
private let roleJudge = ServerJudge(mayLibraryVerify: { true }) { certificate, _ in serverRole(certificate) }

private struct TookTooLong: Error {}

/// Waits up to 10 s, which is far more than anything here takes.
private func until(_ condition: () -> Bool) async throws {
    for _ in 0..<2_000 {
        if condition() { return }
        try await Task.sleep(for: .milliseconds(5))
    }
    throw TookTooLong()
}

@Suite(.timeLimit(.minutes(1))) struct UplinkServiceTests {
    @Test func whatIsStoredArrivesAndIsDeletedAfterThe200() async throws {
        let rig = try Rig()
        rig.store.commit(3)
        rig.store.commit(2)
        let ledger = LedgerLine(
            epoch: Epoch(high: 1, low: 1), device: "d", sequences: 1...2, numbers: 1...2, reason: .expiredByAge)
        let correction = ClockCorrection(epoch: Epoch(high: 1, low: 1), sequences: 1...2, offset: 7)
        rig.store.state.withLockedValue { ($0.ledger, $0.corrections) = ([ledger], [correction]) }
        try await rig.run([.status(200)]) { server, _ in
            try await until { rig.store.waiting == 0 }
            let request = try #require(server.requests.first)
            #expect(request.head.method == .POST && request.head.uri == "/v1/batches")
            #expect(request.head.headers.first(name: "Content-Encoding") == "zstd")
            #expect(request.head.headers.first(name: "Content-Type") == SyncProtocol.contentType)
            let (batch, digestIsRight) = try request.batch()
            #expect(digestIsRight)
            #expect(batch.gateway == "plant-7" && batch.ledger == [ledger] && batch.corrections == [correction])
            #expect(batch.frames.map(\.firstSequence) == [1, 4] && batch.frames.map(\.records.count) == [3, 2])
            #expect(batch.accounts.map(\.lastSequence) == [5])
            rig.store.commit(1)
            try await until { rig.store.waiting == 0 }
            #expect(server.requests.count == 2)
            #expect(try server.requests[1].batch().batch.frames.map(\.firstSequence) == [6])
        }
        #expect(rig.store.acknowledgedCount == 2)
    }

    @Test func aServerThatIsBusyGetsTheSameBatchAgain() async throws {
        let rig = try Rig()
        rig.store.commit(3)
        try await rig.run([.status(503), .status(429, retryAfter: "1"), .status(500), .status(200)]) { server, _ in
            try await until { server.requests.count >= 2 }
            let start = ContinuousClock.now
            rig.store.commit(1)
            #expect(rig.store.acknowledgedCount == 0 && rig.store.waiting == 2, "nothing is deleted before the 200")
            try await until { server.requests.count >= 3 }
            #expect(ContinuousClock.now - start > .milliseconds(900), "Retry-After")
            try await until { rig.store.waiting == 0 }
            let batches = try server.requests.map { try $0.batch().batch }
            #expect(batches[..<4].allSatisfy { $0.frames == batches[0].frames && $0.frames.count == 1 })
            #expect(batches[4].frames.map(\.firstSequence) == [4])
        }
        #expect(rig.lines.contains(.warning, "the cloud cannot take a batch now"))
        #expect(rig.lines.contains(.notice, "the cloud has the batch"))
    }

    /// Such a connection would count as one in use for ever, and there may be two: the uplink would wait for them until the
    /// daemon is started again.
    @Test func connectionsThatEndWhileTheirServerIsJudgedAreReplaced() async throws {
        var rig = try Rig()
        let drops = NIOLockedValueBox(3)
        let server = NIOLockedValueBox<TestServer?>(nil)
        rig.judge = ServerJudge(mayLibraryVerify: { true }) { certificate, _ in
            if let unlucky = server.withLockedValue({ $0 }), drops.withLockedValue({ $0 }) > 0 {
                drops.withLockedValue { $0 -= 1 }
                await unlucky.drop()
                // The end of the connection has reached the client too.
                try? await Task.sleep(for: .milliseconds(100))
            }
            return serverRole(certificate)
        }
        try await rig.run([.status(200)]) { running, _ in
            server.withLockedValue { $0 = running }
            rig.store.commit(3)
            try await until { rig.store.waiting == 0 }
            #expect(drops.withLockedValue { $0 } == 0)
        }
    }

    /// The whole answer has one time limit, not each of its bytes.
    @Test func anAnswerThatTricklesIsGivenUp() async throws {
        var rig = try Rig()
        rig.requestTimeout = 300_000
        rig.store.commit(3)
        try await rig.run([.trickle(503), .status(200)]) { server, _ in
            try await until { rig.store.waiting == 0 }
            #expect(server.requests.count == 2)
        }
        #expect(rig.lines.contains(.warning, "timeout"))
    }

    @Test func aLostAnswerMeansTheSameCutAgain() async throws {
        let rig = try Rig()
        rig.store.commit(3)
        try await rig.run([.lost, .lost, .status(200)]) { server, _ in
            try await until { rig.store.waiting == 0 }
            #expect(server.requests.count == 3)
            #expect(Set(server.requests.map { $0.head.headers.first(name: SyncProtocol.digestHeader) }).count == 1)
        }
        #expect(rig.store.acknowledgedCount == 1)
        #expect(rig.lines.contains(.warning, "lost"))
    }

    @Test func aRefusedBatchIsKeptAndSomeoneIsTold() async throws {
        let rig = try Rig()
        rig.store.commit(3)
        let reason = "{\"reason\":\"the certificate is for a device\"}"
        try await rig.run([.status(403, body: reason), .status(204), .status(200)]) { server, _ in
            try await until { rig.store.waiting == 0 }
            #expect(server.requests.count == 3)
        }
        #expect(rig.lines.contains(.error, "the certificate is for a device"))
        #expect(rig.lines.contains(.error, "403") && rig.lines.contains(.error, "204"))
    }

    /// The payload "bad" is refused wherever it is.
    private static let judge = TestServer.Answer.judged { request in
        guard let batch = try? request.batch().batch else { return 400 }
        let isBad = batch.frames.contains { $0.records.contains { $0.payload == ByteBuffer(string: "bad") } }
        return isBad ? 422 : 200
    }

    @Test func oneBadMessageIsBuriedAndNeverBlocksTheRest() async throws {
        let rig = try Rig()
        for index in 0..<12 { rig.store.commit(index == 7 ? 1 : 5, payload: index == 7 ? "bad" : "good \(index)") }
        try await rig.run([Self.judge]) { server, service in
            try await until { rig.store.waiting == 0 }
            let buried = rig.store.state.withLockedValue { $0.buried }
            #expect(buried.map(\.piece) == [.init(frame: 8, records: 0..<1)])
            #expect(buried[0].status == 422 && buried[0].reason == "judged")
            var stored = IntervalSet()
            for request in server.requests {
                let batch = try request.batch().batch
                guard !batch.frames.contains(where: { $0.records.contains { $0.payload == ByteBuffer(string: "bad") } })
                else { continue }
                for frame in batch.frames {
                    _ = try stored.insert(frame.firstSequence...(frame.firstSequence + UInt64(frame.records.count) - 1))
                }
            }
            #expect(stored.ranges == [1...35, 37...56])
            rig.store.commit(1)
            try await until { rig.store.waiting == 0 }
        }
        #expect(rig.lines.contains(.error, "a message that the cloud refuses is a dead letter now"))
        #expect(rig.lines.contains(.debug, "the cloud has a part of the batch"))
        #expect(!rig.lines.contains(.notice, "the cloud has the batch"), "a part is not the batch")
    }

    /// A cloud to which no more than seven messages come in time.
    @Test func aBatchThatIsTooLargeForTheLinkArrivesInParts() async throws {
        let rig = try Rig()
        for _ in 0..<12 { rig.store.commit(5, payload: String(repeating: "x", count: 1_000)) }
        let slow = TestServer.Answer.judged { request in
            guard let batch = try? request.batch().batch else { return 400 }
            return batch.frames.reduce(0) { $0 + $1.records.count } > 7 ? 408 : 200
        }
        try await rig.run([slow]) { server, _ in
            try await until { rig.store.waiting == 0 }
            let taken = try server.requests.map { try $0.batch().batch.frames.flatMap(\.records) }.filter {
                $0.count <= 7
            }
            #expect(taken.reduce(0) { $0 + $1.count } == 60)
            #expect(rig.store.state.withLockedValue { $0.buried.isEmpty })
        }
        #expect(rig.store.acknowledgedCount == 1)
    }

    @Test func aCloudThatAnswers400ToAnyBatchBuriesNothing() async throws {
        let rig = try Rig()
        for _ in 0..<5 { rig.store.commit(20) }
        try await rig.run([.status(400, body: "no")]) { server, _ in
            try await until { server.requests.count >= 8 }
            #expect(rig.store.state.withLockedValue { $0.buried.isEmpty } && rig.store.waiting == 5)
        }
        #expect(rig.lines.contains(.error, "someone must look at it"))
    }

    @Test func whatWaitedDuringAnOutageIsBacklogBesideLiveData() async throws {
        let rig = try Rig()
        for _ in 0..<40 { rig.store.commit(1, payload: String(repeating: "x", count: 200_000)) }
        let lanes = NIOLockedValueBox<[Lane]>([])
        let server = TestServer.Answer.judged { [store = rig.store] request in
            guard let batch = try? request.batch().batch else { return 400 }
            lanes.withLockedValue { $0.append(batch.lane) }
            // New data comes while the backlog is sent.
            if batch.lane == .backlog, lanes.withLockedValue({ $0.count < 12 }) { store.commit(1) }
            return 200
        }
        try await rig.run([.lost, server]) { server, _ in
            try await until { rig.store.waiting == 0 }
            let batches = try server.requests.dropFirst().map { try $0.batch().batch }
            #expect(batches.first?.lane == .live && batches.contains { $0.lane == .backlog })
            for lane in [Lane.live, .backlog] {
                let sequences = batches.filter { $0.lane == lane }.flatMap { $0.frames.map(\.firstSequence) }
                #expect(sequences == sequences.sorted(), "in order within a lane")
            }
            #expect(batches.dropFirst().contains { $0.lane == .live })
        }
        #expect(rig.store.state.withLockedValue { $0.liveStarts } == 1)
        #expect(rig.lines.contains(.notice, "is backlog now"))
    }

    @Test func aServerOfAnotherAuthorityGetsNothing() async throws {
        var rig = try Rig()
        rig.trusted = try TestAuthority("another")
        let store = rig.store
        store.commit(3)
        let lines = rig.lines
        try await rig.run([.status(200)]) { server, _ in
            try await until { lines.contains(.warning, "tls") }
            #expect(server.requests.isEmpty && store.waiting == 1)
        }
    }

    @Test func aServerOfAnotherNameGetsNothing() async throws {
        var rig = try Rig()
        rig.serverName = "elsewhere.example"
        let store = rig.store
        store.commit(3)
        let lines = rig.lines
        try await rig.run([.status(200)]) { server, _ in
            try await until { lines.contains(.warning, "tls") }
            #expect(server.requests.isEmpty && store.waiting == 1)
        }
    }

    @Test(arguments: ["sluice:device/pump", "sluice:gateway/plant-9", "https://localhost"])
    func aServerOfAnotherRoleGetsNothing(uri: String) async throws {
        var rig = try Rig()
        rig.serverURI = uri
        let store = rig.store
        store.commit(3)
        let lines = rig.lines
        try await rig.run([.status(200)]) { server, _ in
            try await until { lines.contains(.warning, "wrong_role") }
            try await Task.sleep(for: .milliseconds(50))
            #expect(server.requests.isEmpty && store.waiting == 1)
        }
    }

    /// The clock is a month behind the certificates: for the library they are not valid yet.
    @Test(arguments: [false, true]) func aGatewayWithAClockOf1970ReachesTheCloud(isClockBelieved: Bool) async throws {
        var rig = try Rig(validFrom: 30 * 86_400)
        let asked = NIOLockedValueBox<[String]>([])
        rig.judge = ServerJudge(mayLibraryVerify: { isClockBelieved }) { certificate, host in
            asked.withLockedValue { $0.append(host) }
            return serverRole(certificate)
        }
        let store = rig.store
        store.commit(3)
        let lines = rig.lines
        try await rig.run([.status(200)]) { server, _ in
            try await until { isClockBelieved ? lines.contains(.warning, "tls") : store.waiting == 0 }
            #expect(server.requests.isEmpty == isClockBelieved)
            #expect(asked.withLockedValue { $0 } == (isClockBelieved ? [] : ["localhost"]))
        }
    }

    /// While the library checks nothing, the judge alone keeps a batch from a stranger.
    @Test func aServerThatTheJudgeRefusesGetsNothing() async throws {
        var rig = try Rig()
        rig.judge = ServerJudge(mayLibraryVerify: { false }) { _, _ in "not good for localhost" }
        let store = rig.store
        store.commit(3)
        let lines = rig.lines
        try await rig.run([.status(200)]) { server, _ in
            try await until { lines.contains(.warning, "not good for localhost") }
            try await Task.sleep(for: .milliseconds(50))
            #expect(server.requests.isEmpty && store.waiting == 1)
        }
    }

    @Test(arguments: [
        ("https://cloud", "cloud"), ("https://cloud:8443/", "cloud"), ("https://10.0.0.1:1", "10.0.0.1"),
        ("https://[::1]:8443", "::1"),
    ])
    func theHostIsTakenOutOfTheURL(url: String, host: String) throws {
        #expect(SyncClient.host(ofEndpoint: try SyncClient.endpoint(url)) == host)
    }

    @Test func aDeletionThatFailsSendsTheBatchAgain() async throws {
        let rig = try Rig()
        rig.store.commit(3)
        rig.store.state.withLockedValue {
            $0.acknowledgeErrors = [.io("no")]
            $0.cutErrors = [.full]
        }
        try await rig.run([.status(200)]) { server, _ in
            try await until { rig.store.waiting == 0 }
            #expect(server.requests.count == 2)
        }
        #expect(rig.lines.contains(.error, "the buffer could not delete a batch"))
        #expect(rig.lines.contains(.error, "the buffer could not cut a batch"))
    }

    @Test func aBufferThatIsDamagedEndsTheUplinkWithItsError() async throws {
        let rig = try Rig()
        rig.store.state.withLockedValue { $0.cutErrors = [.corrupt("page 7")] }
        await #expect(throws: BufferError.corrupt("page 7")) {
            try await rig.run([.status(200)], shutdown: false) { _, _ in }
        }
    }

    @Test func aBufferThatIsClosedEndsTheUplinkQuietly() async throws {
        let rig = try Rig()
        rig.store.state.withLockedValue { $0.cutErrors = [.closed] }
        try await rig.run([.status(200)], shutdown: false) { _, _ in }
    }

    @Test func aShutdownSendsWhatWaits() async throws {
        let rig = try Rig()
        rig.store.commit(1)
        try await rig.run([.status(503, retryAfter: "600"), .status(200)]) { server, _ in
            try await until { server.requests.count >= 1 }
            try await Task.sleep(for: .milliseconds(50))
        }
        #expect(rig.store.waiting == 0, "the last attempt does not wait for Retry-After")
    }

    @Test func aShutdownIsBounded() async throws {
        let rig = try Rig()
        rig.store.commit(1)
        var start = ContinuousClock.now
        try await rig.run([.silence]) { server, _ in
            try await until { server.requests.count >= 1 }
            start = .now
        }
        #expect(ContinuousClock.now - start < .seconds(3))
        #expect(rig.store.waiting == 1 && rig.store.acknowledgedCount == 0)
    }

    @Test func aLargeBacklogGoesInSeveralBatches() async throws {
        let rig = try Rig()
        for _ in 0..<30 { rig.store.commit(1, payload: String(repeating: "x", count: 200_000)) }
        try await rig.run([.status(200)]) { server, _ in
            try await until { rig.store.waiting == 0 }
            let batches = try server.requests.map { try $0.batch().batch }
            #expect(batches.count >= 2)
            #expect(batches.allSatisfy { $0.frames.count < 20 })
            #expect(batches.flatMap { $0.frames.map(\.firstSequence) } == Array(1...30))
        }
    }

    @Test(arguments: [
        "http://cloud", "https://", "https://cloud/v1", "https://cloud?x", "cloud:8443", "https://u@cloud", "",
    ])
    func anUnusableURLIsRefused(url: String) throws {
        let authority = try TestAuthority()
        let tls = authority.client(try authority.issue(uri: "sluice:gateway/g"))
        #expect(throws: UplinkConfigurationError.badURL(url)) {
            try UplinkService(
                settings: .init(gateway: "g", url: url, tls: tls), store: MemoryStore(), logger: LogLines().logger,
                judge: roleJudge)
        }
        var unverified = tls
        unverified.certificateVerification = .none
        #expect(throws: UplinkConfigurationError.unverifiedServer) {
            try UplinkService(
                settings: .init(gateway: "g", url: "https://cloud", tls: unverified), store: MemoryStore(),
                logger: LogLines().logger, judge: roleJudge)
        }
    }
}
