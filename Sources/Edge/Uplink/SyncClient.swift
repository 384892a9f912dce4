import AsyncHTTPClient
import NIOCore
import NIOHTTP1
import NIOPosix
import NIOSSL
import SyncModel

/// The cloud's answer to a batch.
struct SyncAnswer: Sendable {
    var status: Int
    /// The header as it came.
    var retryAfter: String?
    /// The beginning of the body of any answer but 200, for the log.
    var reason: String
}

/// Why there was no answer. Raw values are metric labels.
enum SyncFailure: String, Error, CaseIterable {
    case connect
    case tls
    /// The certificate is valid, but not a server's.
    case wrongRole = "wrong_role"
    case timeout
    /// The connection ended before the answer.
    case lost
}

struct SyncFailureDetail: Error, CustomStringConvertible {
    var kind: SyncFailure
    var description: String
}

/// Judges the cloud's certificate: `nil`, or why nothing may be sent to it.
package struct ServerJudge: Sendable {
    /// Whether the system's clock is right, so that the TLS library may judge by it. Where it is not, the library checks
    /// nothing, and `refusal` is all that is between a batch and a stranger.
    package var mayLibraryVerify: @Sendable () -> Bool
    /// The whole judgement, with chain, time, name and role, of a certificate of this host. It is asked in any case.
    package var refusal: @Sendable (_ certificate: NIOSSLCertificate?, _ host: String) async -> String?

    package init(
        mayLibraryVerify: @escaping @Sendable () -> Bool,
        refusal: @escaping @Sendable (_ certificate: NIOSSLCertificate?, _ host: String) async -> String?
    ) {
        self.mayLibraryVerify = mayLibraryVerify
        self.refusal = refusal
    }
}

private struct WrongRoleError: Error, CustomStringConvertible {
    var description: String
}

/// Posts batches over HTTPS with mutual TLS, over a connection that is kept between batches.
struct SyncClient: Sendable {
    /// Of an error's body; more is cut off.
    private static let maximumReasonBytes = 2_048

    private let client: HTTPClient
    private let url: String
    private let unverified: TLSConfiguration
    private let judge: ServerJudge

    /// Checked, and not yet a connection.
    struct Configuration: Sendable {
        fileprivate let url: String
        fileprivate let http: HTTPClient.Configuration
        fileprivate let group: any EventLoopGroup
        /// For the time in which the system's clock is wrong: the library would judge by it.
        fileprivate let unverified: TLSConfiguration
        fileprivate let judge: ServerJudge

        /// - Parameters:
        ///   - url: `https://host[:port]`, without a path.
        ///   - tls: the gateway's certificate and key, and the authority of the server's certificate.
        init(
            url: String, tls: TLSConfiguration, group: any EventLoopGroup, judge: ServerJudge
        ) throws(UplinkConfigurationError) {
            guard tls.certificateVerification == .fullVerification else { throw .unverifiedServer }
            self.url = try SyncClient.endpoint(url)
            self.judge = judge
            var unverified = tls
            unverified.certificateVerification = .none
            self.unverified = unverified
            let host = SyncClient.host(ofEndpoint: self.url)
            self.group = group
            var http = HTTPClient.Configuration(
                tlsConfiguration: tls, redirectConfiguration: .disallow,
                timeout: .init(connect: .seconds(10), read: .seconds(60)))
            http.httpVersion = .http1Only
            // One is in use; another may still be waiting for the other side's end of TLS (`closingTime`).
            http.connectionPool.concurrentHTTP1ConnectionsPerHostSoftLimit = 2
            // Our backoff decides; the client's own would try within one attempt again and again.
            http.connectionPool.retryConnectionEstablishment = false
            // Called when TLS is established and before a request is given to the connection: a failure here means
            // that no byte of a batch reaches a server of another role.
            http.http1_1ConnectionDebugInitializer = { SyncClient.check($0, host: host, judge) }
            self.http = http
        }
    }

    init(_ configuration: Configuration) {
        url = configuration.url
        unverified = configuration.unverified
        judge = configuration.judge
        client = HTTPClient(eventLoopGroupProvider: .shared(configuration.group), configuration: configuration.http)
    }

    private static func check(
        _ channel: any Channel, host: String, _ judge: ServerJudge
    ) -> EventLoopFuture<Void> {
        channel.eventLoop.submit {
            try channel.pipeline.syncOperations.handler(type: NIOSSLClientHandler.self).peerCertificate
        }.flatMap { certificate in
            channel.eventLoop.makeFutureWithTask {
                if let refusal = await judge.refusal(certificate, host) {
                    throw WrongRoleError(description: refusal)
                }
            }
        }.flatMapThrowing {
            // The pool forgets the end of a connection that it does not have yet. Given to it now, the connection would be in
            // use for ever, and it makes no other beside it. This runs on the loop, so the pool has it before it can end.
            guard channel.isActive else { throw ChannelError.ioOnClosedChannel }
        }.flatMapErrorThrowing { error in
            channel.close(promise: nil)
            throw error
        }
    }

