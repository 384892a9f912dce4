import MQTTSession
import MQTTWire
import NIOCore
import Testing

@testable import Gateway

/// One encoding of a message for all its receivers of a version and a QoS.
@Suite struct DeliveryEncodingTests {
    private func expiry(_ message: RoutedMessage, at wallTime: Int64) throws -> UInt32? {
        var encodings = DeliveryEncodings()
        var bytes = ByteBuffer()
        encodings.encoding(of: message, version: .v5, qos: .atMostOnce, at: wallTime).write(to: &bytes)
        var decoder = PacketDecoder(maximumPacketSize: 1 << 16)
        decoder.version = .v5
        guard case .publish(let publish)? = try decoder.next(&bytes) else {
            Issue.record("no PUBLISH")
            return nil
        }
        return publish.messageExpiry
    }

    private func message(expiresAt: Int64?) -> RoutedMessage {
        RoutedMessage(
            topic: ByteBuffer(string: "t"), payload: ByteBuffer(string: "p"), applicationProperties: ByteBuffer(),
            expiresAt: expiresAt)
    }

    /// MQTT-3.3.2-6 (5.0): what the subscriber gets is what is left, in whole seconds, and never nothing.
    @Test func theExpiryIsCountedDown() throws {
        let arrived: Int64 = 1_700_000_000_000_000
        let lasting = message(expiresAt: arrived + 10_000_000)
        #expect(try expiry(lasting, at: arrived) == 10)
        #expect(try expiry(lasting, at: arrived + 3_000_000) == 7)
        #expect(try expiry(lasting, at: arrived + 9_999_999) == 1)
        #expect(try expiry(message(expiresAt: nil), at: arrived) == nil)
    }
}
