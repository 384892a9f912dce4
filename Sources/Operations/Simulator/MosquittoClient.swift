import CMosquitto
import Glibc
import Synchronization

/// One libmosquitto handle. It lives on one thread: libmosquitto's callbacks run inside `read`, `write` and `tick`, and
/// what they tell is gathered in `events` until the caller takes it.
final class MosquittoClient {
    enum Event: Equatable {
        /// CONNACK.
        case connected(reason: Int32, isResumed: Bool)
        case answered(packetID: Int32, reason: UInt8)
        /// The server's DISCONNECT, or the end of the connection.
        case disconnected(reason: Int32)
    }

    struct Failure: Error {
        let code: Int32
        let call: String

        var reason: String {
            code == Int32(MOSQ_ERR_ERRNO.rawValue)
                ? String(cString: strerror(errno)) : String(cString: mosquitto_strerror(code))
        }
    }

    /// `mosquitto_lib_init` is not safe on two threads at once; a static is made once.
    private static let libraryStarted: Void = { _ = mosquitto_lib_init() }()

    /// Whether a connection was made. libmosquitto 2.0 sets OpenSSL up inside the first, guarded by a plain flag, and two threads
    /// there at once leave handles whose certificates it cannot check: so until then there is one at a time.
    private static let hasSetUp = Mutex(false)

    /// Its session outlives connections, without which a QoS 2 exchange that was cut in two could not be completed.
    private let session: OpaquePointer
    /// Before the first connection: connects once with a clean start. An earlier process may have left a session under this
    /// id, which knows its packet ids, and this one's begin at 1 again: the server would rightly take new messages for repeats.
    /// A handle cannot change its clean start, so this is one of its own.
    private var opener: OpaquePointer?
    private var hasOpened = false
    private let host: String
    private let port: Int32
    private let keepAlive: Int32
    private let version: SimulationPlan.Version
    private var hasConnected = false
    private(set) var events: [Event] = []

    init(device: String, plan: SimulationPlan) throws(SimulationError) {
        _ = Self.libraryStarted
        session = try Self.handle(device: device, cleanStart: false)
        opener = try Self.handle(device: device, cleanStart: true)
        host = plan.host
        port = Int32(plan.port)
        keepAlive = Int32(plan.keepAlive)
        version = plan.version
        for handle in [session, opener].compactMap({ $0 }) {
            // The handle does not own its client: it is destroyed in deinit at the latest, after which no callback comes.
            mosquitto_user_data_set(handle, Unmanaged.passUnretained(self).toOpaque())
            setCallbacks(of: handle)
            try configure(handle, device: device, plan: plan)
        }
    }

    deinit {
        mosquitto_destroy(session)
        if let opener { mosquitto_destroy(opener) }
    }

    private static func handle(device: String, cleanStart: Bool) throws(SimulationError) -> OpaquePointer {
        guard let handle = mosquitto_new(device, cleanStart, nil) else {
            throw .library(device: device, call: "mosquitto_new", reason: String(cString: strerror(errno)))
        }
        return handle
    }

    /// The one that is connected or to be connected.
    private var handle: OpaquePointer { opener ?? session }

    private func setCallbacks(of handle: OpaquePointer) {
        mosquitto_connect_with_flags_callback_set(handle) { handle, client, reason, flags in
            guard let client = MosquittoClient.of(client) else { return }
            if reason == 0, handle == client.opener {
                client.hasOpened = true
            } else {
                client.events.append(.connected(reason: reason, isResumed: flags & 1 == 1))
            }
        }
        mosquitto_publish_v5_callback_set(handle) { _, client, packetID, reason, _ in
            MosquittoClient.of(client)?.events
                .append(.answered(packetID: packetID, reason: UInt8(truncatingIfNeeded: reason)))
        }
        mosquitto_disconnect_callback_set(handle) { _, client, reason in
            MosquittoClient.of(client)?.events.append(.disconnected(reason: reason))
        }
    }

    private static func of(_ pointer: UnsafeMutableRawPointer?) -> MosquittoClient? {
        pointer.map { Unmanaged<MosquittoClient>.fromOpaque($0).takeUnretainedValue() }
    }

