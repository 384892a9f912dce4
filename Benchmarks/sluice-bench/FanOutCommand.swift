import ArgumentParser

/// One publisher, many subscribers of its topic, all at QoS 0: how many deliveries a second arrive.
struct FanOutCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "fanout",
        abstract: "Publish to many subscribers at QoS 0 and count what they receive.",
        discussion: """
            The publisher keeps --window messages ahead of what its subscribers have received on average, so that a broker \
            drops nothing for want of speed; what it drops all the same is counted as an error.
            """)

    @Option(help: "Address or name of the broker.") var host = "127.0.0.1"
    @Option(help: "Its port.") var port = 1883
    @Option(help: "Number of subscribers, 1 to 10000.") var subscribers = 100
    @Option(help: "Messages ahead of the subscribers.") var window = 64
    @Option(help: "Bytes of a payload.") var payload = 100
    @Option(help: "Seconds to measure.") var seconds = 5.0
    @Option(help: "Seconds to run before.") var warmup = 1.0
    @Option(help: "Client ids; %d is the number, 0 is the publisher's.") var id = "bench-%d"
    @Option(help: "Topic.") var topic = "devices/bench-0/data"
    @Option(help: "Folder of certificates as made by `sluice pki`; turns TLS on.") var pki: String?
    @Flag(help: "Print one line of JSON.") var json = false

    func validate() throws {
        guard (1...10_000).contains(subscribers) else {
            throw ValidationError("--subscribers is \(subscribers); allowed: 1 to 10000.")
        }
        guard (1...10_000).contains(window) else {
            throw ValidationError("--window is \(window); allowed: 1 to 10000.")
        }
        guard (0...16_384).contains(payload) else {
            throw ValidationError("--payload is \(payload); allowed: 0 to 16384.")
        }
        guard seconds > 0, warmup >= 0 else { throw ValidationError("--seconds is above 0, --warmup 0 or more.") }
    }

    func run() throws {
        let settings = FanOutSettings(
            host: host, port: port, subscribers: subscribers, window: window, payload: payload, seconds: seconds,
            warmup: warmup, id: id, topic: topic,
            tls: try TLSIdentities(pki: pki, ca: nil, certificate: nil, key: nil))
        try LoadReport.printed(json: json) { FanOut(settings, on: $0, result: $1).start() }
    }
}

struct FanOutSettings: Sendable {
    let host: String
    let port: Int
    let subscribers: Int
    let window: Int
    let payload: Int
    let seconds: Double
    let warmup: Double
    let id: String
    let topic: String
    /// `nil`: no TLS.
    let tls: TLSIdentities?
}
