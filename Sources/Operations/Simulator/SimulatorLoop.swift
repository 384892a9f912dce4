import Glibc
import Operations
import Synchronization

/// Drives up to `capacity` devices on one thread of its own, by polling their sockets.
///
/// The order that the journal's truth rests on: a message's `publish` line is written before the message is handed to
/// libmosquitto, and a `resend` line before the connection is made that sends it again.
struct SimulatorLoop: ~Copyable {
    static let capacity = 50
    /// Milliseconds: no wait is longer, so that a stop and a timeout are noticed.
    private static let longestWait: Int64 = 50

    private struct Device {
        var model: DeviceModel
        let client: MosquittoClient
        let topic: String
    }

    private let plan: SimulationPlan
    private let journal: JournalWriter
    private let shared: SharedCounts
    private let slot: Int
    private var devices: [Device] = []
    private var lines: [UInt8] = []
    private var sampler: HostSampler
    private var lastTick: Int64

    /// - Parameter range: the devices of the plan that are this loop's.
    init(
        plan: SimulationPlan, range: Range<Int>, slot: Int, journal: JournalWriter, shared: SharedCounts
    ) throws(SimulationError) {
        self.plan = plan
        self.journal = journal
        self.shared = shared
        self.slot = slot
        let now = Clock.milliseconds()
        sampler = HostSampler(now: now)
        lastTick = now
        let interval = 1000 / plan.rate
        let firstNumber = Clock.wallMicroseconds() / 1000 * 1000
        for index in range {
            // Connections start 50 ms apart: the first of a device are two, and the gateway's default is 50 a second.
            let start = now + Int64(index) * 50
            let model = DeviceModel(
                id: plan.devices[index], qos: plan.quality.level(ofDevice: index + 1), firstNumber: firstNumber,
                interval: interval, inFlightLimit: plan.inFlight, start: start)
            let client = try MosquittoClient(device: plan.devices[index], plan: plan)
            devices.append(
                Device(model: model, client: client, topic: SimulationPlan.topic(ofDevice: plan.devices[index])))
        }
    }

    /// Publishes until the plan's seconds are over or a stop is asked for, then waits for what is outstanding.
    mutating func run() throws(SimulationError) {
        let end = Clock.milliseconds() + Int64(plan.seconds * 1000)
        while Clock.milliseconds() < end, !shared.isStopping {
            try step(publishing: true)
        }
        let drained = Clock.milliseconds() + Int64(plan.drainSeconds * 1000)
        while Clock.milliseconds() < drained, !shared.isAbandoned, devices.contains(where: \.model.hasOutstanding) {
            try step(publishing: false)
        }
        for index in devices.indices where devices[index].model.link == .up {
            devices[index].client.disconnect()
            try settle(index, failure: nil, now: Clock.milliseconds())
        }
        try flush()
        report()
    }

    private mutating func step(publishing: Bool) throws(SimulationError) {
        let now = Clock.milliseconds()
        try connectThoseDue(now: now)
        if publishing { try publishThoseDue(now: now) }
        try poll(until: now + waitingTime(now: now, publishing: publishing))
        try tick(now: Clock.milliseconds())
        try flush()
        report()
    }

    private mutating func connectThoseDue(now: Int64) throws(SimulationError) {
        for index in devices.indices where devices[index].model.shouldConnect(now: now) {
            try flush()
            devices[index].model.connecting(now: now)
            do {
                try devices[index].client.connect()
            } catch {
                try settle(index, failure: "\(error.call): \(error.reason)", now: now)
            }
        }
    }

    private mutating func publishThoseDue(now: Int64) throws(SimulationError) {
        var due: [(index: Int, n: Int64)] = []
        for index in devices.indices {
            guard let n = devices[index].model.takePublish(now: now) else { continue }
            due.append((index, n))
            note(.publish, index, n)
        }
        guard !due.isEmpty else { return }
        try flush()
        let reading = sampler.reading(now: now)
        for (index, n) in due {
            let publication = devices[index].client.publish(
                topic: devices[index].topic, payload: reading.payload(n: n), qos: devices[index].model.qos)
            if case .taken(let packetID) = publication {
                devices[index].model.sent(n: n, packetID: packetID)
            }
        }
    }

    private func waitingTime(now: Int64, publishing: Bool) -> Int64 {
        guard publishing else { return Self.longestWait }
        let next = devices.lazy.map(\.model.nextPublishTime).min() ?? now
        return min(Self.longestWait, max(0, next - now))
    }

