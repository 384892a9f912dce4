import Buffer
import DequeModule
import Flow
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
    /// What may wait for a client that does not read; several messages at least.
    let slowReaderBytes: Int
    let metrics: GatewayMetrics

    var broker: Broker
    var output = BrokerOutput()
    var pipeline: CommitPipeline
    /// The group that the writer has now; kept whole, so that a failed commit can be given again.
    var groupInFlight: GroupInFlight?
    /// Commits that have failed since the last success.
    var failedCommits = 0
    /// Called once when the buffer's file is not trusted any more.
    var stopped: (BufferError) -> Void = { _ in }

    private(set) var connections: [MQTTConnectionHandler?] = []
    private(set) var connectionCount = 0
    private var maximumConnections: Int
    private var generations: [UInt32] = []
    private var freeSlots: [UInt32] = []
    private var touched: [MQTTConnectionHandler] = []
    private var encodings = DeliveryEncodings()

    private(set) var acceptsInput = true
    private var clock: EdgeClock
    private var random = SystemRandomNumberGenerator()
    private var isPerforming = false
    /// A connection was not read because everything together is at its bound.
    private(set) var readsAreOwed = false

    private var bufferWatch = BufferWatch()
    var lag: LoopLag
    /// What the listeners' pacers share.
    let accepting: AcceptBudget
    /// Connections whose certificate is to be judged again.
    var toJudge: Deque<ConnectionID> = []
    /// Microseconds on the monotonic clock.
    var nextSweep: Int64 = .min

    /// Microseconds from tick to tick.
    static let tickInterval: Int64 = 50_000

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
        slowReaderBytes = max(configuration.mqtt.slowReaderBytes, 4 * configuration.mqtt.maximumPacketSize)
        maximumConnections = configuration.global.connections
        self.metrics = metrics
        pipeline = CommitPipeline(spacing: Int64(configuration.buffer.commitDelay) * 1_000)
        self.clock = EdgeClock(clock, gatewayTime: buffer.gatewayTime)
        lag = LoopLag(interval: Self.tickInterval, limit: configuration.global.eventLoopLag.map { Int64($0) * 1_000 })
        accepting = AcceptBudget(rate: configuration.global.connectionsPerSecond, at: EdgeClock.monotonicTime())
        self.broker = Broker(
            configuration: BrokerConfiguration(configuration), restoring: restored, now: self.clock.now())
    }

    func now() -> BrokerTime { clock.now() }

    /// Limits, groups, access rules and synced topics from now on. Connections stay, also where there are too many.
    func reconfigure(_ configuration: EdgeConfiguration) {
        let time = EdgeClock.monotonicTime()
        maximumConnections = configuration.global.connections
        accepting.change(rate: configuration.global.connectionsPerSecond, at: time)
        lag.change(limit: configuration.global.eventLoopLag.map { Int64($0) * 1_000 })
        broker.reconfigure(BrokerConfiguration(configuration), now: now())
        cycleEnded()
    }

    /// Seconds since 1970 by which certificates are judged.
    var judgingSeconds: Int64 { buffer.judgingSeconds() }

    // MARK: connections

    /// `nil`: the cap on connections is reached.
    func register(_ handler: MQTTConnectionHandler) -> ConnectionID? {
        guard connectionCount < maximumConnections else { return nil }
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

    /// The socket is given up, and its session is told at once; the handler comes with `connectionClosed` when it is closed.
    func abandon(_ id: ConnectionID, reason: CloseReason) {
        broker.connectionClosed(id, reason: reason, now: now(), into: &output)
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
        observeLag()
        let fill = buffer.fill()
        broker.storage = fill.isFull || failedCommits > 0 ? .full : .open
        let concerns = buffer.concerns()
        bufferWatch.look(at: fill, concerns, now: EdgeClock.monotonicTime(), logger: logger)
        metrics.update(broker, connections: connectionCount, fill: fill, concerns: concerns)
        if isOverfull { broker.inputIsHeld(now: now()) } else { resumeReads() }
        broker.tick(now: now(), into: &output)
        sweep()
        cycleEnded()
    }

    private func observeLag() {
        let (late, change) = lag.tick(at: EdgeClock.monotonicTime())
        metrics.ticked(lag: late, isOverloaded: lag.isOverloaded)
        guard change != .none else { return }
        broker.isOverloaded = lag.isOverloaded
        accepting.isOverloaded = lag.isOverloaded
        let seconds = Double(lag.worst) / 1e6
        if change == .began {
            logger.warning(
                "The event loop is late: new clients are refused until it has caught up.", [.seconds: "\(seconds)"])
        } else {
            logger.notice("The event loop has caught up: new clients are welcome.", [.seconds: "\(seconds)"])
        }
    }

    /// In their order, also where performing one leads to others: those come after.
    func performActions() {
        guard !output.actions.isEmpty, !isPerforming else { return }
        isPerforming = true
        defer { isPerforming = false }
        var actions: [BrokerAction] = []
        while !output.actions.isEmpty {
            swap(&actions, &output.actions)
            output.deliveredBytes = 0
            for action in actions { perform(action) }
            actions.removeAll(keepingCapacity: true)
        }
        encodings.forget()
        swap(&actions, &output.actions)
    }

    private func perform(_ action: BrokerAction) {
        switch action {
        case .acknowledge(let id, let kind, let packetID):
            handler(id)?.acknowledge(kind, packetID: packetID)
        case .send(let id, let packet):
            handler(id)?.send(packet)
        case .deliver(let id, let delivery):
            handler(id)?.deliver(delivery, at: now().gateway, encodings: &encodings)
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

    // MARK: the bound of all that waits

    /// True while the open group and what is held for it are at their common bound: no socket is read until the writer has
    /// caught up. The broker's own bounds are far below; this one holds whatever the clients send.
    var isOverfull: Bool {
        let limits = broker.configuration
        return output.group.byteCount + broker.heldBytes
            > 2 * (limits.openGroupBytesMaximum + limits.allHeldBytesMaximum)
            || output.group.entryCount > 2 * limits.openGroupEntriesMaximum
    }

    /// - Returns: whether a connection may read now; if not, it is told when it may.
    func mayRead() -> Bool {
        guard acceptsInput else { return false }
        if isOverfull { readsAreOwed = true }
        return !readsAreOwed
    }

    /// The writer has taken the open group.
    func letInputGoOn() {
        broker.groupTaken(now: now(), into: &output)
        cycleEnded()
        resumeReads()
    }

    private func resumeReads() {
        guard readsAreOwed, acceptsInput, !isOverfull else { return }
        readsAreOwed = false
        forEachConnection { $0.readOn() }
    }

    func stopInput() {
        acceptsInput = false
    }
}
