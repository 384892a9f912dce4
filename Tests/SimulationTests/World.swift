import Flow
import Logging
import MQTTSession
import MQTTWire
import NIOCore
import Operations
import SyncModel

@testable import Buffer

/// One run: the edge's real parts in one thread, under virtual time, with everything around them made of models. A seed
/// decides all of it.
final class World {
    enum Event {
        case start, synchronise
        case connect(Int), publish(Int)
        case tick
        case handOver, pipelineTimer
        case commit, committed(Result<CommitReceipt, BufferError>)
        case idleTurn(Int)
        case ask(UplinkState.Action), tell(UplinkState.Event), uplinkTimer
        case arrive(ByteBuffer, request: Int, life: Int), answer(Int, status: Int, retryAfter: Int64?)
        case timeout(Int)
        case process
    }

    let seed: UInt64
    var plan: Plan
    let bug: PlantedBug?
    let clock = ModelClock()
    let disk: SimulatedDisk
    let vfs: DiskVFS
    var random: SplitMix64
    var queue = EventQueue<Event>()
    var edge: Edge?
    /// Runs of the daemon, those that failed to start among them.
    var life = 0
    var devices: [ModelDevice]
    var generations: [UInt32]
    var cloud: ModelCloud
    var cloudIsBackAt: Int64 = 0
    var requests = 0
    var trace = Trace()
    var truth = Truth()
    /// Something beside power cuts and kills has happened to what was durable.
    var isDamaged = false
    /// The same of the log.
    var hasRottenLog = false
    var salvages = 0
    /// The running daemon has the plan's rules.
    var hasRules = false
    /// A time server was wrong by years, so that sessions may end as if the gateway had been off for so long.
    var hasBelievedWrongTime = false
    var kills = 0
    var isFaulty = true
    var hasPlanted = false
    /// As `run` has found them.
    var problems: [String] = []

    static let gateway = "plant-7"
    private static let quiet = Logger(label: "simulation") { _ in SwiftLogNoOpLogHandler() }

    init(seed: UInt64, plan: Plan, bug: PlantedBug? = nil, directory: String, empty: EmptyFiles? = nil) {
        self.seed = seed
        self.plan = plan
        self.bug = bug
        random = SplitMix64(seed: seed &+ 0x5eed)
        disk = SimulatedDisk(directory: directory, seed: seed &+ 0xd15c)
        if !plan.beginsEmpty, let file = empty?.bytes[plan.buffer.pageSize] {
            SimulatedDisk.write(file, to: directory + "/buffer.db")
        }
        vfs = DiskVFS(disk, name: "simulated-\(directory)")
        disk.faults = .init(write: plan.disk.write, sync: plan.disk.sync, read: plan.disk.read)
        disk.budget = plan.disk.budget == 0 ? nil : plan.disk.budget
        truth.hasStandIns = !plan.rules.isEmpty
        cloud = ModelCloud(gateway: Self.gateway, bug: bug)
        devices = (0..<plan.devices).map { ModelDevice(id: "d\($0)", version: $0 % 2 == 0 ? .v311 : .v5) }
        generations = devices.map { _ in 0 }
    }

    // MARK: Chance and time

    func chance(_ perThousand: Int) -> Bool {
        isFaulty && perThousand > 0 && Int.random(in: 0..<1_000, using: &random) < perThousand
    }

    func within(_ time: Int64) -> Int64 { Int64.random(in: 0...max(0, time), using: &random) }

    /// - Parameter isOfEdge: void when the daemon ends before.
    func after(_ delay: Int64, _ event: Event, isOfEdge: Bool = true) {
        queue.add(event, at: clock.now + delay, life: isOfEdge ? life : nil)
    }

    // MARK: The run

    /// - Returns: what is wrong at its end.
    func run() -> [String] {
        after(0, .start)
        for index in devices.indices { after(within(plan.pause), .publish(index), isOfEdge: false) }
        while clock.now < plan.duration, step() {}
        endFaults()
        var steps = 0
        while steps % 16 != 0 || !isQuiet, steps < 60_000, step() { steps += 1 }
        var problems = cloud.problems + truth.problems
        if isQuiet {
            problems += findings()
        } else {
            problems.append("it does not come to an end: \(unrest)")
        }
        edge?.store.close()
        edge = nil
        return problems
    }

