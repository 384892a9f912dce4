import MQTTWire
import NIOCore
import SyncModel

/// A publisher that keeps to the standard: with each connection it sends again what has no answer, under the same id.
struct ModelDevice {
    struct Pending {
        var number: Int
        var payload: String
        var topic: String
        var id: UInt16
        var qos: QoS
        /// QoS 2: PUBREC has come.
        var isReleased = false
    }

    static let maximumPending = 12
    /// What rules of local work take; the latter has numbers as payloads.
    static let (noise, numbers) = ("t/noise", "t/numbers")
    static let topics = ["t/low", "t/mid", "t/high"]

    let id: String
    let version: ProtocolVersion
    var connection: UInt32?
    var isOpen = false
    var pending: [Pending] = []
    private var nextID: UInt16 = 0
    var count = 0
    /// Numbers of messages that the gateway has promised.
    var promised: Set<Int> = []
    /// Sent more than once.
    var resent: Set<Int> = []
    var hasSession = false

    init(id: String, version: ProtocolVersion) {
        self.id = id
        self.version = version
    }

    /// From a narrow range, so that ids come round.
    mutating func newID() -> UInt16 {
        repeat { nextID = nextID % 20 + 1 } while pending.contains { $0.id == nextID }
        return nextID
    }

    mutating func lose() {
        connection = nil
        isOpen = false
    }

    func connect() -> Connect {
        Connect(version: version, clientID: id, cleanStart: false, sessionExpiryInterval: 500_000)
    }

    /// - Returns: the PUBREL that follows a PUBREC.
    mutating func acknowledged(_ kind: Packet, id: UInt16) -> Packet? {
        guard let index = pending.firstIndex(where: { $0.id == id }) else { return nil }
        switch kind {
        case .puback(let answer):
            guard pending[index].qos == .atLeastOnce else { return nil }
            let message = pending.remove(at: index)
            if answer.reason.rawValue < 0x80 { promised.insert(message.number) }
        case .pubrec(let answer):
            guard pending[index].qos == .exactlyOnce else { return nil }
            guard answer.reason.rawValue < 0x80 else {
                pending.remove(at: index)
                return nil
            }
            promised.insert(pending[index].number)
            pending[index].isReleased = true
            return .pubrel(Acknowledgement(packetID: id))
        case .pubcomp: pending.remove(at: index)
        default: break
        }
        return nil
    }
}

extension ModelDevice.Pending {
    func packet(isRepeat: Bool) -> Packet {
        if isReleased { return .pubrel(Acknowledgement(packetID: id)) }
        return .publish(
            Publish(
                topic: ByteBuffer(string: topic), payload: ByteBuffer(string: payload), packetID: id, qos: qos,
                duplicate: isRepeat))
    }
}
