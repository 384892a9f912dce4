import Testing

@testable import SyncModel

private let second: Int64 = 1_000_000
private let now: Int64 = 1_780_000_000 * second
private let epoch = Epoch(high: 1, low: 1)

/// When messages that were stamped without synchronisation are corrected, and by how much.
@Suite struct ClockWatchTests {
    /// - Parameter offset: what the wall clock is ahead of the boot.
    private func clock(
        _ offset: Int64, _ boot: Int64, of id: UInt64 = 1, asleep: Int64 = 0, synchronised: Bool
    ) -> FrameClock {
        FrameClock(
            wallTime: offset + boot, monotonicTime: boot - asleep, bootHigh: id, bootLow: 0,
            isSynchronised: synchronised, asleepTime: asleep)
    }

    private func unset(_ boot: Int64, _ offset: Int64 = 0, of id: UInt64 = 1, asleep: Int64 = 0) -> FrameClock {
        clock(offset, boot, of: id, asleep: asleep, synchronised: false)
    }

    private func set(_ boot: Int64, _ offset: Int64 = now, of id: UInt64 = 1, asleep: Int64 = 0) -> FrameClock {
        clock(offset, boot, of: id, asleep: asleep, synchronised: true)
    }

    private func corrections(_ actions: [ClockWatch.Action]) -> [ClockCorrection] {
        actions.flatMap { action -> [ClockCorrection] in
            if case .correct(let corrections) = action { corrections } else { [] }
        }
    }