    private func configure(_ handle: OpaquePointer, device: String, plan: SimulationPlan) throws(SimulationError) {
        func check(_ code: Int32, _ call: String) throws(SimulationError) {
            guard code == 0 else {
                throw .library(device: device, call: call, reason: String(cString: mosquitto_strerror(code)))
            }
        }
        let protocolVersion = plan.version == .v5 ? MQTT_PROTOCOL_V5 : MQTT_PROTOCOL_V311
        try check(mosquitto_int_option(handle, MOSQ_OPT_PROTOCOL_VERSION, protocolVersion), "the protocol's version")
        try check(mosquitto_int_option(handle, MOSQ_OPT_SEND_MAXIMUM, Int32(plan.inFlight)), "the in-flight limit")
        try check(mosquitto_int_option(handle, MOSQ_OPT_TCP_NODELAY, 1), "TCP_NODELAY")
        guard plan.pki != nil else { return }
        let certificate = plan.certificate(ofDevice: device)
        let key = plan.key(ofDevice: device)
        for path in [plan.authority, certificate, key] where access(path, R_OK) != 0 {
            throw .credentials(device: device, path: path, reason: String(cString: strerror(errno)))
        }
        try check(mosquitto_tls_set(handle, plan.authority, nil, certificate, key, nil), "mosquitto_tls_set")
    }

    /// Opens the connection and sends CONNECT; its answer is an event. The TCP connection is made before this returns
    /// (libmosquitto has no other way that carries MQTT 5's properties), the TLS handshake is not.
    func connect() throws(Failure) {
        events.removeAll(keepingCapacity: true)
        let code = hasConnected ? mosquitto_reconnect(session) : connectFirst()
        guard code == 0 else { throw Failure(code: code, call: "connect") }
    }

    private func connectFirst() -> Int32 {
        var properties: OpaquePointer?
        defer { mosquitto_property_free_all(&properties) }
        if version == .v5, opener == nil {
            // Seconds that the session outlives a connection. Without this property MQTT 5 ends it at once.
            let code = mosquitto_property_add_int32(
                &properties, Int32(MQTT_PROP_SESSION_EXPIRY_INTERVAL.rawValue), 3600)
            guard code == 0 else { return code }
        }
        let code =
            Self.hasSetUp.withLock { hasSetUp -> Int32? in
                guard !hasSetUp else { return nil }
                let code = mosquitto_connect_bind_v5(handle, host, port, keepAlive, nil, properties)
                hasSetUp = code == 0
                return code
            } ?? mosquitto_connect_bind_v5(handle, host, port, keepAlive, nil, properties)
        // Any other failure comes after the library has kept host, port and properties, which a reconnect uses.
        hasConnected = opener == nil && code != Int32(MOSQ_ERR_INVAL.rawValue)
        return code
    }

    /// Not inside the library's callback: the handle that calls it is destroyed.
    private func followOpener() throws(Failure) {
        guard hasOpened, let opener else { return }
        self.opener = nil
        // The session has ended with this connection, or ends when the next one takes it over.
        mosquitto_disconnect(opener)
        mosquitto_destroy(opener)
        try connect()
    }

    /// −1 without a connection.
    var descriptor: Int32 { mosquitto_socket(handle) }

    var wantsWrite: Bool { mosquitto_want_write(handle) }

    func read() throws(Failure) {
        let code = mosquitto_loop_read(handle, 1)
        guard code == 0 else { throw Failure(code: code, call: "read") }
        try followOpener()
    }

    func write() throws(Failure) {
        let code = mosquitto_loop_write(handle, 1)
        guard code == 0 else { throw Failure(code: code, call: "write") }
    }

    /// Keep-alive; to be called about once a second.
    func tick() throws(Failure) {
        let code = mosquitto_loop_misc(handle)
        guard code == 0 else { throw Failure(code: code, call: "keep-alive") }
    }

    enum Publication: Equatable {
        /// The library keeps it until it is answered, over broken connections too.
        case taken(packetID: Int32)
        /// Not kept: it is neither sent now nor later.
        case rejected
    }

    func publish(topic: String, payload: [UInt8], qos: UInt8) -> Publication {
        var packetID: Int32 = 0
        let code = mosquitto_publish(handle, &packetID, topic, Int32(payload.count), payload, Int32(qos), false)
        // A failure of the connection is found by `read`; the message is in the library's queue all the same.
        let kept = [MOSQ_ERR_SUCCESS, MOSQ_ERR_ERRNO, MOSQ_ERR_CONN_LOST, MOSQ_ERR_NO_CONN].map { Int32($0.rawValue) }
        return kept.contains(code) ? .taken(packetID: packetID) : .rejected
    }

    func disconnect() { mosquitto_disconnect(handle) }

    func takeEvents() -> [Event] {
        defer { events.removeAll(keepingCapacity: true) }
        return events
    }

    /// What a CONNACK's or a DISCONNECT's reason means to a person.
    static func describe(connack reason: Int32, version: SimulationPlan.Version) -> String {
        let text = version == .v5 ? mosquitto_reason_string(reason) : mosquitto_connack_string(reason)
        return "CONNECT refused with reason \(reason): \(text.map { String(cString: $0) } ?? "unknown")"
    }
}
