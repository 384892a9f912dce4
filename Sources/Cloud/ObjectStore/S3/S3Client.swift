import AsyncHTTPClient
import Flow
import Metrics
import NIOCore
import NIOFoundationCompat
import NIOHTTP1
import NIOPosix
import NIOSSL
import Operations

/// Signs requests to one bucket, sends them, and tries again what may succeed later.
final class S3Client: Sendable {
    /// Attempts at a request, the first included.
    static let attempts = 4
    /// Of an answer that is not an object.
    static let maximumDocumentBytes = 4 * 1024 * 1024
    /// For an attempt; a second more for each MiB that is carried.
    private let attemptTime: TimeAmount

    struct Request {
        var operation: String
        var method: HTTPMethod
        /// Without the bucket's and the configuration's prefix; `nil`: the bucket itself.
        var key: String?
        var query: [(name: String, value: String)] = []
        var headers: [(name: String, value: String)] = []
        var body = ByteBuffer()
        var maximumBytes = S3Client.maximumDocumentBytes
    }

    struct Answer {
        var status: Int
        var headers: HTTPHeaders
        var body: ByteBuffer
        /// An earlier attempt may have been carried out, though its answer was lost.
        var mayBeRepeated: Bool
    }

    private let configuration: S3Configuration
    private let client: HTTPClient
    private let pause: @Sendable (Duration) async throws -> Void
    private let wallSeconds: @Sendable () -> Int64

    init(
        _ configuration: S3Configuration,
        attemptTime: TimeAmount = .seconds(30),
        wallSeconds: @escaping @Sendable () -> Int64 = { SystemClock.wallMicroseconds() / 1_000_000 },
        pause: @escaping @Sendable (Duration) async throws -> Void = { try await Task.sleep(for: $0) }
    ) {
        self.configuration = configuration
        self.attemptTime = attemptTime
        self.wallSeconds = wallSeconds
        self.pause = pause
        var http = HTTPClient.Configuration(
            tlsConfiguration: configuration.tls, redirectConfiguration: .disallow,
            timeout: .init(connect: .seconds(10), read: .seconds(30)), decompression: .disabled)
        http.httpVersion = .http1Only
        http.connectionPool.concurrentHTTP1ConnectionsPerHostSoftLimit = 8
        // Ours decides.
        http.connectionPool.retryConnectionEstablishment = false
        client = HTTPClient(
            eventLoopGroupProvider: .shared(MultiThreadedEventLoopGroup.singleton), configuration: http)
    }

    // The last reference goes: no request is under way, since each holds the client.
    deinit { client.shutdown { _ in } }

    /// Statuses below 500 but for those that ask for patience are answers; what they mean is the caller's matter.
    func send(_ request: Request) async throws(ObjectStoreError) -> Answer {
        let digest = SignatureV4.digest(of: request.body.readableBytesView)
        var backoff = Backoff(base: 200_000, cap: 5_000_000)
        var generator = SystemRandomNumberGenerator()
        var mayBeRepeated = false
        for attempt in 1...Self.attempts {
            let failure: ObjectStoreError
            do throws(ObjectStoreError) {
                var answer = try await sendOnce(request, digest: digest)
                answer.mayBeRepeated = mayBeRepeated
                guard Self.asksForPatience(answer.status) else { return answer }
                let reason = S3Answer.failure(String(buffer: answer.body))
                failure = .unavailable("\(place) answers \(answer.status) \(reason.code.shown)")
            } catch {
                guard case .unavailable = error else { throw error }
                failure = error
            }
            mayBeRepeated = true
            count(request.operation, "failed")
            guard attempt < Self.attempts else { throw failure }
            do {
                try await pause(.microseconds(backoff.next(using: &generator)))
            } catch { throw .unavailable("the task was cancelled") }
        }
        throw .unavailable(place)
    }

    /// How a person finds the bucket.
    var place: String {
        "the bucket \(configuration.bucket) at \(configuration.scheme)://\(configuration.authority)"
    }

    func count(_ operation: String, _ outcome: String) {
        Counter(
            label: MetricName.objectRequests.rawValue, dimensions: [("operation", operation), ("outcome", outcome)]
        ).increment()
    }

    private static func asksForPatience(_ status: Int) -> Bool {
        // 501: it does not know If-None-Match, and never will.
        status == 409 || status == 429 || (status >= 500 && status != 501)
    }

