import NIOConcurrencyHelpers
import NIOCore
import NIOHTTP1
import NIOPosix
import NIOSSL
import Operations
import TestSupport
import Testing

@testable import ObjectStore

/// Against a real server.
@Suite(.enabled(if: S3Server.shared != nil, "\(S3Server.reason)")) struct S3ServerTests {
    private func refusal(_ change: (inout CloudConfiguration.S3, Folder) throws -> Void) async throws -> String {
        let folder = try Folder()
        let server = try #require(S3Server.shared)
        var s3 = try server.configuration(keys: folder)
        try change(&s3, folder)
        let store = try S3ObjectStore(s3)
        let error = await #expect(throws: ObjectStoreError.self) { _ = try await store.create("k", ByteBuffer()) }
        guard case .refused(let why) = error else { throw StoreUnderTest.Missing() }
        return why
    }

    @Test func refusalsSayWhatToDo() async throws {
        #expect(try await refusal { s3, _ in s3.bucket = "no-such-bucket" }.hasSuffix("does not exist"))
        let server = try #require(S3Server.shared)
        let wrong = try await refusal { _, folder in try server.writeKeys(to: folder.path + "/keys", secret: "hunter2")
        }
        #expect(wrong.contains("the secret of the access key is wrong") && !wrong.contains("hunter2"))
        #expect(
            try await refusal { s3, folder in
                s3.credentialsFile = try folder.write(
                    "aws_access_key_id=AKIANOBODY\naws_secret_access_key=x", to: "other")
            }.contains("does not know the access key"))
        #expect(
            try await refusal { s3, folder in s3.credentialsFile = try folder.write("[other]\n", to: "none") }
                .contains("no lines aws_access_key_id"))
    }

    @Test(.enabled(if: S3Server.shared?.bucket == "sluice-test", "needs moto's users"))
    func aMissingRightIsNamed() async throws {
        #expect(try await refusal { s3, _ in s3.bucket = "sluice-forbidden" }.contains("no permission to put"))
    }

    @Test func bucketsInHostNames() async throws {
        let server = try #require(S3Server.shared)
        let folder = try Folder()
        var s3 = try server.configuration(keys: folder)
        s3.addressing = .host
        // Names under localhost are this machine (RFC 6761), where the resolver knows it.
        s3.endpoint = server.endpoint.replacing("127.0.0.1", with: "localhost")
        let store = try S3ObjectStore(s3)
        let configuration = try S3Configuration(s3)
        #expect(configuration.authority.hasPrefix("sluice-test.localhost:") || server.bucket != "sluice-test")
        #expect(configuration.pathPrefix.isEmpty)
        var problem: ObjectStoreError?
        do throws(ObjectStoreError) {
            _ = try await store.create("k", ByteBuffer(string: "v"))
        } catch {
            problem = error
        }
        if let problem {
            #expect(problem.description.contains("cannot be reached"))
            return
        }
        s3.addressing = .path
        #expect(try await S3ObjectStore(s3).read("k", maximumBytes: 9) == ByteBuffer(string: "v"))
    }
}

/// Against what a good server never does.
@Suite struct S3FaultTests {
    private static let exists = ScriptedServer.Answer.status(
        412, body: "<Error><Code>PreconditionFailed</Code></Error>")
    private static let writer = "x-amz-meta-sluice-writer"

    /// Answers of the PUTs of one key in turn; the last one for ever. HEAD tells the writer that `head` chooses.
    private func server(
        _ puts: [ScriptedServer.Answer], head: @escaping @Sendable (String) -> String = { $0 }
    ) async throws -> ScriptedServer {
        try await ScriptedServer { requests in
            let ours = requests.filter { $0.head.uri == "/bucket/k" && $0.head.method == .PUT }
            guard let last = requests.last, last.head.uri == "/bucket/k" else { return Self.exists }
            if last.head.method == .HEAD {
                return .status(
                    200, headers: [Self.writer: head(ours.first?.head.headers.first(name: Self.writer) ?? "")])
            }
            return puts[min(ours.count, puts.count) - 1]
        }
    }

    private func puts(_ server: ScriptedServer) -> [ScriptedServer.Request] {
        server.requests.filter { $0.head.uri == "/bucket/k" && $0.head.method == .PUT }
    }