    @Test func aClockThatIsSetAMinuteLongCorrectsWhatCameBefore() {
        var watch = ClockWatch(at: unset(second))
        let stretch = ClockWatch.Stretch(epoch: epoch, firstSequence: 1, lastSequence: 3, offset: 0, since: 2 * second)
        #expect(watch.commit(unset(2 * second), epoch: epoch, sequences: 1...3) == [.begin(stretch, after: nil)])
        #expect(watch.commit(unset(3 * second), epoch: epoch, sequences: 4...9) == [], "it goes on")
        #expect(watch.commit(set(10 * second), epoch: epoch, sequences: 10...11) == [.end(lastSequence: 9)])
        #expect(watch.isSettling)
        #expect(watch.observe(set(69 * second)) == [])
        #expect(
            watch.observe(set(70 * second)) == [
                .correct([ClockCorrection(epoch: epoch, sequences: 1...9, offset: now)])
            ])
        #expect(!watch.isSettling && watch.observe(set(200 * second)) == [], "once")
    }

    @Test func eachStepOfAnUnsetClockIsCorrectedByItself() {
        var watch = ClockWatch(at: unset(0))
        _ = watch.commit(unset(second), epoch: epoch, sequences: 1...1)
        // Back by less than it ran: the wall times alone would be ambiguous.
        _ = watch.commit(unset(100 * second, -50 * second), epoch: epoch, sequences: 2...4)
        _ = watch.commit(unset(101 * second, 7 * second), epoch: epoch, sequences: 5...5)
        _ = watch.observe(set(110 * second))
        #expect(
            corrections(watch.observe(set(170 * second))) == [
                ClockCorrection(epoch: epoch, sequences: 1...1, offset: now),
                ClockCorrection(epoch: epoch, sequences: 2...4, offset: now + 50 * second),
                ClockCorrection(epoch: epoch, sequences: 5...5, offset: now - 7 * second),
            ])
    }

    /// The monotonic clock stands still while the machine sleeps, the wall clock does not: that is no step.
    @Test func sleepIsNoStep() {
        var watch = ClockWatch(at: unset(0))
        _ = watch.commit(unset(second), epoch: epoch, sequences: 1...1)
        _ = watch.commit(unset(5_000 * second, asleep: 4_000 * second), epoch: epoch, sequences: 2...2)
        #expect(watch.stretches.count == 1)
        _ = watch.observe(set(5_010 * second, asleep: 4_000 * second))
        #expect(
            corrections(watch.observe(set(5_070 * second, asleep: 4_000 * second)))
                == [ClockCorrection(epoch: epoch, sequences: 1...2, offset: now)])
    }

    /// Programs that set clocks may say that it is right a moment before they step it.
    @Test func aClockThatIsSteppedOnceMoreIsNotBelievedBefore() {
        var watch = ClockWatch(at: unset(0))
        _ = watch.commit(unset(second), epoch: epoch, sequences: 1...1)
        _ = watch.observe(set(2 * second, 0))
        #expect(watch.observe(set(60 * second, now)) == [])
        #expect(watch.observe(set(119 * second, now)) == [])
        #expect(
            corrections(watch.observe(set(120 * second, now)))
                == [ClockCorrection(epoch: epoch, sequences: 1...1, offset: now)])
    }

    @Test func synchronisationThatDoesNotLastCorrectsNothing() {
        var watch = ClockWatch(at: unset(0))
        _ = watch.commit(unset(second), epoch: epoch, sequences: 1...1)
        _ = watch.observe(set(2 * second))
        _ = watch.commit(unset(50 * second, now), epoch: epoch, sequences: 2...2)
        #expect(watch.observe(set(100 * second)) == [])
        #expect(corrections(watch.observe(set(160 * second))).map(\.sequences) == [1...1, 2...2])
    }

    @Test func whatAnotherBootOrAnUnknownOneStampedIsNotCorrected() {
        var watch = ClockWatch(at: unset(0))
        #expect(watch.commit(unset(second, of: 2), epoch: epoch, sequences: 1...1) == [])
        var unknown = ClockWatch(at: unset(0, of: 0))
        #expect(unknown.commit(unset(second, of: 0), epoch: epoch, sequences: 1...1) == [])
        #expect(unknown.observe(set(2 * second, of: 0)) == [] && unknown.observe(set(90 * second, of: 0)) == [])
    }

    /// A day without synchronisation after the clock was right: 20 ppm are 1.7 s at its end and nothing at its beginning.
    @Test func driftIsSpreadOverTheOutage() {
        func trueTime(_ boot: Int64) -> Int64 { now + boot + boot / 50_000 }
        var watch = ClockWatch(at: set(0))
        _ = watch.observe(set(0))
        _ = watch.observe(set(60 * second))
        var frames: [UInt64: FrameClock] = [:]
        for number in 1...1_440 as ClosedRange<UInt64> {
            let clock = unset(Int64(number) * 60 * second + 60 * second, now)
            frames[number] = clock
            _ = watch.commit(clock, epoch: epoch, sequences: number...number)
        }
        let end = 1_442 * 60 * second
        let offset = trueTime(end) - end
        _ = watch.observe(set(end, offset))
        let found = corrections(watch.observe(set(end + 60 * second, offset)))
        #expect(found.map(\.sequences.count).reduce(0, +) == 1_440 && found.count >= 24)
        for correction in found {
            for sequence in correction.sequences {
                let clock = frames[sequence]!
                let error = clock.wallTime + correction.offset - trueTime(clock.bootTime)
                #expect(abs(error) < 80_000, "message \(sequence) is off by \(error) µs")
            }
        }
    }

    @Test func aStepThatNoDriftExplainsIsAnErrorOfTheTimeBefore() {
        var watch = ClockWatch(at: set(0))
        _ = watch.observe(set(0, 0))
        _ = watch.observe(set(60 * second, 0))
        _ = watch.commit(unset(100 * second), epoch: epoch, sequences: 1...1)
        _ = watch.observe(set(200 * second))
        #expect(corrections(watch.observe(set(300 * second))).map(\.offset) == [now])
    }

    @Test func stretchesAreBoundedAndTheLastGoesOn() {
        var watch = ClockWatch(at: unset(0))
        let count = UInt64(ClockWatch.maximumStretches)
        for number in 1...count {
            _ = watch.commit(unset(second, Int64(number) * second), epoch: epoch, sequences: number...number)
        }
        let last = Int64(count) * second
        #expect(watch.commit(unset(2 * second, last), epoch: epoch, sequences: count + 1...count + 1) == [])
        #expect(
            watch.commit(unset(3 * second, 0), epoch: epoch, sequences: count + 2...count + 2) == [
                .end(lastSequence: count + 1)
            ])
        #expect(watch.commit(unset(4 * second, 0), epoch: epoch, sequences: count + 3...count + 3) == [])
        _ = watch.observe(set(5 * second))
        let found = corrections(watch.observe(set(65 * second)))
        #expect(found.count == ClockWatch.maximumStretches && found.last?.sequences == count...count + 1)
    }

    @Test(arguments: 1...300 as ClosedRange<UInt64>)
    func randomClocksAreCorrectedAsAModelSays(seed: UInt64) {
        var world = ClockWorld(seed: seed)
        for _ in 0..<200 { world.step() }
        #expect(world.corrected == world.expected)
        for (message, offset) in world.corrected {
            let frame = world.frames[message.epoch]![message.sequence]!
            #expect(frame.clock.wallTime + offset == frame.trueTime)
        }
    }
}

/// A gateway whose clock is wrong whenever it is not synchronised, with sleep and restarts. What the watch says is kept as
/// the buffer does. The expectation comes from all looks at the clock, with hindsight.
private struct ClockWorld {
    struct Message: Hashable {
        var epoch: UInt64
        var sequence: UInt64
    }

