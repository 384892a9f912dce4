import Buffer
import GatewaySupport
import MQTTSession
import MQTTWire
import NIOCore
import Operations
import SyncModel
import Testing

@testable import Gateway

/// The gateway on real sockets and a real buffer file, without TLS; TLS and certificates are tested end to end.
@Suite(.serialized) struct GatewayTests {
    @Test func aPubackComesAndTheMessageIsInTheBuffer() async throws {
        try await withGateway { port, buffer in
            let client = try await TestClient.connect(port: port)
            #expect(try await client.open(Connect(version: .v5, clientID: "press-1"))?.reason == .success)
            try await client.send(.publish(publish("devices/press-1/t", "21.5", id: 7)))
            #expect(try await client.next() == .puback(Acknowledgement(packetID: 7)))
            let accounting = try await buffer.accounting()
            #expect(accounting.epochs.last?.lastSequence == 1)
            #expect(accounting.bufferedMessages == 1)
            await client.close()
        }
    }

    @Test func aQoS2MessageIsStoredOnceHoweverOftenItIsSent() async throws {
        try await withGateway { port, buffer in
            let client = try await TestClient.connect(port: port)
            _ = try await client.open(Connect(version: .v5, clientID: "press-1", sessionExpiryInterval: 60))
            var message = publish("devices/press-1/t", "1", id: 3)
            message.qos = .exactlyOnce
            try await client.send(.publish(message))
            #expect(try await client.next() == .pubrec(Acknowledgement(packetID: 3)))
            message.duplicate = true
            try await client.send(.publish(message))
            #expect(try await client.next() == .pubrec(Acknowledgement(packetID: 3)))
            try await client.send(.pubrel(Acknowledgement(packetID: 3)))
            #expect(try await client.next() == .pubcomp(Acknowledgement(packetID: 3)))
            #expect(try await buffer.accounting().epochs.last?.lastSequence == 1)
            await client.close()
        }
    }

    @Test(arguments: [ProtocolVersion.v311, .v5])
    func aMessageReachesASubscriberWithItsQoS(version: ProtocolVersion) async throws {
        try await withGateway { port, _ in
            let reader = try await TestClient.connect(port: port, version: version)
            _ = try await reader.open(Connect(version: version, clientID: "reader"))
            let subscribe = Subscribe(
                packetID: 1, subscriptions: [Subscription(filter: "devices/+/t", qos: .atLeastOnce)])
            try await reader.send(.subscribe(subscribe), version: version)
            guard case .suback(let granted)? = try await reader.next() else {
                Issue.record("no SUBACK came")
                return
            }
            #expect(granted.reasons == [.grantedQoS1])
            let writer = try await TestClient.connect(port: port, version: version)
            _ = try await writer.open(Connect(version: version, clientID: "writer"))
            try await writer.send(.publish(publish("devices/writer/t", "on", id: 9)), version: version)
            guard case .publish(let received)? = try await reader.next() else {
                Issue.record("no PUBLISH came")
                return
            }
            #expect(String(buffer: received.topic) == "devices/writer/t")
            #expect(String(buffer: received.payload) == "on")
            #expect(received.qos == .atLeastOnce)
            await reader.close()
            await writer.close()
        }
    }

    @Test func manyMessagesInOneReadAreAcknowledgedInTheirOrder() async throws {
        try await withGateway { port, buffer in
            let client = try await TestClient.connect(port: port)
            _ = try await client.open(Connect(version: .v5, clientID: "press-1"))
            var bytes = ByteBuffer()
            for id in UInt16(1)...20 {
                bytes.write(.publish(publish("devices/press-1/t", "\(id)", id: id)), version: .v5)
            }
            try await client.send(bytes)
            for id in UInt16(1)...20 {
                #expect(try await client.next() == .puback(Acknowledgement(packetID: id)))
            }
            #expect(try await buffer.accounting().epochs.last?.lastSequence == 20)
            await client.close()
        }
    }

    @Test func bytesThatDripInDecodeTheSame() async throws {
        try await withGateway { port, _ in
            let client = try await TestClient.connect(port: port)
            var bytes = ByteBuffer()
            bytes.write(.connect(Connect(version: .v5, clientID: "slow")), version: .v5)
            bytes.write(.publish(publish("devices/slow/t", "drip", id: 5)), version: .v5)
            while let byte = bytes.readSlice(length: 1) { try await client.send(byte) }
            guard case .connack? = try await client.next() else {
                Issue.record("no CONNACK came")
                return
            }
            #expect(try await client.next() == .puback(Acknowledgement(packetID: 5)))
            await client.close()
        }
    }

