import Foundation
import NIOCore
import NIOPosix
import SyncModel
import Testing

@testable import Buffer

@Suite struct ControlTests {
    let scratch: Scratch

    init() throws { scratch = try Scratch() }

    private func serve(_ buffer: Buffer) async throws -> ControlServer {
        try await ControlServer.start(
            bufferPath: scratch.path, buffer: buffer, group: MultiThreadedEventLoopGroup.singleton, logger: quiet)
    }

    private func error(to command: String) async throws -> String {
        let answer = await ControlClient.ask(ControlRequest(command: command), ofBuffer: scratch.path) { _ in true }
        guard case .failed(.control(let text)) = answer else { return "" }
        return text
    }

    @Test func theDaemonAnswersAndThenTheFile() async throws {
        let buffer = try scratch.open()
        try await buffer.commit(drafts([0, 1]))
        let server = try await serve(buffer)
        let socket = scratch.path + ".sock"
        #expect(try FileManager.default.attributesOfItem(atPath: socket)[.posixPermissions] as? Int == 0o600)
        let online = try await ControlClient.accounting(ofBuffer: scratch.path)
        #expect(online.bufferedMessages == 2 && online.gateway == "plant-7")
        #expect(
            try await error(to: "format")
                == "the gateway's daemon answers: unknown command \"format\"; known: accounting, stats, tail, export, deadLetters, devices"
        )
        await server.stop()
        #expect(!FileManager.default.fileExists(atPath: socket))
        // The buffer is open, but nobody answers for it.
        await #expect(throws: BufferError.self) { try await ControlClient.accounting(ofBuffer: scratch.path) }
        await buffer.close()
        #expect(try await ControlClient.accounting(ofBuffer: scratch.path) == online)
    }

    @Test func aClosedBufferIsAnError() async throws {
        let buffer = try scratch.open()
        let server = try await serve(buffer)
        await buffer.close()
        await #expect(throws: BufferError.control("the gateway's daemon answers: \(BufferError.closed)")) {
            try await ControlClient.accounting(ofBuffer: scratch.path)
        }
        await server.stop()
    }

    @Test func aStaleSocketIsReplaced() async throws {
        let buffer = try scratch.open()
        let first = try await serve(buffer)
        let second = try await serve(buffer)
        _ = try await ControlClient.accounting(ofBuffer: scratch.path)
        await first.stop()
        await second.stop()
        await buffer.close()
    }

    @Test func linesAndConnectionsAreBounded() async throws {
        let buffer = try scratch.open()
        let server = try await serve(buffer)
        let long = try await RawClient(scratch.path + ".sock")
        try await long.send(String(repeating: "x", count: ControlLimits.request + 1))
        #expect(try await long.received() == "", "closed without an answer")

        let garbage = try await RawClient(scratch.path + ".sock")
        try await garbage.send("nonsense\n{\"command\":\"acc")
        try await garbage.send("ounting\"}\n")
        try await garbage.halfClose()
        let lines = try await garbage.lines(2)
        try #require(lines.count == 2)
        #expect(lines[0].contains("not a request") && lines[1].contains("\"gateway\":\"plant-7\""))

        var idle: [RawClient] = []
        for _ in 0..<ControlLimits.connections + 2 { idle.append(try await RawClient(scratch.path + ".sock")) }
        let refused = try await idle[ControlLimits.connections + 1].received()
        #expect(refused == "")
        for client in idle { await client.close() }
        await server.stop()
        await buffer.close()
    }

    @Test func aPathTooLongForASocketSaysSo() async throws {
        let long = scratch.directory + "/" + String(repeating: "a", count: 100)
        #expect(throws: BufferError.self) { try UnixSocket.listen(at: long, backlog: 1) }
    }
}

/// A client that may misbehave.
private final class RawClient: Sendable {
    private let channel: any Channel
    private let answers: AsyncStream<ByteBuffer>

    init(_ path: String) async throws {
        let (stream, continuation) = AsyncStream.makeStream(of: ByteBuffer.self)
        answers = stream
        channel = try await ClientBootstrap(group: MultiThreadedEventLoopGroup.singleton)
            .channelOption(.allowRemoteHalfClosure, value: true)
            .channelInitializer { channel in
                channel.closeFuture.whenComplete { _ in continuation.finish() }
                return channel.eventLoop.makeCompletedFuture {
                    try channel.pipeline.syncOperations.addHandler(Collector(continuation))
                }
            }.connect(unixDomainSocketPath: path).get()
    }

    func send(_ text: String) async throws { try await channel.writeAndFlush(ByteBuffer(string: text)) }

    func halfClose() async throws { try await channel.close(mode: .output) }

    func close() async { try? await channel.close() }

    /// Until the other end closes.
    func received() async throws -> String {
        var all = ""
        for await bytes in answers { all += String(buffer: bytes) }
        return all
    }

    func lines(_ count: Int) async throws -> [String] {
        var all = ""
        for await bytes in answers {
            all += String(buffer: bytes)
            if all.split(separator: "\n").count >= count && all.hasSuffix("\n") { break }
        }
        return all.split(separator: "\n").map(String.init)
    }

    private final class Collector: ChannelInboundHandler {
        typealias InboundIn = ByteBuffer
        private let continuation: AsyncStream<ByteBuffer>.Continuation

        init(_ continuation: AsyncStream<ByteBuffer>.Continuation) { self.continuation = continuation }

        func channelRead(context: ChannelHandlerContext, data: NIOAny) { continuation.yield(unwrapInboundIn(data)) }

        func userInboundEventTriggered(context: ChannelHandlerContext, event: Any) {
            if let event = event as? ChannelEvent, event == .inputClosed { continuation.finish() }
        }

        func errorCaught(context: ChannelHandlerContext, error: any Error) { continuation.finish() }
    }
}