    private func step() -> Bool {
        guard let item = queue.next() else { return false }
        clock.advance(to: item.time)
        if let life = item.life, life != self.life { return true }
        if edge != nil, chance(plan.powerCut) {
            cutPower()
            // What happens elsewhere happens all the same.
            if item.life == nil { handle(item.event) }
            return true
        }
        if edge != nil, chance(plan.kill) {
            kill()
            if item.life == nil { handle(item.event) }
            return true
        }
        if chance(plan.clockStep) { stepClock() }
        handle(item.event)
        if disk.isDead { cutPower() }
        return true
    }

    private func handle(_ event: Event) {
        switch event {
        case .start: start()
        case .synchronise: clock.synchronise()
        case .connect(let index): connect(index)
        case .publish(let index): publish(index)
        case .process: process()
        case .arrive(let bytes, let request, let life): arrive(bytes, request: request, life: life)
        default:
            guard let edge else { return }
            handle(event, edge)
        }
    }

    private func handle(_ event: Event, _ edge: Edge) {
        switch event {
        case .tick: tick(edge)
        case .handOver: apply(edge.pipeline.cycleEnded(now: clock.monotonic), edge)
        case .pipelineTimer: apply(edge.pipeline.timer(now: clock.monotonic), edge)
        case .commit: commit(edge)
        case .committed(let result): committed(result, edge)
        case .idleTurn(let turn):
            guard turn == edge.idleTurn else { return }
            writerTurn(.idle, edge)
            lookForStandIns(edge)
        case .ask(let action): ask(action, edge)
        case .tell(let event): tell(event, edge)
        case .uplinkTimer:
            if clock.monotonic >= edge.wakesAt {
                edge.wakesAt = .max
                tell(.timer, edge)
            }
        case .answer(let request, let status, let retryAfter):
            answered(request, status: status, retryAfter: retryAfter, edge)
        case .timeout(let request): timedOut(request, edge)
        default: break
        }
    }

    // MARK: Starts and ends

    private func configuration() -> Buffer.Configuration {
        var configuration = Buffer.Configuration(path: disk.directory + "/buffer.db", gatewayID: Self.gateway)
        configuration.vfs = vfs.name
        configuration.clock = clock.system()
        configuration.space = disk.space
        configuration.readPause = 0
        configuration.freeDiskFloor = Double(plan.disk.floor)
        configuration.reserveBytes = plan.disk.reserve
        configuration.beforeFileChange = { [disk] () throws(BufferError) in try disk.changes() }
        configuration.localRules = hasRules ? plan.rules : []
        configuration.pageSize = plan.buffer.pageSize
        configuration.maximumBytes = plan.buffer.maximumBytes
        configuration.dropsOldest = plan.buffer.dropsOldest
        configuration.maximumAge = plan.buffer.maximumAge
        configuration.checkpointPages = plan.buffer.checkpointPages
        configuration.idleCheckpointPages = plan.buffer.checkpointPages / 4
        configuration.deletionSlice = (bytes: 4_096, frames: 16)
        configuration.readSlice = 2_000
        configuration.keptFreeBytes = 16_384
        configuration.cacheBytes = 256 * 1_024
        return configuration
    }

    private func start() {
        guard edge == nil else { return }
        life += 1
        disk.callsUntilCut =
            plan.callsUntilCut > 0 && chance(500) ? Int.random(in: 1...plan.callsUntilCut, using: &random) : nil
        disk.changesUntilCut = chance(plan.disk.rot / 2) ? Int.random(in: 1...8, using: &random) : nil
        hasRules = !plan.rules.isEmpty && !chance(plan.rulesGone)
        let epoch = Epoch.random(using: &random)
        do throws(BufferError) {
            let (store, restored, salvage) = try Buffer.prepare(configuration(), epoch: epoch, shared: BufferShared())
            guard !disk.isDead else {
                store.abandon()
                return
            }
            note("starts epoch \(epoch.low & 0xffff)")
            if let salvage { salvaged(salvage, store) }
            if !plan.rules.isEmpty { recallStandIns(store) }
            truth.started(epoch, store, isDamaged: isDamaged)
            begin(store, restored, epoch)
        } catch {
            note("cannot start: \(error)")
            if !disk.isDead { after(5_000_000, .start) }
        }
    }

