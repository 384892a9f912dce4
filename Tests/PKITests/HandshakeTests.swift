import Foundation
import NIOCore
import NIOPosix
import NIOSSL
import Operations
import PKI
import Synchronization
import Testing

/// What the server saw of one connection that came through the handshake and sent a byte.
private struct Seen: Sendable {
    var verdict: Result<PeerIdentity, CertificateRefusal>
    var version: TLSVersion?
}

/// Judges at the first bytes, as the daemons do at CONNECT, answers with the verdict and closes.
private final class JudgingHandler: ChannelInboundHandler {
    typealias InboundIn = ByteBuffer
    typealias OutboundOut = ByteBuffer

    private let holder: TrustHolder
    private let time: Int64
    private let report: @Sendable (Seen) -> Void

    init(holder: TrustHolder, time: Int64, report: @escaping @Sendable (Seen) -> Void) {
        self.holder = holder
        self.time = time
        self.report = report
    }

    func channelRead(context: ChannelHandlerContext, data: NIOAny) {
        guard let tls = try? context.pipeline.syncOperations.handler(type: NIOSSLServerHandler.self) else { return }
        let verdict = holder.judge.judge(tls.peerCertificate, expecting: .device, at: time)
        report(Seen(verdict: verdict, version: tls.tlsVersion))
        let text: String
        switch verdict {
        case .success(let identity): text = "welcome \(identity.role)\n"
        case .failure(let refusal): text = "refused: \(refusal)\n"
        }
        let loop = context.eventLoop
        let bound = NIOLoopBound(context, eventLoop: loop)
        context.writeAndFlush(wrapOutboundOut(ByteBuffer(string: text))).whenComplete { _ in
            bound.value.close(promise: nil)
        }
    }

    func errorCaught(context: ChannelHandlerContext, error: any Error) { context.close(promise: nil) }
}

private final class Server {
    let channel: any Channel
    let holder: TrustHolder
    private let box: Box

    final class Box: Sendable {
        let seen = Mutex<[Seen]>([])
        let refused = Mutex<[CertificateRefusal]>([])
    }

    var port: Int { channel.localAddress?.port ?? 0 }
    var seen: [Seen] { box.seen.withLock { $0 } }
    var refused: [CertificateRefusal] { box.refused.withLock { $0 } }

    init(pki: PKIDirectory, trust: TrustStore, maximum: TLSVersion = .tlsv13, time: Int64 = now) async throws {
        let box = Box()
        let holder = TrustHolder(trust)
        var configuration = try TLSProfile.server(
            certificate: pki.file(.server, "edge"), key: pki.keyFile(.server, "edge"), trust: trust)
        configuration.maximumTLSVersion = maximum
        let context = try NIOSSLContext(configuration: configuration)
        channel = try await ServerBootstrap(group: MultiThreadedEventLoopGroup.singleton)
            .childChannelInitializer { channel in
                channel.eventLoop.makeCompletedFuture {
                    let verification = TLSProfile.verification(trust: holder) { refusal in
                        box.refused.withLock { $0.append(refusal) }
                    }
                    try channel.pipeline.syncOperations.addHandlers([
                        NIOSSLServerHandler(context: context, customVerificationCallback: verification),
                        JudgingHandler(holder: holder, time: time) { seen in box.seen.withLock { $0.append(seen) } },
                    ])
                }
            }
            .bind(host: "127.0.0.1", port: 0).get()
        self.holder = holder
        self.box = box
    }

    func stop() async throws { try await channel.close() }
}

@Suite struct HandshakeTests {
    let folder: Folder
    let pki: PKIDirectory

    init() throws {
        folder = try Folder()
        pki = PKIDirectory(folder.path + "/pki")
        try pki.create(now: now)
        // No address: the library would take the socket's address for a name that does not match.
        try pki.issueServer("edge", ip: [])
    }

    private func trust() throws -> TrustStore {
        try TrustStore.load(clientCA: pki.authorityCertificate, crl: pki.revocationList)
    }

