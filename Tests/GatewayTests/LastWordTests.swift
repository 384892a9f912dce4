import Foundation
import GatewaySupport
import MQTTSession
import MQTTWire
import NIOCore
import Testing

@testable import Gateway

/// A blocking socket that reads only when it is told to, as a small device does.
private final class PlainSocket {
    private let descriptor: Int32

    init(port: Int) throws {
        descriptor = socket(AF_INET, Int32(SOCK_STREAM.rawValue), 0)
        var address = sockaddr_in()
        address.sin_family = sa_family_t(AF_INET)
        address.sin_port = in_port_t(UInt16(port).bigEndian)
        address.sin_addr.s_addr = inet_addr("127.0.0.1")
        let code = withUnsafePointer(to: &address) {
            $0.withMemoryRebound(to: sockaddr.self, capacity: 1) {
                Glibc.connect(descriptor, $0, socklen_t(MemoryLayout<sockaddr_in>.size))
            }
        }
        try #require(code == 0)
        var timeout = timeval(tv_sec: 10, tv_usec: 0)
        setsockopt(descriptor, SOL_SOCKET, SO_RCVTIMEO, &timeout, socklen_t(MemoryLayout<timeval>.size))
    }

    deinit { Glibc.close(descriptor) }

    /// - Returns: false when the connection is reset. MSG_NOSIGNAL: a broken pipe is an answer here, not an end.
    @discardableResult
    func send(_ packet: Packet, version: ProtocolVersion) -> Bool {
        var bytes = ByteBuffer()
        bytes.write(packet, version: version)
        return bytes.withUnsafeReadableBytes {
            Glibc.send(descriptor, $0.baseAddress, $0.count, Int32(MSG_NOSIGNAL))
        } > 0
    }

    func readToEnd() -> ByteBuffer {
        var all = ByteBuffer()
        var chunk = [UInt8](repeating: 0, count: 4096)
        while true {
            let count = recv(descriptor, &chunk, chunk.count, 0)
            guard count > 0 else { return all }
            all.writeBytes(chunk[..<count])
        }
    }
}

@Suite(.serialized) struct LastWordTests {
    /// Does a client that goes on sending, and reads only then, still learn why it was disconnected?
    @Test func theDisconnectIsReadAfterMoreWasSent() async throws {
        try await withRunningGateway(openConfiguration()) { gateway in
            let socket = try PlainSocket(port: gateway.port)
            socket.send(.connect(Connect(version: .v5, clientID: "c")), version: .v5)
            // What only a server sends.
            socket.send(.pingresp, version: .v5)
            try await eventually("the broker has ended it") {
                try await gateway.look { $0.broker.connections.isEmpty && $0.broker.counters.connectionsAccepted == 1 }
            }
            try await Task.sleep(for: .milliseconds(50))
            for _ in 0..<3 {
                #expect(socket.send(.pingreq, version: .v5), "the connection was reset")
                try await Task.sleep(for: .milliseconds(20))
            }
            var received = socket.readToEnd()
            var decoder = PacketDecoder(maximumPacketSize: 1 << 16)
            decoder.version = .v5
            _ = try decoder.next(&received)
            guard case .disconnect(let disconnect)? = try decoder.next(&received) else {
                Issue.record("no DISCONNECT came")
                return
            }
            #expect(disconnect.reason == .protocolError)
            #expect(received.readableBytes == 0)
        }
    }

    /// Is a client that never closes its side gone all the same?
    @Test func whoDoesNotCloseIsClosed() async throws {
        try await withRunningGateway(openConfiguration()) { gateway in
            let socket = try PlainSocket(port: gateway.port)
            socket.send(.connect(Connect(version: .v311, clientID: "c")), version: .v311)
            socket.send(.pingresp, version: .v311)
            try await eventually("the slot is free", within: .seconds(4)) {
                try await gateway.look { $0.broker.counters.connectionsAccepted == 1 && $0.connectionCount == 0 }
            }
            #expect(gateway.closed(.protocolError) == 1)
            _ = socket.readToEnd()
        }
    }
}