    private func salvaged(_ salvage: SalvageReport, _ store: BufferStore) {
        salvages += 1
        note("salvaged: \(salvage.cause); \(salvage.messages) messages, \(salvage.missing) missing")
        if !isDamaged, mayTakeForDamage ? salvage.missing > 0 : true {
            truth.problem("salvage without damage: \(salvage.cause), \(salvage.missing) missing")
        }
        if bug == .renumberedSalvage { renumber(store) }
    }

    /// A page that cannot be read when the file is opened, and a log whose header is torn: the file is salvaged, and nothing
    /// may be missing.
    private var mayTakeForDamage: Bool { disk.hasTornHeader || plan.disk.read > 0 }

    private func begin(_ store: BufferStore, _ restored: RestoredState, _ epoch: Epoch) {
        let clocks = clock.system().now()
        let now = BrokerTime(
            monotonic: clocks.monotonicTime,
            gateway: store.clocks.time.microseconds(at: clocks.monotonicTime), clock: clocks)
        let edge = Edge(
            epoch: epoch, writer: Writer(store: store, logger: Self.quiet),
            broker: Broker(configuration: brokerConfiguration, restoring: restored, now: now),
            pipeline: CommitPipeline(spacing: plan.commitDelay),
            uplink: UplinkState(
                settings: uplinkSettings, backoff: Backoff(), now: clock.monotonic))
        self.edge = edge
        for index in devices.indices { after(within(plan.duration / 50), .connect(index), isOfEdge: false) }
        after(0, .tick)
        perform(edge.uplink.start(now: clock.monotonic), edge)
        // As the buffer does, once at the start.
        announce(edge)
    }

    private var brokerConfiguration: BrokerConfiguration {
        var configuration = BrokerConfiguration()
        configuration.access = [AccessRule(verdict: .allow, action: .all, topic: "#")]
        configuration.uplinkFilters = ["t/#"]
        configuration.localRules =
            hasRules
            ? [.init(filter: ModelDevice.noise, discards: true), .init(filter: ModelDevice.numbers, discards: false)]
            : []
        configuration.priorities = [
            PriorityRule(filter: "t/low", priority: MessagePriority(1)),
            PriorityRule(filter: "t/high", priority: MessagePriority(9)),
        ]
        configuration.defaultRate = .unlimited
        configuration.keepAliveMaximum = .max
        configuration.globalMessagesPerSecond = nil
        return configuration
    }

    private var uplinkSettings: UplinkState.Settings {
        var settings = UplinkState.Settings()
        settings.linger = 300_000
        settings.fullBatch = plan.buffer.batch
        settings.maximumBatch = plan.buffer.batch
        settings.smallBacklog = plan.buffer.batch
        settings.requestTimeout = 10_000_000
        settings.refusedDelay = 20_000_000
        settings.burialsPerHour = 1_000
        return settings
    }

    /// The power is gone, and comes back with another boot.
    func cutPower() {
        disk.cutPower()
        note("power is cut")
        endEdge()
        if chance(plan.disk.rot) { rot() }
        disk.restore()
        clock.reboot()
        switch Int.random(in: 0..<4, using: &random) {
        case 0: clock.step(by: -60 * ModelClock.year)
        case 1: clock.step(by: ModelClock.year * Int64.random(in: -3...3, using: &random))
        default: break
        }
        after(within(20_000_000), .synchronise, isOfEdge: false)
        after(within(plan.duration / 20), .start)
    }

    private func kill() {
        note("killed")
        kills += 1
        disk.freeze()
        endEdge()
        disk.thaw()
        after(within(plan.duration / 50), .start)
    }

    /// The daemon ends by itself, because the file is not trusted any more.
    func stop(_ error: BufferError) {
        note("stops: \(error)")
        edge?.store.close()
        endEdge()
        if !disk.isDead { after(1_000_000, .start) }
    }

    private func endEdge() {
        edge?.store.abandon()
        edge = nil
        life += 1
        for index in devices.indices { devices[index].lose() }
    }

    private func stepClock() {
        note("the clock steps")
        clock.step(by: ModelClock.year * Int64.random(in: -20...20, using: &random))
        clock.isSynchronised = Bool.random(using: &random)
        hasBelievedWrongTime = hasBelievedWrongTime || clock.isSynchronised
    }

    private func endFaults() {
        note("faults end")
        isFaulty = false
        disk.callsUntilCut = nil
        disk.faults = .init()
        disk.budget = nil
        disk.changesUntilCut = nil
        clock.synchronise()
    }

    func note(_ text: @autoclosure () -> String) { trace.note(text(), at: clock.now) }
}