    /// `openssl s_client` that sends a line and prints what comes back.
    private func connect(
        _ server: Server, as files: PKIDirectory, _ kind: PeerRole.Kind, _ id: String, _ more: String...
    )
        async throws -> Outcome
    {
        let arguments = [
            "s_client", "-connect", "127.0.0.1:\(server.port)", "-CAfile", pki.authorityCertificate, "-cert",
            try files.file(kind, id), "-key", try files.keyFile(kind, id), "-verify_return_error", "-ign_eof",
        ]
        return try await run(arguments + more)
    }

    /// The client runs on a thread of its own, since waiting for it blocks.
    private func run(_ arguments: [String]) async throws -> Outcome {
        try await withCheckedThrowingContinuation { continuation in
            DispatchQueue.global().async {
                continuation.resume(with: Result { try opensslClient(arguments) })
            }
        }
    }

    @Test(arguments: [TLSVersion.tlsv12, .tlsv13])
    func aDeviceIsWelcome(version: TLSVersion) async throws {
        try pki.issue(.device, "pump-1")
        let server = try await Server(pki: pki, trust: try trust(), maximum: version)
        let outcome = try await connect(server, as: pki, .device, "pump-1")
        #expect(outcome.output.contains("welcome device pump-1"), "\(outcome.output)")
        #expect(server.seen.map(\.version) == [version])
        try await server.stop()
    }