    private mutating func poll(until deadline: Int64) throws(SimulationError) {
        var polled: [pollfd] = []
        var owners: [Int] = []
        for index in devices.indices {
            if case .down = devices[index].model.link { continue }
            let descriptor = devices[index].client.descriptor
            guard descriptor >= 0 else { continue }
            let events = POLLIN | (devices[index].client.wantsWrite ? POLLOUT : 0)
            polled.append(pollfd(fd: descriptor, events: Int16(events), revents: 0))
            owners.append(index)
        }
        let wait = Int32(max(0, deadline - Clock.milliseconds()))
        guard Glibc.poll(&polled, nfds_t(polled.count), wait) >= 0 || errno == EINTR else { return }
        let now = Clock.milliseconds()
        for (position, entry) in polled.enumerated() where entry.revents != 0 {
            try serve(owners[position], revents: Int32(entry.revents), now: now)
        }
    }

    private mutating func serve(_ index: Int, revents: Int32, now: Int64) throws(SimulationError) {
        var failure: String?
        do {
            if revents & ~POLLOUT != 0 { try devices[index].client.read() }
            if revents & POLLOUT != 0 { try devices[index].client.write() }
            // During the handshake libmosquitto takes the end of the connection for "try again".
            if revents & (POLLHUP | POLLERR) != 0, devices[index].model.link != .up {
                failure = "the connection was closed during the handshake"
            }
        } catch {
            failure = "\(error.call): \(error.reason)"
        }
        try settle(index, failure: failure, now: now)
    }

    /// Once a second the library's keep-alive; and what never got an answer to CONNECT.
    private mutating func tick(now: Int64) throws(SimulationError) {
        guard now - lastTick >= 1000 else { return }
        lastTick = now
        for index in devices.indices {
            if devices[index].model.connectTimedOut(now: now) {
                try settle(index, failure: "no answer to CONNECT within 10 s", now: now)
            } else if devices[index].model.link == .up {
                do {
                    try devices[index].client.tick()
                } catch {
                    try settle(index, failure: "\(error.call): \(error.reason)", now: now)
                }
            }
        }
    }

    /// Takes what the library told, in its order, and then the end of the connection, if it ended.
    private mutating func settle(_ index: Int, failure: String?, now: Int64) throws(SimulationError) {
        var failure = failure
        for event in devices[index].client.takeEvents() {
            switch event {
            case .connected(reason: 0, _):
                devices[index].model.connected()
            case .connected(let reason, _):
                failure = MosquittoClient.describe(connack: reason, version: plan.version)
            case .answered(let packetID, let reason):
                switch devices[index].model.answered(packetID: packetID, reason: reason) {
                case .acknowledged(let n): note(.acknowledge, index, n)
                case .refused(let n, let reason): note(.refuse, index, n, reason: reason)
                case nil: break
                }
            case .disconnected(let reason):
                failure = failure ?? "the connection ended (\(reason))"
            }
        }
        guard let failure else { return }
        for n in devices[index].model.broke(now: now, jitter: .random(in: 0..<1), reason: failure) {
            note(.resend, index, n)
        }
        try flush()
    }

    private mutating func note(_ event: JournalLine.Event, _ index: Int, _ n: Int64, reason: UInt8? = nil) {
        let model = devices[index].model
        JournalLine(
            event: event, device: model.id, n: n, qos: model.qos, at: Clock.wallMicroseconds(), reason: reason
        ).append(to: &lines)
    }

    private mutating func flush() throws(SimulationError) {
        try journal.append(lines)
        lines.removeAll(keepingCapacity: true)
    }

    private func report() {
        shared.set(slot, devices.reduce(SimulationCounts()) { $0 + $1.model.counts })
    }
}

enum Clock {
    /// Of the monotonic clock.
    static func milliseconds() -> Int64 {
        var time = timespec()
        clock_gettime(CLOCK_MONOTONIC, &time)
        return Int64(time.tv_sec) * 1000 + Int64(time.tv_nsec) / 1_000_000
    }

    /// Since 1970.
    static func wallMicroseconds() -> Int64 {
        var time = timespec()
        clock_gettime(CLOCK_REALTIME, &time)
        return Int64(time.tv_sec) * 1_000_000 + Int64(time.tv_nsec) / 1000
    }
}
