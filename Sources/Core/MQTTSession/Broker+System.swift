import MQTTWire
import NIOCore

/// The server's own topics, `$SYS/broker/…`: what it counts, for whoever may subscribe to it. Nobody may publish there.
///
/// The names are those that the tools of other servers know. The messages are kept like retained ones, in memory alone, are
/// always of QoS 0, and never go to the uplink.
extension Broker {
    /// Tells what has changed since the last time.
    mutating func publishSystemTopics(now: BrokerTime, into output: inout BrokerOutput) {
        for (name, value) in systemValues(now) {
            let topic = ByteBuffer(string: "$SYS/broker/" + name)
            let payload = ByteBuffer(string: value)
            guard system[topic]?.message.payload != payload else { continue }
            let message = RoutedMessage(
                topic: topic, payload: payload, applicationProperties: ByteBuffer(), expiresAt: nil)
            system.set(message, qos: .atMostOnce)
            let matches = self.matches(TopicPath.levels(of: topic), publisher: nil)
            for target in targets(of: matches, message: message, qos: .atMostOnce, retain: true, into: &output) {
                deliver(message, to: target, now: now, into: &output)
            }
        }
    }

    private func systemValues(_ now: BrokerTime) -> [(String, String)] {
        [
            ("version", "sluice-edge"),
            ("uptime", "\((now.monotonic - startedAt) / 1_000_000) seconds"),
            ("clients/connected", "\(connectionCount)"),
            ("clients/disconnected", "\(sessionIndex.count - connectionCount)"),
            ("clients/total", "\(sessionIndex.count)"),
            ("clients/expired", "\(counters.sessionsExpired)"),
            ("subscriptions/count", "\(tree.count)"),
            ("retained messages/count", "\(retained.count)"),
            ("publish/messages/received", "\(counters.received.reduce(0, +))"),
            ("publish/messages/sent", "\(counters.delivered.reduce(0, +))"),
            ("publish/messages/dropped", "\(counters.dropped.total)"),
            ("publish/messages/refused", "\(counters.refused.total)"),
            ("store/full", storage == .full ? "1" : "0"),
        ]
    }
}