    @Test func aLostAnswerIsTriedAgain() async throws {
        let busy = ScriptedServer.Answer.status(503, body: "<Error><Code>SlowDown</Code></Error>")
        let server = try await server([.lost, busy, .status(200)])
        #expect(try await server.store().create("k", ByteBuffer(string: "v")))
        let puts = puts(server)
        #expect(puts.count == 3 && Set(puts.map { $0.head.headers[Self.writer] }).count == 1)
        #expect(puts.allSatisfy { $0.head.headers["if-none-match"] == ["*"] && $0.body == ByteBuffer(string: "v") })
        #expect(!server.requests.contains { "\($0)".contains("hunter2") })
    }

    @Test func whatWasWrittenBeforeTheAnswerWasLostIsOurs() async throws {
        let ours = try await server([.lost, Self.exists])
        #expect(try await ours.store().create("k", ByteBuffer(string: "v")))
        let anothers = try await server([.lost, Self.exists], head: { _ in "somebody else" })
        #expect(try await !anothers.store().create("k", ByteBuffer(string: "v")))
        let plain = try await server([Self.exists])
        #expect(try await !plain.store().create("k", ByteBuffer(string: "v")))
        #expect(!plain.requests.contains { $0.head.method == .HEAD })
    }

    @Test func attemptsAreBounded() async throws {
        let server = try await server([.status(500, body: "<Error><Code>InternalError</Code></Error>")])
        let store = try server.store()
        let error = await #expect(throws: ObjectStoreError.self) { _ = try await store.create("k", ByteBuffer()) }
        guard case .unavailable(let why) = error else {
            Issue.record("\(String(describing: error))")
            return
        }
        #expect(why.contains("answers 500 InternalError"))
        #expect(puts(server).count == S3Client.attempts)
    }

    @Test func aServerThatIgnoresTheConditionIsRefused() async throws {
        let server = try await ScriptedServer { _ in .status(200) }
        let store = try server.store()
        let error = await #expect(throws: ObjectStoreError.self) { _ = try await store.create("k", ByteBuffer()) }
        #expect(error?.description.contains("takes no notice of If-None-Match") == true)
        #expect(puts(server).isEmpty)
    }

    @Test(arguments: [
        (403, "RequestTimeTooSkewed", "clock and the server's differ too much, the server's clock says Fri"),
        (400, "AuthorizationHeaderMalformed", "the region or the endpoint is another, it is eu-west-3"),
        (301, "PermanentRedirect", "the region or the endpoint is another, it is eu-west-3"),
        (400, "ExpiredToken", "the session token of the access key has expired"),
        (403, "AccessDenied", "no permission to get"),
        (404, "NoSuchBucket", "the bucket bucket at http://localhost:"),
        (418, "Teapot", "answers 418 Teapot"),
    ])
    func refusalsAreTold(status: Int, code: String, expected: String) async throws {
        let server = try await ScriptedServer { _ in
            .status(
                status, headers: ["Date": "Fri, 24 May 2013 00:00:00 GMT", "x-amz-bucket-region": "eu-west-3"],
                body: "<?xml version=\"1.0\"?><Error><Code>\(code)</Code><Message>m</Message></Error>")
        }
        let store = try server.store()
        let error = await #expect(throws: ObjectStoreError.self) { _ = try await store.read("k", maximumBytes: 1) }
        guard case .refused(let why) = error else {
            Issue.record("\(String(describing: error))")
            return
        }
        #expect(why.contains(expected))
        #expect(server.requests.count == 1)
    }

    @Test func nobodyThere() async throws {
        let server = try await ScriptedServer { _ in .lost }
        let store = try server.store { $0.endpoint = "http://127.0.0.1:1" }
        let error = await #expect(throws: ObjectStoreError.self) { _ = try await store.read("k", maximumBytes: 1) }
        guard case .unavailable(let why) = error else {
            Issue.record("\(String(describing: error))")
            return
        }
        #expect(why.contains("cannot be reached"))
    }