    private func sendOnce(_ request: Request, digest: String) async throws(ObjectStoreError) -> Answer {
        let http = try signed(request, digest: digest)
        let carried = max(request.body.readableBytes, request.maximumBytes) >> 20
        do {
            let deadline = NIODeadline.now() + attemptTime + .seconds(Int64(carried))
            let response = try await client.execute(http, deadline: deadline)
            // The body of an error is never more than a document.
            let limit = response.status == .ok ? request.maximumBytes : Self.maximumDocumentBytes
            // HEAD tells a length and sends nothing.
            if request.method != .HEAD, let told = response.headers.first(name: "Content-Length").flatMap({ Int($0) }),
                told > limit
            {
                throw ObjectStoreError.tooLarge(key: request.key ?? "", maximumBytes: limit)
            }
            var body = ByteBuffer()
            for try await var part in response.body {
                // The client's own deadline ends with the head; a body may trickle.
                guard NIODeadline.now() < deadline else { throw HTTPClientError.deadlineExceeded }
                guard body.readableBytes + part.readableBytes <= limit else {
                    throw ObjectStoreError.tooLarge(key: request.key ?? "", maximumBytes: limit)
                }
                body.writeBuffer(&part)
            }
            return Answer(
                status: Int(response.status.code), headers: response.headers, body: body, mayBeRepeated: false)
        } catch let error as ObjectStoreError {
            throw error
        } catch {
            throw Self.failure(error, place)
        }
    }

    private func signed(_ request: Request, digest: String) throws(ObjectStoreError) -> HTTPClientRequest {
        let keys = try configuration.keys.keys()
        let time = SignatureV4.time(secondsSince1970: wallSeconds())
        let key = request.key.map { configuration.keyPrefix + $0 } ?? ""
        let path = "\(configuration.pathPrefix)/" + SignatureV4.encoded(key, keepingSlashes: true)
        var headers = request.headers
        headers.append(("x-amz-date", time))
        headers.append(("x-amz-content-sha256", digest))
        if let token = keys.sessionToken { headers.append(("x-amz-security-token", token)) }
        let signature = SignatureV4(region: configuration.region, service: "s3", keys: keys)
        let authorization = signature.authorization(
            .init(
                method: request.method.rawValue, path: path, query: request.query,
                headers: headers + [("host", configuration.authority)], payloadDigest: digest), time: time)
        let query = SignatureV4.query(request.query)
        var http = HTTPClientRequest(
            url: "\(configuration.scheme)://\(configuration.authority)\(path)" + (query.isEmpty ? "" : "?\(query)"))
        http.method = request.method
        http.headers = HTTPHeaders(headers.map { ($0.name, $0.value) })
        http.headers.add(name: "Authorization", value: authorization)
        if request.method == .PUT { http.body = .bytes(request.body) }
        return http
    }

    /// The connection ended, which says nothing of certificates: a load balancer that starts again, a link that fails.
    private static func isCut(_ error: any Error) -> Bool {
        switch error {
        case NIOSSLError.uncleanShutdown, NIOSSLError.handshakeFailed(.syscallError),
            NIOSSLError.handshakeFailed(.zeroReturn), BoringSSLError.syscallError, BoringSSLError.zeroReturn:
            true
        case NIOSSLError.handshakeFailed(.sslError(let errors)): errors.contains(.eofDuringHandshake)
        default: false
        }
    }

    private static func failure(_ error: any Error, _ place: String) -> ObjectStoreError {
        switch error {
        case _ where isCut(error): return .unavailable("\(place): the connection ended within TLS (\(error))")
        case is NIOSSLError, is NIOSSLExtraError, is BoringSSLError:
            // A wrong authority or a missing client certificate does not mend itself.
            return .refused("TLS with \(place) failed (see objects.s3.ca, certificate and key): \(error)")
        case let error as NIOConnectionError:
            return .unavailable(
                "\(place) cannot be reached: \(error.connectionErrors.first.map { "\($0.error)" } ?? "\(error)")")
        case let error as HTTPClientError where error == .tlsHandshakeTimeout || error == .connectTimeout:
            return .unavailable("\(place) cannot be reached within 10 s")
        case let error as HTTPClientError where error == .deadlineExceeded || error == .readTimeout:
            return .unavailable("\(place) did not answer in time")
        case let error as IOError: return .unavailable("\(place) cannot be reached: \(error)")
        case is CancellationError: return .unavailable("the task was cancelled")
        default: return .unavailable("\(place): the connection ended without an answer (\(error))")
        }
    }
}