    struct Frame {
        var clock: FrameClock
        var trueTime: Int64
    }

    private enum Look {
        case clock(FrameClock)
        case messages(FrameClock, [Message])
        case restart
    }

    private var generator: SeededGenerator
    private var boot: Int64 = second
    private var asleep: Int64 = 0
    private var error: Int64 = -now
    private var isSynchronised = false
    private var epochNumber: UInt64 = 1
    private var sequence: UInt64 = 0
    private var watch: ClockWatch
    private var looks: [Look] = []
    private var stored: [(stretch: ClockWatch.Stretch, last: UInt64?, anchor: ClockWatch.Anchor?)] = []
    private(set) var frames: [UInt64: [UInt64: Frame]] = [:]
    private(set) var corrected: [Message: Int64] = [:]

    init(seed: UInt64) {
        generator = SeededGenerator(seed: seed)
        watch = ClockWatch(
            at: FrameClock(wallTime: 0, monotonicTime: 0, bootHigh: 1, bootLow: 1, isSynchronised: false))
    }

    private var clock: FrameClock {
        FrameClock(
            wallTime: now + boot + error, monotonicTime: boot - asleep, bootHigh: 1, bootLow: 1,
            isSynchronised: isSynchronised, asleepTime: asleep)
    }

    mutating func step() {
        boot += Int64.random(in: 1...40 * second, using: &generator)
        switch Int.random(in: 0..<20, using: &generator) {
        case 0: boot += Int64.random(in: 0...5_000, using: &generator) * second
        case 1:
            let time = Int64.random(in: 0...5_000, using: &generator) * second
            boot += time
            asleep += time
        case 2, 3:
            guard !isSynchronised else { return }
            error = Int64.random(in: -3...3, using: &generator) * 200 * second
        case 4, 5:
            isSynchronised = true
            error = 0
        case 6: isSynchronised = false
        case 7: restart()
        case 8...12:
            looks.append(.clock(clock))
            apply(watch.observe(clock))
        default: commit()
        }
    }

    private mutating func commit() {
        let first = sequence + 1
        sequence += UInt64.random(in: 1...4, using: &generator)
        let messages = (first...sequence).map { Message(epoch: epochNumber, sequence: $0) }
        for message in messages {
            frames[epochNumber, default: [:]][message.sequence] = Frame(clock: clock, trueTime: now + boot)
        }
        looks.append(.messages(clock, messages))
        apply(watch.commit(clock, epoch: Epoch(high: epochNumber, low: 0), sequences: first...sequence))
        looks.append(.clock(clock))
        apply(watch.observe(clock))
    }

    private mutating func apply(_ actions: [ClockWatch.Action]) {
        for action in actions {
            switch action {
            case .begin(let stretch, let anchor): stored.append((stretch, nil, anchor))
            case .end(let last): stored[stored.count - 1].last = last
            case .correct(let corrections):
                stored = []
                for correction in corrections {
                    for sequence in correction.sequences {
                        let message = Message(epoch: correction.epoch.high, sequence: sequence)
                        #expect(corrected.updateValue(correction.offset, forKey: message) == nil, "once")
                    }
                }
            }
        }
    }

    private mutating func restart() {
        let stretches = stored.map { entry in
            var stretch = entry.stretch
            stretch.lastSequence = entry.last ?? sequence
            return stretch
        }
        #expect(stretches == watch.stretches, "what is stored is what was known")
        for index in stored.indices { stored[index].last = stretches[index].lastSequence }
        watch = ClockWatch(at: clock, stretches: stretches, anchor: stored.last?.anchor)
        looks.append(.restart)
        epochNumber += 1
        sequence = 0
    }

    /// Each message that was stamped without synchronisation, and was followed by two looks at a synchronised clock that
    /// are a minute apart with nothing else between them.
    var expected: [Message: Int64] {
        var waiting: [Message] = []
        var found: [Message: Int64] = [:]
        var since: Int64?
        func look(at clock: FrameClock) {
            guard clock.isSynchronised else {
                since = nil
                return
            }
            guard let begin = since else {
                since = clock.bootTime
                return
            }
            guard clock.bootTime - begin >= 60 * second else { return }
            for message in waiting {
                guard let frame = frames[message.epoch]?[message.sequence] else { continue }
                found[message] = frame.trueTime - frame.clock.wallTime
            }
            waiting = []
        }
        for entry in looks {
            switch entry {
            case .restart: since = nil
            case .clock(let clock): look(at: clock)
            case .messages(let clock, let messages):
                if !clock.isSynchronised { waiting += messages }
                look(at: clock)
            }
        }
        return found
    }
}
