import ArgumentParser
import MQTTWire
import NIOCore

/// A pipelining publisher against any MQTT broker. One thread, so that it leaves the machine to the broker.
struct PublishCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "publish",
        abstract:
            "Publish from many devices, each with a given number of messages in flight, and count acknowledgements.",
        discussion: """
            Every device has an id made from --id (%d is its number, from 0), which is also its client id. With --pki, \
            device certificates are DIR/devices/ID.crt and .key, as `sluice pki device` makes them, and the CA is \
            DIR/ca.crt. The window begins --warmup seconds after the last device was accepted.
            """)

    @Option(help: "Address or name of the broker.") var host = "127.0.0.1"
    @Option(help: "Its port.") var port = 1883
    @Option(help: "Number of devices, 1 to 50000.") var connections = 50
    @Option(
        help:
            "Unacknowledged messages a device, 1 to 65535. At QoS 0: messages before a PINGREQ, two such batches at once."
    )
    var inFlight = 32
    @Option(
        help:
            "Messages a second of all devices, offered at their times whatever is unanswered. Latency counts from there."
    )
    var rate: Double?
    @Flag(help: "Publish nothing: say \"ready\" when all devices are connected, and end after warm-up and --seconds.")
    var idle = false
    @Option(help: "How many devices have certificates; with more connections, several share one.") var certificates:
        Int?
    @Option(help: "Bytes of a payload.") var payload = 100
    @Flag(help: "Payloads are a JSON object with one number, and spaces up to --payload.") var number = false
    @Option(help: "0, 1 or 2.") var qos = 1
    @Option(help: "Seconds to measure.") var seconds = 5.0
    @Option(help: "Seconds to run before.") var warmup = 1.0
    @Option(help: "Device ids; %d is the number.") var id = "bench-%d"
    @Option(help: "Topic; %d is the device's id.") var topic = "devices/%d/data"
    @Option(help: "MQTT version: 4 is 3.1.1, 5 is 5.0.") var version = 4
    @Option(help: "Folder of certificates as made by `sluice pki`; turns TLS on.") var pki: String?
    @Option(help: "CA that signed the broker's certificate; turns TLS on.") var ca: String?
    @Option(help: "One certificate for all devices.") var certificate: String?
    @Option(help: "Its key.") var key: String?
    @Flag(help: "Print one line of JSON.") var json = false

    func validate() throws {
        try require((1...65_535).contains(port), "--port", port, "1 to 65535")
        try require((1...50_000).contains(connections), "--connections", connections, "1 to 50000")
        try require((1...65_535).contains(inFlight), "--in-flight", inFlight, "1 to 65535")
        try require((0...16_777_216).contains(payload), "--payload", payload, "0 to 16777216")
        try require(!number || payload >= 16, "--payload", payload, "16 or more with --number")
        try require((0...2).contains(qos), "--qos", qos, "0, 1 or 2")
        try require(seconds > 0 && seconds <= 86_400, "--seconds", seconds, "above 0, up to 86400")
        try require(warmup >= 0 && warmup <= 3_600, "--warmup", warmup, "0 to 3600")
        try require(rate.map { $0 > 0 && $0 <= 10_000_000 } ?? true, "--rate", rate ?? 0, "above 0, up to 10000000")
        try require(rate == nil || qos == 1, "--rate", rate ?? 0, "with --qos 1 alone")
        try require(certificates.map { $0 > 0 } ?? true, "--certificates", certificates ?? 0, "1 or more")
        try require(version == 4 || version == 5, "--version", version, "4 or 5")
        try require(connections == 1 || id.contains("%d"), "--id", id, "a pattern with %d, so that ids differ")
        guard (certificate == nil) == (key == nil) else {
            throw ValidationError("--certificate and --key belong together: give both or none.")
        }
    }

    private func require(_ holds: Bool, _ option: String, _ found: some Any, _ allowed: String) throws {
        guard holds else { throw ValidationError("\(option) is \(found); allowed: \(allowed).") }
    }

    func run() throws {
        let settings = LoadSettings(
            host: host, port: port, connections: connections, inFlight: inFlight, payload: payload, hasNumber: number,
            // Checked by `validate`.
            qos: QoS(rawValue: UInt8(qos)) ?? .atLeastOnce,
            version: version == 5 ? .v5 : .v311,
            seconds: seconds, warmup: warmup, id: id, topic: topic,
            tls: try TLSIdentities(pki: pki, ca: ca, certificate: certificate, key: key), rate: rate, isIdle: idle,
            certificates: certificates)
        try LoadReport.printed(json: json) { Load(settings, on: $0, result: $1).start() }
    }
}

struct LoadSettings: Sendable {
    let host: String
    let port: Int
    let connections: Int
    let inFlight: Int
    let payload: Int
    let hasNumber: Bool
    let qos: QoS
    let version: ProtocolVersion
    let seconds: Double
    let warmup: Double
    let id: String
    let topic: String
    /// `nil`: no TLS.
    let tls: TLSIdentities?
    /// Messages a second of all devices together; `nil`: as fast as they are acknowledged.
    var rate: Double?
    /// Connections are opened and nothing is published.
    var isIdle = false
    /// Certificates that there are; with more connections, several share one. `nil`: one each.
    var certificates: Int?

    func certificateID(_ number: Int) -> String { deviceID(certificates.map { number % $0 } ?? number) }
    func deviceID(_ number: Int) -> String { id.replacing("%d", with: "\(number)") }
    func topic(ofDevice id: String) -> String { topic.replacing("%d", with: id) }

    var payloadBytes: ByteBuffer {
        guard hasNumber else { return ByteBuffer(repeating: UInt8(ascii: "x"), count: payload) }
        let number = ByteBuffer(string: "{\"value\":21.5}")
        var bytes = number
        bytes.writeRepeatingByte(UInt8(ascii: " "), count: payload - number.readableBytes)
        return bytes
    }
}

struct LoadError: Error, CustomStringConvertible {
    let description: String
}
