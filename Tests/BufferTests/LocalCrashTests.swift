import Flow
import Foundation
import LocalWork
import NIOCore
import SyncModel
import Testing

@testable import Buffer

/// Local work survives whatever happens: each number of each device ends once, and is counted in the aggregate that its
/// line names.
@Suite struct LocalCrashTests {
    let scratch: Scratch
    let clock = SetClock()

    init() throws { scratch = try Scratch() }

    private static let rules = [
        LocalRule.aggregate("fast", seconds: 10), .aggregate("slow", seconds: 60, [.mean, .maximum, .count]),
        LocalRule(name: "noise", action: .discard),
    ]

    private func open(
        epoch: UInt64, rules: [LocalRule] = rules, _ change: (inout Buffer.Configuration) -> Void = { _ in }
    ) throws -> Buffer {
        try scratch.open(epoch: epoch) {
            $0.clock = clock.clock
            $0.localRules = rules
            change(&$0)
        }
    }

    private func group(_ random: inout SplitMix64) -> [FrameDraft] {
        var group = LocalGroup(at: clock)
        for _ in 0..<Int.random(in: 1...6, using: &random) {
            let device = DeviceHandle.random(in: 0...2, using: &random)
            let priority = UInt8.random(in: 4...5, using: &random)
            switch Int.random(in: 0..<5, using: &random) {
            case 0: group.add(device, "up", .direct, priority: priority)
            case 1: group.add(device, "noise", .discarded(rule: 2))
            case 2: group.add(device, "\(Int.random(in: 0...9, using: &random))", topic: "s", .held(rule: 1))
            default: group.add(device, "\(Int.random(in: 0...9, using: &random))", priority: priority)
            }
        }
        return group.take()
    }

    /// The log as it was after each commit, from the first to the last: what a loss of power leaves.
    private func commitEnds(of log: [UInt8]) -> [Int] {
        stride(from: 32, to: log.count - 4_119, by: 4_120).filter { frame in
            log[(frame + 4)..<(frame + 8)].contains { $0 != 0 }
        }.map { $0 + 4_120 }
    }

    @Test(.timeLimit(.minutes(3)), arguments: 1...2 as ClosedRange<UInt64>)
    func aCrashAfterEachCommit(seed: UInt64) async throws {
        var random = SplitMix64(seed: seed)
        // Nothing is copied out of the log, so that it has all commits.
        let buffer = try open(epoch: 1) {
            $0.checkpointPages = 1 << 20
            $0.idleCheckpointPages = 1 << 20
            $0.deletionSlice = (bytes: 1 << 20, frames: 2)
        }
        for _ in 0..<25 {
            try await buffer.commit(group(&random))
            clock.pass(seconds: 3)
            _ = try await buffer.stats()
        }
        clock.pass(seconds: 60)
        try await buffer.work()
        try await buffer.workToTheEnd()
        let files = try BufferFiles(at: scratch.path)
        await buffer.close()
        let ends = commitEnds(of: files.log)
        #expect(ends.count > 50, "commits of messages, of windows and of deletions")
        var aggregates = 0
        for (index, end) in ends.enumerated() {
            var crashed = files
            crashed.log = Array(files.log[..<end])
            try crashed.put(to: scratch.path)
            let again = try open(epoch: 100 + UInt64(index))
            #expect(again.salvage == nil, "commit \(index): \(again.salvage?.cause ?? "")")
            clock.pass(seconds: 60)
            try await again.work()
            let outcome = try await again.outcome()
            for entry in try await again.accounting().epochs {
                try outcome.check(try #require(entry.epochValue), count: Int(entry.lastSequence))
                #expect(entry.buffered.isEmpty, "commit \(index)")
            }
            outcome.checkAggregates()
            aggregates += outcome.ledger.filter { $0.reason == .aggregated }.count
            await again.close()
        }
        #expect(aggregates > ends.count)
    }

    /// Committed, held, dropped, sent, answered, started anew, with rules that come and go.
    @Test(.timeLimit(.minutes(2)), arguments: 1...12 as ClosedRange<UInt64>)
    func everyMessageEndsOnce(seed: UInt64) async throws {
        var random = SplitMix64(seed: seed)
        var epoch: UInt64 = 1
        let drops = seed % 2 == 0
        func start() throws -> Buffer {
            let bytes = Int.random(in: 3_000...9_000, using: &random)
            let isLessHeld = Int.random(in: 0..<4, using: &random) == 0
            // Places stay what they are: the gateway's drafts name them.
            let rules = isLessHeld ? [LocalRule.aggregate("other"), Self.rules[1], Self.rules[2]] : Self.rules
            return try open(epoch: epoch, rules: rules) {
                $0.dropsOldest = drops
                $0.maximumBytes = drops ? bytes : 1 << 20
                $0.readSlice = 300
                $0.deletionSlice = (bytes: 2_000, frames: 3)
            }
        }
        var buffer = try start()
        var outcome = Outcome()
        func answerOne(limit: Int) async throws -> Bool {
            for lane in [Lane.live, .backlog] {
                guard let cut = try await buffer.nextCut(in: lane, maximumBytes: limit, maximumMessages: 100) else {
                    continue
                }
                try await outcome.take(cut, of: buffer)
                try await buffer.acknowledge(cut)
                return true
            }
            return false
        }
        for _ in 0..<150 {
            switch Int.random(in: 0..<20, using: &random) {
            case 0:
                await buffer.close()
                epoch += 1
                buffer = try start()
            case 1...3: _ = try await answerOne(limit: Int.random(in: 1...4_000, using: &random))
            case 4: _ = try await buffer.startLive()
            case 5...8:
                clock.pass(seconds: Int64.random(in: 1...20, using: &random))
                _ = try await buffer.stats()
            default: try await buffer.commit(group(&random))
            }
        }
        clock.pass(seconds: 60)
        try await buffer.work()
        while try await answerOne(limit: 10_000) {}
        #expect(buffer.fill().messages == 0)
        for entry in try await buffer.accounting().epochs {
            try outcome.check(try #require(entry.epochValue), count: Int(entry.lastSequence))
        }
        #expect(outcome.ledger.contains { $0.reason == .aggregated })
        #expect(outcome.ledger.contains { $0.reason == .filtered })
        if !drops {
            #expect(!outcome.ledger.contains { $0.reason == .bufferFull })
            outcome.checkAggregatesOfRules()
        }
        try await buffer.workToTheEnd()
        await buffer.close()
    }
}

extension Outcome {
    /// Released messages stand for themselves, one each, and are not counted by an aggregate.
    fileprivate func checkAggregatesOfRules() {
        for line in ledger where line.reason == .aggregated { #expect(line.aggregate != nil, "\(line)") }
    }
}
