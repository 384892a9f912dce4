import MQTTSession
import MQTTWire
import NIOCore

/// The encoding of the last routed message per protocol version and QoS, so that a message to many subscribers is encoded
/// once for each kind of them.
struct DeliveryEncodings {
    private var message: RoutedMessage?
    private var encodings: [EncodedPublish?] = Array(repeating: nil, count: 6)

    /// - Parameter gatewayTime: now, by the gateway's own time; what is left of the message's expiry counts from it.
    mutating func encoding(
        of message: RoutedMessage, version: ProtocolVersion, qos: QoS, at gatewayTime: Int64
    ) -> EncodedPublish {
        if self.message !== message {
            forget()
            self.message = message
        }
        let index = Int(qos.rawValue) + (version == .v5 ? 3 : 0)
        if let known = encodings[index] { return known }
        let publish = Publish(
            topic: message.topic, payload: message.payload, messageExpiry: message.remainingExpiry(at: gatewayTime),
            applicationProperties: message.applicationProperties)
        let made = EncodedPublish(publish, version: version, qos: qos)
        encodings[index] = made
        return made
    }

    /// Lets go of the message's storage.
    mutating func forget() {
        guard message != nil else { return }
        message = nil
        for index in encodings.indices { encodings[index] = nil }
    }
}
