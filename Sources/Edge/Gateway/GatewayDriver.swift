import Buffer
import Logging
import MQTTSession
import MQTTWire
import NIOCore
import Operations
import PKI
import SyncModel

/// Owns the broker, the open commit group and the table of connections.
///
/// It lives on one event loop and is touched nowhere else: handlers of the same loop hold it directly, everybody else
/// goes through `NIOLoopBound`. It decides nothing: the broker and the commit pipeline say what to do.
final class GatewayDriver {
    let eventLoop: any EventLoop
    let buffer: Buffer
    let logger: Logger
    let limits: EdgeConfiguration.MQTT
    let metrics: GatewayMetrics

    var broker: Broker
    var output = BrokerOutput()
    var pipeline = CommitPipeline()
    /// The group that the writer has now; kept whole, so that a failed commit can be given again.
    var groupInFlight: GroupInFlight?
    /// Commits that have failed since the last success.
    var failedCommits = 0
    /// Called once when the buffer's file is not trusted any more.
    var stopped: (BufferError) -> Void = { _ in }

    private(set) var connections: [MQTTConnectionHandler?] = []
    private(set) var connectionCount = 0
    private var generations: [UInt32] = []
    private var freeSlots: [UInt32] = []
    private var touched: [MQTTConnectionHandler] = []
    private var encodings = DeliveryEncodings()

    private(set) var acceptsInput = true
    private var clock: EdgeClock
    private var random = SystemRandomNumberGenerator()

    /// Encoded messages that may wait for the writer before reading stops, in bytes.
    static let maximumOpenGroupBytes = 8 * 1024 * 1024
    /// Session changes and effects likewise, in entries.
    static let maximumOpenGroupEntries = 200_000

    struct GroupInFlight {
        var drafts: [FrameDraft]
        var changes: [DurableChange]
        var effects: [CommitEffect]
    }

    init(
        eventLoop: any EventLoop, buffer: Buffer, restored: RestoredState, configuration: EdgeConfiguration,
        clock: SystemClock, metrics: GatewayMetrics, logger: Logger
    ) {
        self.eventLoop = eventLoop
        self.buffer = buffer
        self.logger = logger
        self.limits = configuration.mqtt
        self.metrics = metrics
        self.clock = EdgeClock(clock)
        self.broker = Broker(
            configuration: BrokerConfiguration(configuration), restoring: restored, now: self.clock.now())
    }

    func now() -> BrokerTime { clock.now() }

    // MARK: connections

    /// `nil`: the cap on connections is reached.
    func register(_ handler: MQTTConnectionHandler, maximum: Int) -> ConnectionID? {
        guard connectionCount < maximum else { return nil }
        connectionCount += 1
        if let slot = freeSlots.popLast() {
            connections[Int(slot)] = handler
            return ConnectionID(slot: slot, generation: generations[Int(slot)])
        }
        let slot = UInt32(connections.count)
        connections.append(handler)
        generations.append(1)
        return ConnectionID(slot: slot, generation: 1)
    }

    func unregister(_ id: ConnectionID) {
        guard handler(id) != nil else { return }
        connections[Int(id.slot)] = nil
        generations[Int(id.slot)] &+= 1
        freeSlots.append(id.slot)
        connectionCount -= 1
    }

    func handler(_ id: ConnectionID) -> MQTTConnectionHandler? {
        let slot = Int(id.slot)
        guard slot < connections.count, generations[slot] == id.generation else { return nil }
        return connections[slot]
    }

    func forEachConnection(_ body: (MQTTConnectionHandler) -> Void) {
        for case let handler? in connections { body(handler) }
    }

    // MARK: events of a connection

    func connect(_ packet: Connect, on id: ConnectionID, identity: ClientIdentity) {
        broker.connect(
            packet, on: id, identity: identity, assignedClientID: assignedClientID(), now: now(), into: &output)
    }

    func received(_ packet: Packet, on id: ConnectionID, at now: BrokerTime) {
        if case .publish(let publish) = packet {
            broker.publish(publish, on: id, now: now, into: &output)
        } else {
            broker.receive(packet, on: id, now: now, into: &output)
        }
    }

    func refuse(_ id: ConnectionID, reason: CloseReason) {
        broker.refuse(id, reason: reason, now: now(), into: &output)
    }

    func writabilityChanged(_ id: ConnectionID, isWritable: Bool) {
        broker.writabilityChanged(id, isWritable: isWritable, now: now(), into: &output)
        cycleEnded()
    }

    func connectionClosed(_ id: ConnectionID, reason: CloseReason) {
        broker.connectionClosed(id, reason: reason, now: now(), into: &output)
        unregister(id)
        cycleEnded()
    }

    /// 128 random bits, for clients that leave their id to the server (MQTT-3.1.3-6).
    private func assignedClientID() -> String {
        Epoch.random(using: &random).hexadecimal
    }

    // MARK: cycle

    /// Does what the broker decided and sends what was written; called at the end of each batch of input.
    func cycleEnded() {
        performActions()
        flushTouched()
        offerGroup()
    }

    func tick() {
        clock.refreshSynchronisation()
        let fill = buffer.fill()
        broker.storage = fill.isFull || failedCommits > 0 ? .full : .open
        metrics.update(counters: broker.counters, connections: connectionCount, fill: fill)
        if isSaturated { broker.inputIsHeld(now: now()) }
        broker.tick(now: now(), into: &output)
        cycleEnded()
    }

    func performActions() {
        guard !output.actions.isEmpty else { return }
        var actions: [BrokerAction] = []
        swap(&actions, &output.actions)
        for action in actions { perform(action) }
        encodings.forget()
        actions.removeAll(keepingCapacity: true)
        if output.actions.isEmpty { swap(&actions, &output.actions) }
    }

    private func perform(_ action: BrokerAction) {
        switch action {
        case .acknowledge(let id, let kind, let packetID):
            handler(id)?.acknowledge(kind, packetID: packetID)
        case .send(let id, let packet):
            handler(id)?.send(packet)
        case .deliver(let id, let delivery):
            handler(id)?.deliver(delivery, at: now().clock.wallTime, encodings: &encodings)
        case .close(let id, let reason):
            handler(id)?.close(reason)
        case .pauseReading(let id):
            handler(id)?.setPaused(true)
        case .resumeReading(let id):
            handler(id)?.setPaused(false)
        }
    }

    func touch(_ handler: MQTTConnectionHandler) { touched.append(handler) }

    func flushTouched() {
        guard !touched.isEmpty else { return }
        var handlers: [MQTTConnectionHandler] = []
        swap(&handlers, &touched)
        for handler in handlers { handler.flush() }
        handlers.removeAll(keepingCapacity: true)
        if touched.isEmpty { swap(&handlers, &touched) }
    }

    // MARK: saturation

    /// True while the open group is at its bound: connections stop decoding and reading until the writer has caught up.
    var isSaturated: Bool {
        output.group.frames.byteCount > Self.maximumOpenGroupBytes
            || output.group.changes.count + output.group.effects.count > Self.maximumOpenGroupEntries
    }

    func stopInput() {
        acceptsInput = false
    }

    func resumeInput() {
        guard acceptsInput, !isSaturated else { return }
        forEachConnection { $0.resumeIfSaturated() }
    }
}