    static func endpoint(_ url: String) throws(UplinkConfigurationError) -> String {
        let scheme = "https://"
        var rest = url[...]
        guard url.hasPrefix(scheme) else { throw .badURL(url) }
        rest = rest.dropFirst(scheme.count)
        if rest.hasSuffix("/") { rest = rest.dropLast() }
        guard !rest.isEmpty, !rest.contains(where: { "/?#@ ".contains($0) }) else { throw .badURL(url) }
        return scheme + rest + SyncProtocol.path
    }

    /// Name or address, without port and brackets.
    static func host(ofEndpoint endpoint: String) -> String {
        let authority = endpoint.dropFirst("https://".count).prefix { $0 != "/" }
        if authority.first == "[" { return String(authority.dropFirst().prefix { $0 != "]" }) }
        return String(authority.prefix { $0 != ":" })
    }

    /// - Parameter timeout: microseconds for all of it. The client's own deadline ends with the head of the answer, and a body
    ///   may trickle.
    func post(_ batch: PackedBatch, timeout: Int64) async throws(SyncFailureDetail) -> SyncAnswer {
        let deadline = NIODeadline.now() + .microseconds(timeout)
        let result = await withTaskGroup { tasks -> Result<SyncAnswer, SyncFailureDetail>? in
            tasks.addTask { await answer(to: batch, deadline: deadline) }
            tasks.addTask {
                try? await Task.sleep(for: .microseconds(timeout))
                return .failure(
                    SyncFailureDetail(kind: .timeout, description: "no whole answer in \(timeout / 1_000) ms"))
            }
            defer { tasks.cancelAll() }
            return await tasks.next()
        }
        guard let result else { throw SyncFailureDetail(kind: .lost, description: "no part of the request ended") }
        return try result.get()
    }

    private func answer(
        to batch: PackedBatch, deadline: NIODeadline
    ) async -> Result<SyncAnswer, SyncFailureDetail> {
        do {
            let response = try await client.execute(request(for: batch), deadline: deadline)
            let reason = try await Self.beginning(of: response.body)
            return .success(
                SyncAnswer(
                    status: Int(response.status.code), retryAfter: response.headers.first(name: "Retry-After"),
                    reason: response.status == .ok ? "" : reason))
        } catch {
            return .failure(Self.detail(of: error))
        }
    }

    private func request(for batch: PackedBatch) -> HTTPClientRequest {
        var request = HTTPClientRequest(url: url)
        request.method = .POST
        request.headers = [
            "Content-Type": SyncProtocol.contentType,
            "Content-Encoding": SyncProtocol.contentEncoding,
            SyncProtocol.digestHeader: batch.digest,
        ]
        if batch.lane == .backlog {
            request.headers.add(name: SyncProtocol.laneHeader, value: SyncProtocol.backlogLane)
        }
        request.body = .bytes(batch.body)
        if !judge.mayLibraryVerify() { request.tlsConfiguration = unverified }
        return request
    }

    /// A peer that no longer answers would keep the closing of TLS waiting for 5 s; the daemon does not wait for it.
    static let closingTime = Duration.milliseconds(500)

    func shutdown() async {
        let client = client
        let (ended, source) = AsyncStream.makeStream(of: Void.self)
        Task {
            // An error would say that a request is still under way, which the shutdown ends.
            try? await client.shutdown()
            source.finish()
        }
        let timer = Task {
            try? await Task.sleep(for: Self.closingTime)
            source.finish()
        }
        for await _ in ended {}
        timer.cancel()
    }

    private static func beginning(of body: HTTPClientResponse.Body) async throws -> String {
        var text = ByteBuffer()
        for try await part in body {
            let room = maximumReasonBytes - text.readableBytes
            text.writeBytes(part.readableBytesView.prefix(room))
            // What is left is not read: the connection is closed instead of kept.
            if text.readableBytes == maximumReasonBytes { break }
        }
        let decoded = String(decoding: text.readableBytesView, as: UTF8.self)
        return String(decoded.map { $0.isNewline || ($0.asciiValue.map { $0 < 0x20 } ?? false) ? " " : $0 })
    }

    private static func detail(of error: any Error) -> SyncFailureDetail {
        let kind: SyncFailure =
            switch error {
            case is WrongRoleError: .wrongRole
            case is NIOSSLError, is NIOSSLExtraError, is BoringSSLError: .tls
            case is NIOConnectionError, is IOError: .connect
            case let error as HTTPClientError:
                switch error {
                case .deadlineExceeded, .readTimeout, .writeTimeout, .connectTimeout: .timeout
                case .tlsHandshakeTimeout: .tls
                default: .lost
                }
            default: .lost
            }
        return SyncFailureDetail(kind: kind, description: "\(error)")
    }
}

package enum UplinkConfigurationError: Error, Equatable, CustomStringConvertible {
    case badURL(String)
    case unverifiedServer

    package var description: String {
        switch self {
        case .badURL(let url):
            "uplink.url is \"\(url)\"; it must be https://host or https://host:port, the path is the protocol's"
        case .unverifiedServer:
            "the uplink's TLS configuration must verify the server's certificate and its name"
        }
    }
}
