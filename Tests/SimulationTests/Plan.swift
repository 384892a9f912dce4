import Flow
import LocalWork

/// What a seed makes of a run. Chances are parts of a thousand.
struct Plan {
    /// Microseconds in which devices publish and faults come.
    var duration: Int64
    var devices: Int
    /// Microseconds between two messages of a device.
    var pause: Int64
    var maximumPayload: Int
    var poison: Int
    var commitDelay: Int64
    /// Microseconds of a commit, at most.
    var diskTime: Int64
    var drop: Int
    /// At each event.
    var powerCut: Int
    var kill: Int
    var clockStep: Int
    /// At every other start: power is cut within so many of the disk's calls; 0: not by these.
    var callsUntilCut: Int
    var network = Network()
    var buffer = Buffer()
    var disk = Disk()
    /// Of the topics `ModelDevice.noise` and `ModelDevice.numbers`, in this order; none: no local work.
    var rules: [LocalRule] = []
    /// At each start: all of them are gone.
    var rulesGone = 0

    static let pageSizes = [512, 1_024, 4_096]
    /// There is no file yet; else one into which nothing was put.
    var beginsEmpty = true

    struct Network {
        var lost: Int
        var lostAnswer: Int
        var repeated: Int
        var refused: Int
        /// Microseconds one way, at most.
        var time: Int64
        var outage: Int
        var processorCrash: Int

        init() { (lost, lostAnswer, repeated, refused, time, outage, processorCrash) = (0, 0, 0, 0, 1_000, 0, 0) }
    }

    struct Buffer {
        var pageSize = 4_096
        var maximumBytes = 1 << 30
        var dropsOldest = false
        /// Microseconds.
        var maximumAge: Int64?
        var batch = 4_096
        var messages = 65_536
        var checkpointPages = 64
    }

    struct Disk {
        var write = 0
        var sync = 0
        var read = 0
        /// Bytes; 0: no bound.
        var budget = 0
        /// While the power is off.
        var rot = 0
        /// Bytes that are set aside.
        var reserve = 0
        /// Percent that stay free.
        var floor = 0
    }

    /// What may go wrong beside crashes, the network and the clock.
    enum Profile {
        case ordinary
        /// Full, slow to write, unreadable.
        case failingDisk
        /// Wrong bytes after a power cut.
        case rotten

        /// The name of its test.
        var test: String {
            switch self {
            case .ordinary: "thePromiseHoldsWhateverHappens"
            case .failingDisk: "thePromiseHoldsOnAFailingDisk"
            case .rotten: "thePromiseHoldsWhereBytesAreWrong"
            }
        }
    }

    var deadBand: Double? {
        rules.lazy.compactMap { if case .aggregate(let rule) = $0.action { rule.deadBand } else { nil } }.first
    }

    init(seed: UInt64, _ profile: Profile) {
        var random = SplitMix64(seed: seed)
        func of<Value>(_ values: [Value]) -> Value { values[Int.random(in: 0..<values.count, using: &random)] }
        duration = of([3_000_000, 5_000_000, 5_000_000, 20_000_000, 20_000_000, 60_000_000])
        devices = of([1, 1, 2, 4])
        // Most runs are short: what many seeds find is worth more than what a long one does.
        pause = duration / of([3, 5, 5, 5, 10, 10, 20, 80])
        maximumPayload = of([20, 20, 300, 3_000])
        poison = of([0, 0, 0, 30])
        commitDelay = of([0, 0, 50_000])
        diskTime = of([200, 5_000, 200_000])
        drop = of([0, 2, 10])
        powerCut = of([0, 0, 2, 10])
        kill = of([0, 0, 2, 10])
        clockStep = of([0, 0, 3])
        callsUntilCut = of([0, 0, 60, 400, 2_000])
        network.lost = of([0, 100, 300])
        network.lostAnswer = of([0, 100, 300])
        network.repeated = of([0, 100])
        network.refused = of([0, 100])
        network.time = of([1_000, 500_000, 5_000_000])
        network.outage = of([0, 0, 3])
        network.processorCrash = of([0, 100])
        buffer.pageSize = of(Self.pageSizes)
        beginsEmpty = of([true, false, false, false, false, false])
        buffer.batch = of([300, 2_000, 20_000])
        buffer.messages = of([3, 65_536])
        buffer.checkpointPages = of([8, 64, 512])
        switch of([0, 0, 1, 2]) {
        case 1: (buffer.maximumBytes, buffer.dropsOldest) = (of([2_000, 8_000]), true)
        case 2: buffer.maximumAge = duration / 5
        default: break
        }
        if of([0, 1, 2]) == 0 {
            rules = [
                LocalRule(name: "noise", action: .discard),
                LocalRule(
                    name: "numbers",
                    action: .aggregate(
                        AggregationRule(
                            window: duration / of([4, 10, 30]), values: .all, deadBand: of([nil, nil, 2_000_000]),
                            maximumSilence: duration / 3, topicSuffix: of(["", "/mean"])))),
            ]
            rulesGone = of([0, 0, 200])
        }
        switch profile {
        case .ordinary: break
        case .failingDisk:
            disk.write = of([0, 0, 5, 30])
            disk.sync = of([0, 0, 10, 50])
            disk.read = of([0, 0, 0, 2])
            disk.budget = of([0, 0, 60_000, 150_000])
            disk.reserve = of([0, 20_000])
            disk.floor = of([0, 0, 20])
        case .rotten:
            disk.rot = 600
            powerCut = max(powerCut, 3)
        }
    }
}