    @Test(arguments: BadInput.all)
    func badInputEndsItsConnectionAndNoOther(input: BadInput) async throws {
        try await withGateway { port, _ in
            let neighbour = try await TestClient.connect(port: port)
            _ = try await neighbour.open(Connect(version: .v5, clientID: "neighbour"))
            let client = try await TestClient.connect(port: port)
            if input.afterConnect { _ = try await client.open(Connect(version: .v5, clientID: "bad")) }
            try await client.send(ByteBuffer(bytes: input.bytes))
            var last: Packet?
            while let packet = try await client.next() { last = packet }
            if let reason = input.disconnect {
                guard case .disconnect(let disconnect)? = last else {
                    Issue.record("\(input): closed with \(String(describing: last)), not with DISCONNECT")
                    return
                }
                #expect(disconnect.reason == reason)
            } else {
                #expect(last == nil)
            }
            try await neighbour.send(.pingreq)
            #expect(try await neighbour.next() == .pingresp)
            await neighbour.close()
        }
    }

    @Test func aConnectionWithoutConnectIsClosedInTime() async throws {
        var configuration = gatewayConfiguration()
        configuration.mqtt.connectTimeout = 1
        try await withGateway(configuration) { port, _ in
            let client = try await TestClient.connect(port: port)
            let started = ContinuousClock.now
            #expect(try await client.next() == nil)
            #expect(ContinuousClock.now - started > .milliseconds(800))
        }
    }

    @Test func shutdownAcknowledgesWhatIsCommittedAndSaysGoodbye() async throws {
        let client = try await withGateway { port, _ in
            let client = try await TestClient.connect(port: port)
            _ = try await client.open(Connect(version: .v5, clientID: "press-1"))
            try await client.send(.publish(publish("devices/press-1/t", "1", id: 1)))
            #expect(try await client.next() == .puback(Acknowledgement(packetID: 1)))
            return client
        }
        let goodbye = Disconnect(reason: .serverShuttingDown, reasonString: "the server is shutting down")
        #expect(try await client.next() == .disconnect(goodbye))
        #expect(try await client.next() == nil)
    }
}

struct BadInput: Sendable, CustomStringConvertible {
    var description: String
    var bytes: [UInt8]
    var afterConnect = true
    /// `nil`: the connection ends without a packet.
    var disconnect: ReasonCode?

    static let all: [BadInput] = [
        BadInput(description: "garbage", bytes: Array("GET / HTTP/1.1\r\n\r\n".utf8), afterConnect: false),
        BadInput(description: "a first packet that is no CONNECT", bytes: [0xC0, 0x00], afterConnect: false),
        BadInput(
            description: "a length of five bytes", bytes: [0x30, 0x80, 0x80, 0x80, 0x80, 0x01],
            disconnect: .malformedPacket),
        BadInput(
            description: "an oversized packet", bytes: [0x30, 0xFF, 0xFF, 0xFF, 0x7F], disconnect: .packetTooLarge),
        BadInput(
            description: "wrong UTF-8 in a topic", bytes: [0x30, 0x06, 0x00, 0x02, 0xC3, 0x28, 0x00, 0x78],
            disconnect: .malformedPacket),
        BadInput(
            description: "a second CONNECT",
            bytes: [0x10, 0x10, 0, 4, 0x4D, 0x51, 0x54, 0x54, 5, 2, 0, 0, 0, 0, 3, 0x62, 0x61, 0x64],
            disconnect: .protocolError),
        BadInput(description: "QoS 3", bytes: [0x36, 0x05, 0, 1, 0x61, 0, 1], disconnect: .malformedPacket),
        BadInput(description: "a packet only a server sends", bytes: [0xD0, 0x00], disconnect: .protocolError),
    ]
}

private func publish(_ topic: String, _ payload: String, id: UInt16) -> Publish {
    Publish(topic: ByteBuffer(string: topic), payload: ByteBuffer(string: payload), packetID: id, qos: .atLeastOnce)
}
