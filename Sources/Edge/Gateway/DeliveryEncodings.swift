import MQTTSession
import MQTTWire
import NIOCore

/// The encoding of the last routed message per protocol version and QoS, so that a message to many subscribers is encoded
/// once for each kind of them.
struct DeliveryEncodings {
    private var message: RoutedMessage?
    private var encodings: [PublishEncoding?] = Array(repeating: nil, count: 6)

    mutating func encoding(of message: RoutedMessage, version: ProtocolVersion, qos: QoS) -> PublishEncoding {
        if self.message !== message {
            forget()
            self.message = message
        }
        let index = Int(qos.rawValue) + (version == .v5 ? 3 : 0)
        if let known = encodings[index] { return known }
        let made = PublishEncoding(
            topic: message.topic, payload: message.payload, applicationProperties: message.applicationProperties,
            qos: qos, version: version)
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
