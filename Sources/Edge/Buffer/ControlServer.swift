import Foundation
import Logging
import NIOConcurrencyHelpers
import NIOCore
import NIOPosix
import Operations
import SyncModel

/// One line of JSON there, one or more back, over a socket that the daemon's user alone can open.
struct ControlRequest: Codable, Equatable {
    /// What the daemon can be asked.
    enum Command: String, CaseIterable {
        case accounting
        /// What the buffer holds, in numbers.
        case stats
        /// The newest messages that wait for the cloud, a line each, and a `ControlEnd`.
        case tail
        /// All of them.
        case export
        /// Messages that the cloud refuses, in the same way.
        case deadLetters
        /// Who is connected or limited.
        case devices
    }

    var command: String
    /// Of `tail`.
    var count: Int?
}

struct ControlFailure: Codable, Error, Equatable {
    var error: String
}

/// After the last line of an answer that has many: without it, something is missing.
struct ControlEnd: Codable, Equatable {
    /// Lines before this one.
    var end: Int
}

enum ControlLimits {
    /// Bytes of a request.
    static let request = 4 * 1024
    /// Bytes of a line of an answer.
    static let answer = 16 * 1024 * 1024
    static let connections = 8
    /// From accept or an answer's last part to the next; also the client's patience.
    static let time = TimeAmount.seconds(10)
    /// In which a client takes a part of an answer: it may be a person who reads.
    static let takingTime = TimeAmount.seconds(60)
    /// Messages that `tail` gives.
    static let tail = 1...10_000

    static func socketPath(ofBuffer path: String) -> String { path + ".sock" }
}

/// Answers the command line on `<buffer path>.sock`, because the daemon alone may have the buffer open.
package final class ControlServer: Sendable {
    package typealias Devices = @Sendable () async -> DeviceListing

    private let channel: any Channel
    private let path: String

    /// Replaces the socket that an earlier process left: the caller holds the buffer, so no other process serves it.
    ///
    /// - Parameter devices: `nil` where no gateway runs beside the buffer.
    package static func start(
        bufferPath: String, buffer: Buffer, devices: Devices? = nil, group: any EventLoopGroup, logger: Logger
    ) async throws(BufferError) -> ControlServer {
        let path = ControlLimits.socketPath(ofBuffer: bufferPath)
        let socket = try UnixSocket.listen(at: path, backlog: Int32(ControlLimits.connections))
        let connections = NIOLockedValueBox(0)
        let answerer = ControlAnswerer(buffer: buffer, devices: devices, logger: logger)
        // A client may close its sending side and still read its answers, as nc does.
        let bootstrap = ServerBootstrap(group: group).childChannelOption(.allowRemoteHalfClosure, value: true)
            .childChannelInitializer { channel in
                let isAllowed = connections.withLockedValue { count in
                    guard count < ControlLimits.connections else { return false }
                    count += 1
                    return true
                }
                guard isAllowed else { return channel.close() }
                channel.closeFuture.whenComplete { _ in connections.withLockedValue { $0 -= 1 } }
                return channel.eventLoop.makeCompletedFuture {
                    try channel.pipeline.syncOperations.addHandler(
                        ControlHandler { await answerer.answer($0, write: $1) })
                }
            }
        do {
            return ControlServer(channel: try await bootstrap.withBoundSocket(socket).get(), path: path)
        } catch {
            throw .control("\(path): the control socket cannot be served: \(error)")
        }
    }

    private init(channel: any Channel, path: String) {
        self.channel = channel
        self.path = path
    }

    package func stop() async {
        // Closing a channel that is closed already is the one error there is.
        try? await channel.close()
        UnixSocket.remove(path)
    }
}

/// From a request to the lines of its answer.
private struct ControlAnswerer: Sendable {
    let buffer: Buffer
    let devices: ControlServer.Devices?
    let logger: Logger

    func answer(_ line: ByteBuffer, write: ControlHandler.Write) async {
        do {
            try await serve(try request(line), write: write)
        } catch {
            let failure = error as? ControlFailure ?? ControlFailure(error: "\(error)")
            logger.notice("control request refused", metadata: [LogKey.reason.rawValue: "\(failure.error)"])
            let text = (try? Self.encoded(failure)) ?? ByteBuffer(string: "{\"error\":\"internal\"}\n")
            // Who is gone hears nothing.
            try? await write(text)
        }
    }

    private func request(_ line: ByteBuffer) throws(ControlFailure) -> ControlRequest {
        do {
            return try JSONDecoder().decode(ControlRequest.self, from: Data(line.readableBytesView))
        } catch {
            throw ControlFailure(error: "not a request; send one line such as {\"command\":\"accounting\"}")
        }
    }

    private func serve(_ request: ControlRequest, write: ControlHandler.Write) async throws {
        switch ControlRequest.Command(rawValue: request.command) {
        case .accounting: try await write(try Self.encoded(try await buffer.accounting()))
        case .stats: try await write(try Self.encoded(try await buffer.stats()))
        case .tail:
            let count = request.count ?? 10
            guard ControlLimits.tail.contains(count) else {
                throw ControlFailure(error: "count is \(count); allowed are 1 to \(ControlLimits.tail.upperBound)")
            }
            try await export(.messages(newest: count), write: write)
        case .export: try await export(.messages(newest: nil), write: write)
        case .deadLetters: try await export(.deadLetters, write: write)
        case .devices:
            guard let devices else { throw ControlFailure(error: "this daemon has no devices") }
            try await write(try Self.encoded(await devices()))
        case nil:
            let known = ControlRequest.Command.allCases.map(\.rawValue).joined(separator: ", ")
            throw ControlFailure(error: "unknown command \"\(request.command)\"; known: \(known)")
        }
    }

    private func export(_ contents: BufferContents, write: ControlHandler.Write) async throws {
        let count = try await buffer.export(contents, write: write)
        try await write(try Self.encoded(ControlEnd(end: count)))
    }

    private static func encoded(_ value: some Encodable) throws -> ByteBuffer {
        let encoder = JSONEncoder()
        encoder.outputFormatting = .sortedKeys
        var line = ByteBuffer(bytes: try encoder.encode(value))
        line.writeInteger(UInt8(ascii: "\n"))
        return line
    }
}