    /// The time limit holds for the whole answer, not for each of its bytes.
    @Test func aBodyThatTricklesIsGivenUp() async throws {
        let server = try await ScriptedServer { _ in .trickle(1_000) }
        let store = try server.store(attemptTime: .milliseconds(200))
        let start = ContinuousClock.now
        let error = await #expect(throws: ObjectStoreError.self) {
            _ = try await store.read("k", maximumBytes: 2_000)
        }
        #expect(error?.description.contains("did not answer in time") == true)
        #expect(server.requests.count == S3Client.attempts)
        #expect(ContinuousClock.now - start < .seconds(10))
    }

    /// A connection that ends within the handshake is no wrong certificate: the next attempt may succeed.
    @Test func aHandshakeThatIsCutOffIsTriedAgain() async throws {
        final class Closer: ChannelInboundHandler {
            typealias InboundIn = ByteBuffer

            func channelRead(context: ChannelHandlerContext, data: NIOAny) { context.close(promise: nil) }
        }
        let connections = NIOLockedValueBox(0)
        let balancer = try await ServerBootstrap(group: MultiThreadedEventLoopGroup.singleton)
            .childChannelInitializer { channel in
                connections.withLockedValue { $0 += 1 }
                return channel.eventLoop.makeCompletedFuture {
                    try channel.pipeline.syncOperations.addHandler(Closer())
                }
            }
            .bind(host: "127.0.0.1", port: 0).get()
        let server = try await ScriptedServer { _ in .lost }
        let store = try server.store(scheme: "https") {
            $0.endpoint = "https://localhost:\(balancer.localAddress?.port ?? 0)"
        }
        let error = await #expect(throws: ObjectStoreError.self) { _ = try await store.read("k", maximumBytes: 1) }
        guard case .unavailable = error else {
            Issue.record("\(String(describing: error))")
            return
        }
        #expect(connections.withLockedValue { $0 } >= S3Client.attempts)
        try await balancer.close()
    }

    @Test func anAnswerIsBounded() async throws {
        let server = try await ScriptedServer { _ in .status(200, body: String(repeating: "x", count: 101)) }
        let store = try server.store()
        await #expect(throws: ObjectStoreError.tooLarge(key: "k", maximumBytes: 100)) {
            _ = try await store.read("k", maximumBytes: 100)
        }
        let error = await #expect(throws: ObjectStoreError.self) {
            _ = try await store.list(prefix: "", after: nil, maximum: 1)
        }
        #expect(error?.description.contains("a list that is none of S3's") == true)
    }

    @Test func clientCertificatesAndAnAuthorityOfOnesOwn() async throws {
        let folder = try Folder()
        for name in ["server", "client"] {
            try openssl([
                "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2",
                "-keyout", "\(folder.path)/\(name).key", "-out", "\(folder.path)/\(name).crt", "-subj",
                "/CN=localhost", "-addext", "subjectAltName=DNS:localhost",
            ])
        }
        var tls = TLSConfiguration.makeServerConfiguration(
            certificateChain: try NIOSSLCertificate.fromPEMFile(folder.path + "/server.crt").map { .certificate($0) },
            privateKey: .privateKey(try NIOSSLPrivateKey(file: folder.path + "/server.key", format: .pem)))
        tls.certificateVerification = .noHostnameVerification
        tls.trustRoots = .certificates(try NIOSSLCertificate.fromPEMFile(folder.path + "/client.crt"))
        let server = try await ScriptedServer(tls: tls) { _ in .status(200, body: "v") }
        let good = try server.store(scheme: "https") { s3 in
            s3.ca = folder.path + "/server.crt"
            s3.certificate = folder.path + "/client.crt"
            s3.key = folder.path + "/client.key"
        }
        #expect(try await good.read("k", maximumBytes: 9) == ByteBuffer(string: "v"))
        let stranger = try server.store(scheme: "https") { $0.ca = folder.path + "/client.crt" }
        let error = await #expect(throws: ObjectStoreError.self) { _ = try await stranger.read("k", maximumBytes: 1) }
        #expect(error?.description.contains("TLS with the bucket bucket") == true, "\(String(describing: error))")
        let anonymous = try server.store(scheme: "https") { $0.ca = folder.path + "/server.crt" }
        await #expect(throws: ObjectStoreError.self) { _ = try await anonymous.read("k", maximumBytes: 1) }
        #expect(server.requests.count == 1)
    }
}
