/// What a simulation is to do.
package struct SimulationPlan: Sendable, Equatable {
    package enum Version: Int, Sendable, CaseIterable {
        /// MQTT 3.1.1, whose protocol level is 4.
        case v4 = 4
        case v5 = 5
    }

    package enum Quality: String, Sendable, CaseIterable {
        case zero = "0"
        case one = "1"
        case two = "2"
        /// Devices with an odd number use QoS 1, those with an even number QoS 2.
        case mixed

        /// - Parameter number: the device's, from 1.
        package func level(ofDevice number: Int) -> UInt8 {
            switch self {
            case .zero: 0
            case .one: 1
            case .two: 2
            case .mixed: number % 2 == 1 ? 1 : 2
            }
        }
    }

    package var host: String
    package var port: Int
    /// Folder with `ca.crt` and `devices/ID.{crt,key}`; nil: plaintext.
    package var pki: String?
    package var devices: [String]
    /// Messages a second of each device, above 0.
    package var rate: Double
    package var quality: Quality
    package var version: Version
    /// How long to publish.
    package var seconds: Double
    /// How long to wait afterwards for acknowledgements that are outstanding.
    package var drainSeconds: Double = 30
    package var journal: String
    /// Unacknowledged messages that a device allows itself.
    package var inFlight = 20
    /// Seconds; libmosquitto accepts 5 and above.
    package var keepAlive = 15

    package init(
        host: String, port: Int, pki: String?, devices: [String], rate: Double, quality: Quality, version: Version,
        seconds: Double, journal: String
    ) {
        self.host = host
        self.port = port
        self.pki = pki
        self.devices = devices
        self.rate = rate
        self.quality = quality
        self.version = version
        self.seconds = seconds
        self.journal = journal
    }

    /// Ids `PREFIX-0001` and so on.
    package static func deviceIDs(prefix: String, count: Int) -> [String] {
        guard count > 0 else { return [] }
        return (1...count).map { number in
            let digits = String(number)
            return "\(prefix)-\(String(repeating: "0", count: max(0, 4 - digits.count)))\(digits)"
        }
    }

    package static func topic(ofDevice id: String) -> String { "devices/\(id)/telemetry" }

    func certificate(ofDevice id: String) -> String { "\(pki ?? ".")/devices/\(id).crt" }
    func key(ofDevice id: String) -> String { "\(pki ?? ".")/devices/\(id).key" }
    var authority: String { "\(pki ?? ".")/ca.crt" }
}

package struct SimulationCounts: Sendable, Equatable, Codable {
    package var devices = 0
    /// Devices whose CONNECT is accepted at the moment.
    package var connected = 0
    package var published = 0
    package var acknowledged = 0
    package var refused = 0
    package var resent = 0
    /// Accepted CONNECTs of a device after its first.
    package var reconnects = 0
    /// Readings that were not published, because the device was offline or had all it may in flight.
    package var heldBack = 0
    /// QoS 1 and 2 messages with no answer yet.
    package var outstanding = 0
    /// The last reason for which a connection could not be had or was lost.
    package var lastFailure: String?

    package init() {}

    package static func + (left: SimulationCounts, right: SimulationCounts) -> SimulationCounts {
        var sum = left
        sum.devices += right.devices
        sum.connected += right.connected
        sum.published += right.published
        sum.acknowledged += right.acknowledged
        sum.refused += right.refused
        sum.resent += right.resent
        sum.reconnects += right.reconnects
        sum.heldBack += right.heldBack
        sum.outstanding += right.outstanding
        sum.lastFailure = right.lastFailure ?? left.lastFailure
        return sum
    }
}

package enum SimulationError: Error, Equatable, CustomStringConvertible {
    case journal(path: String, reason: String)
    case credentials(device: String, path: String, reason: String)
    case plan(String)
    case library(device: String, call: String, reason: String)
    case thread(reason: String)

    package var description: String {
        switch self {
        case .journal(let path, let reason):
            "the journal \(path) cannot be written: \(reason); no message is sent that it does not hold"
        case .credentials(let device, let path, let reason):
            "device \(device): \(path) cannot be read (\(reason)); make it with `sluice pki device \(device)`"
        case .plan(let text):
            text
        case .library(let device, let call, let reason):
            "device \(device): \(call) failed: \(reason)"
        case .thread(let reason):
            "no thread can be started for the devices: \(reason); raise the limit of processes, or simulate fewer devices"
        }
    }
}