    @Test func expiredAndRevokedComeThroughToTheJudge() async throws {
        try pki.issue(.device, "expired", days: 1, at: now - 10 * 86_400)
        try pki.issue(.device, "revoked")
        try pki.issue(.gateway, "plant-7")
        try pki.revoke("revoked", now: now)
        let server = try await Server(pki: pki, trust: try trust())
        let expired = try await connect(server, as: pki, .device, "expired")
        #expect(expired.output.contains("refused: the certificate expired at"), "\(expired.output)")
        let revoked = try await connect(server, as: pki, .device, "revoked")
        #expect(revoked.output.contains("refused: the certificate was revoked at"), "\(revoked.output)")
        let gateway = try await connect(server, as: pki, .gateway, "plant-7")
        #expect(
            gateway.output.contains("refused: the certificate is for the gateway plant-7, not for a device"),
            "\(gateway.output)")
        #expect(server.refused.isEmpty)
        try await server.stop()
    }

    @Test func anotherAuthorityEndsTheHandshakeWithAReason() async throws {
        let other = PKIDirectory(folder.path + "/other")
        try other.create(now: now)
        try other.issue(.device, "pump-1")
        let server = try await Server(pki: pki, trust: try trust())
        let outcome = try await connect(server, as: other, .device, "pump-1")
        #expect(!outcome.output.contains("welcome") && !outcome.output.contains("refused:"))
        #expect(server.seen.isEmpty)
        #expect(server.refused.map(\.label) == ["unknown_issuer"])
        try await server.stop()
    }

    @Test func noCertificateEndsTheHandshake() async throws {
        let server = try await Server(pki: pki, trust: try trust())
        let outcome = try await run(
            ["s_client", "-connect", "127.0.0.1:\(server.port)", "-CAfile", pki.authorityCertificate, "-ign_eof"])
        #expect(!outcome.output.contains("refused:") && server.seen.isEmpty)
        try await server.stop()
    }

    @Test func weakSuitesAndOldVersionsAreRefused() async throws {
        try pki.issue(.device, "pump-1")
        let server = try await Server(pki: pki, trust: try trust(), maximum: .tlsv12)
        for weak in [["-tls1_1"], ["-tls1_2", "-cipher", "ECDHE-ECDSA-AES128-SHA"]] {
            let arguments = [
                "s_client", "-connect", "127.0.0.1:\(server.port)", "-cert", try pki.file(.device, "pump-1"), "-key",
                try pki.keyFile(.device, "pump-1"), "-ign_eof",
            ]
            let outcome = try await run(arguments + weak)
            #expect(outcome.status != 0 && !outcome.output.contains("welcome"), "\(weak)")
        }
        #expect(server.seen.isEmpty)
        try await server.stop()
    }

    @Test(arguments: [TLSVersion.tlsv12, .tlsv13])
    func aRevocationReachesAResumedSession(version: TLSVersion) async throws {
        try pki.issue(.device, "pump-1")
        let server = try await Server(pki: pki, trust: try trust(), maximum: version)
        let session = folder.path + "/session"
        let first = try await connect(server, as: pki, .device, "pump-1", "-sess_out", session)
        #expect(first.output.contains("welcome"), "\(first.output)")

        let again = try await connect(server, as: pki, .device, "pump-1", "-sess_in", session, "-sess_out", session)
        #expect(again.output.contains("Reused, ") && again.output.contains("welcome"), "\(again.output)")

        try pki.revoke("pump-1", now: now)
        server.holder.swap(try trust())
        let after = try await connect(server, as: pki, .device, "pump-1", "-sess_in", session)
        #expect(after.output.contains("Reused, "), "\(after.output)")
        #expect(after.output.contains("refused: the certificate was revoked at"), "\(after.output)")
        try await server.stop()
    }

    @Test func theClientProfileChecksTheServersName() async throws {
        try pki.issue(.device, "pump-1")
        let server = try await Server(pki: pki, trust: try trust())
        let configuration = try TLSProfile.client(
            certificate: pki.file(.device, "pump-1"), key: pki.keyFile(.device, "pump-1"), ca: pki.authorityCertificate)
        let context = try NIOSSLContext(configuration: configuration)
        for (name, isGood) in [("localhost", true), ("elsewhere.example", false)] {
            let answer = Mutex("")
            let client = try await ClientBootstrap(group: MultiThreadedEventLoopGroup.singleton)
                .channelInitializer { channel in
                    channel.eventLoop.makeCompletedFuture {
                        try channel.pipeline.syncOperations.addHandler(
                            NIOSSLClientHandler(context: context, serverHostname: name))
                    }
                }
                .connect(host: "127.0.0.1", port: server.port).get()
            do {
                try await client.writeAndFlush(ByteBuffer(string: "hello\n"))
                answer.withLock { $0 = "sent" }
            } catch {
                answer.withLock { $0 = "\(error)" }
            }
            try? await client.close()
            #expect((answer.withLock { $0 } == "sent") == isGood, "\(name): \(answer.withLock { $0 })")
        }
        try await server.stop()
    }

    @Test func profilesNameTheFileThatIsWrong() throws {
        let garbage = try folder.write("hello", to: "garbage")
        let trust = try trust()
        for make: () throws -> TLSConfiguration in [
            { try TLSProfile.server(certificate: garbage, key: try pki.keyFile(.server, "edge"), trust: trust) },
            { try TLSProfile.server(certificate: try pki.file(.server, "edge"), key: garbage, trust: trust) },
            { try TLSProfile.client(certificate: "x", key: "y", ca: garbage) },
        ] {
            let error = #expect(throws: TrustError.self) { try make() }
            #expect(error?.file == garbage)
        }
        let missing = #expect(throws: TrustError.self) {
            try TLSProfile.client(certificate: "/nowhere", key: "y", ca: pki.authorityCertificate)
        }
        #expect(missing?.description == "/nowhere: No such file or directory")
    }
}

/// `s_client` with a line on its input that stays open until the server closes.
private func opensslClient(_ arguments: [String]) throws -> Outcome {
    let process = Process()
    process.executableURL = URL(fileURLWithPath: "/usr/bin/timeout")
    process.arguments = ["10", "/usr/bin/openssl"] + arguments
    let output = Pipe()
    let input = Pipe()
    process.standardOutput = output
    process.standardError = output
    process.standardInput = input
    try process.run()
    input.fileHandleForWriting.write(Data("hello\n".utf8))
    let data = output.fileHandleForReading.readDataToEndOfFile()
    process.waitUntilExit()
    return Outcome(status: process.terminationStatus, output: String(decoding: data, as: UTF8.self))
}
