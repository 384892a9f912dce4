import Foundation
import NIOConcurrencyHelpers
import NIOCore
import NIOHTTP1
import NIOPosix
import NIOSSL
import Operations
import TestSupport

@testable import ObjectStore

/// A folder that is removed with its last reference.
final class Folder: Sendable {
    let path: String

    init() throws {
        path = NSTemporaryDirectory() + "sluice-objects-" + UUID().uuidString
        try FileManager.default.createDirectory(atPath: path, withIntermediateDirectories: true)
    }

    deinit { try? FileManager.default.removeItem(atPath: path) }

    func write(_ text: String, to name: String) throws -> String {
        try Data(text.utf8).write(to: URL(fileURLWithPath: "\(path)/\(name)"))
        return "\(path)/\(name)"
    }
}

/// A store that is empty, and what has to live as long as it.
struct StoreUnderTest: Sendable {
    enum Kind: String, Sendable, CaseIterable {
        case folder, s3
    }

    let store: any ObjectStore
    let folder: Folder

    /// The folder, and S3 where there is a server.
    static let kinds: [Kind] = S3Server.shared == nil ? [.folder] : [.folder, .s3]

    init(_ kind: Kind) throws {
        folder = try Folder()
        switch kind {
        case .folder: store = try FolderObjectStore(path: folder.path + "/objects")
        case .s3:
            guard let server = S3Server.shared else { throw Missing() }
            store = try S3ObjectStore(server.configuration(keys: folder))
        }
    }

    struct Missing: Error {}
}

extension S3Server {
    /// Under a prefix of its own.
    func configuration(keys folder: Folder) throws -> CloudConfiguration.S3 {
        let file = folder.path + "/keys"
        try writeKeys(to: file)
        var s3 = CloudConfiguration.S3(bucket: bucket)
        s3.endpoint = endpoint
        s3.region = region
        s3.prefix = "test-\(UInt64.random(in: 0...UInt64.max))/"
        s3.credentialsFile = file
        return s3
    }
}

/// Speaks HTTP on a free port of 127.0.0.1 and answers as the test says: for what a good server never does.
final class ScriptedServer: Sendable {
    struct Request: Sendable {
        var head: HTTPRequestHead
        var body = ByteBuffer()
    }

    enum Answer: Sendable {
        case status(Int, headers: HTTPHeaders = [:], body: String = "")
        /// The request was read, and the connection ends.
        case lost
        /// Of a body a byte comes every 50 ms.
        case trickle(Int)
    }

    private let received = NIOLockedValueBox<[Request]>([])
    private let channel: any Channel
    /// Of the stores' access key.
    private let folder: Folder

    /// - Parameter answer: given all requests so far, answers the last one.
    init(tls: TLSConfiguration? = nil, _ answer: @escaping @Sendable ([Request]) -> Answer) async throws {
        folder = try Folder()
        let received = received
        let context = try tls.map { try NIOSSLContext(configuration: $0) }
        channel = try await ServerBootstrap(group: MultiThreadedEventLoopGroup.singleton)
            .childChannelInitializer { channel in
                channel.eventLoop.makeCompletedFuture {
                    let sync = channel.pipeline.syncOperations
                    if let context { try sync.addHandler(NIOSSLServerHandler(context: context)) }
                    try sync.configureHTTPServerPipeline()
                    try sync.addHandler(
                        Handler { request in
                            answer(
                                received.withLockedValue { requests in
                                    requests.append(request)
                                    return requests
                                })
                        })
                }
            }
            .bind(host: "127.0.0.1", port: 0).get()
    }

    deinit { channel.close(promise: nil) }

    var port: Int { channel.localAddress?.port ?? 0 }
    var requests: [Request] { received.withLockedValue { $0 } }

    /// A store over this server that does not wait between attempts.
    func store(
        scheme: String = "http", attemptTime: TimeAmount = .seconds(30),
        _ change: (inout CloudConfiguration.S3) -> Void = { _ in }
    ) throws -> S3ObjectStore {
        var s3 = CloudConfiguration.S3(bucket: "bucket")
        s3.endpoint = "\(scheme)://localhost:\(port)"
        s3.credentialsFile = try folder.write(
            "aws_access_key_id=AKID\naws_secret_access_key=hunter2\n", to: "keys")
        change(&s3)
        let client = S3Client(try S3Configuration(s3), attemptTime: attemptTime, pause: { _ in })
        return S3ObjectStore(client: client, prefix: s3.prefix)
    }

    private final class Handler: ChannelInboundHandler {
        typealias InboundIn = HTTPServerRequestPart
        typealias OutboundOut = HTTPServerResponsePart

        private let answer: (Request) -> Answer
        private var request: Request?

        init(_ answer: @escaping (Request) -> Answer) { self.answer = answer }

        func channelRead(context: ChannelHandlerContext, data: NIOAny) {
            switch unwrapInboundIn(data) {
            case .head(let head): request = Request(head: head)
            case .body(let part): request?.body.writeImmutableBuffer(part)
            case .end:
                guard let request else { return }
                switch answer(request) {
                case .lost: context.close(promise: nil)
                case .trickle(let length):
                    let head = HTTPResponseHead(
                        version: .http1_1, status: .ok, headers: ["Content-Length": "\(length)"])
                    context.write(wrapOutboundOut(.head(head)), promise: nil)
                    trickle(context)
                case .status(let status, var headers, let body):
                    if request.head.method != .HEAD { headers.add(name: "Content-Length", value: "\(body.utf8.count)") }
                    let head = HTTPResponseHead(
                        version: .http1_1, status: .init(statusCode: status), headers: headers)
                    context.write(wrapOutboundOut(.head(head)), promise: nil)
                    context.write(wrapOutboundOut(.body(.byteBuffer(ByteBuffer(string: body)))), promise: nil)
                    context.writeAndFlush(wrapOutboundOut(.end(nil)), promise: nil)
                }
            }
        }

        private func trickle(_ context: ChannelHandlerContext) {
            guard context.channel.isActive else { return }
            context.writeAndFlush(wrapOutboundOut(.body(.byteBuffer(ByteBuffer(string: ".")))), promise: nil)
            // Safe: the task runs on the handler's own loop.
            let bound = NIOLoopBound((self, context), eventLoop: context.eventLoop)
            context.eventLoop.scheduleTask(in: .milliseconds(50)) { bound.value.0.trickle(bound.value.1) }
        }
    }
}

/// Runs OpenSSL, which this project did not write.
func openssl(_ arguments: [String]) throws {
    let process = Process()
    process.executableURL = URL(fileURLWithPath: "/usr/bin/openssl")
    process.arguments = arguments
    process.standardOutput = FileHandle.nullDevice
    process.standardError = FileHandle.nullDevice
    process.standardInput = FileHandle.nullDevice
    try process.run()
    process.waitUntilExit()
    guard process.terminationStatus == 0 else { throw StoreUnderTest.Missing() }
}
