import MQTTWire
import NIOCore

@testable import MQTTSession

/// A client of the model-based tests: it keeps to the standard, answers late or never, and remembers what it got.
final class ModelClient {
    struct Pending {
        var topic: String
        var payload: String
        var id: UInt16
        var qos: QoS
        var retain: Bool
        /// Seconds.
        var expiry: UInt32?
        /// QoS 2: PUBREC has come.
        var isReleased = false
    }

    struct Received: Hashable {
        var topic: String
        var payload: String
        var form: ReferenceModel.Owed.Form
    }

    let clientID: String
    let version: ProtocolVersion
    /// Two slots, so that a connection can take the session over from the other.
    private let slots: [UInt32]
    private var lastSlot = 0
    /// Of the connection; `nil` without one.
    var slot: UInt32?
    /// CONNACK has come.
    var isConnected = false
    /// It asked for a clean start and has no CONNACK: it asks again.
    var insistsOnCleanStart = false
    /// What CONNACK must say.
    var expectsSession = false
    /// The model's number of the session that it is connected to.
    var instance = 0

    // As a sender
    var pending: [Pending] = []
    private var nextID: UInt16 = 0

    // As a receiver
    /// QoS 2 ids between PUBLISH and PUBREL.
    var known: Set<UInt16> = []
    var lastByID: [UInt16: Received] = [:]
    /// Answers that are not sent yet.
    var unanswered: [Packet] = []

    init(_ index: UInt32) {
        clientID = "c\(index)"
        version = index % 2 == 0 ? .v5 : .v311
        slots = [2 * index, 2 * index + 1]
    }

    func owns(_ slot: UInt32) -> Bool { slots.contains(slot) }

    func nextSlot() -> UInt32 {
        lastSlot = 1 - lastSlot
        return slots[lastSlot]
    }

    func newID() -> UInt16 {
        repeat { nextID = nextID % 12 + 1 } while pending.contains { $0.id == nextID }
        return nextID
    }

    /// Seconds for which the session outlives its connection, as far as the client knows; `nil` for ever.
    private var expiry: Int64?
    private var wanted: Int64?
    /// When the session is over, in microseconds, and the daemon's life in which that was known.
    private var end: (time: Int64, life: Int)?

    /// A CONNECT has no CONNACK: which expiry holds is not known.
    private var isUnsure = false

    func asks(expiry: Int64?) {
        wanted = expiry
        isUnsure = true
    }

    /// CONNACK, or a DISCONNECT that says otherwise.
    func agrees(on expiry: Int64?) { self.expiry = expiry }

    func agreesOnWhatItAsked() {
        expiry = wanted
        isUnsure = false
    }

    /// Before CONNECT: a session whose time is over is over for the client too, whether or not it is told. A daemon that
    /// has crashed counts from its start, and one whose CONNACK was lost from another end: it may have the session still,
    /// which has to be ended then.
    ///
    /// Nor can it know what became of a session whose expiry it asked to change, without an answer.
    func expire(now: Int64, life: Int) {
        if isUnsure, wanted != expiry { insistsOnCleanStart = true }
        guard let end, end.time <= now else { return }
        forget()
        if end.life != life || isUnsure { insistsOnCleanStart = true }
    }

    /// The connection is gone; the session may stay.
    func lose(now: Int64, life: Int) {
        if isConnected { end = expiry.map { (now + $0 * 1_000_000, life) } }
        slot = nil
        isConnected = false
        unanswered = []
    }

    /// The session is gone.
    func forget() {
        pending = []
        known = []
        lastByID = [:]
    }
}

extension Seen {
    /// Of the connection that it is for.
    var slot: UInt32 {
        switch self {
        case .send(let slot, _), .ack(let slot, _, _), .deliver(let slot, _, _, _, _, _, _, _), .close(let slot, _),
            .pause(let slot), .resume(let slot):
            slot
        }
    }
}
