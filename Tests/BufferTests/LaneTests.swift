import Flow
import NIOCore
import SyncModel
import Testing

@testable import Buffer

@Suite struct LaneTests {
    let scratch: Scratch

    init() throws { scratch = try Scratch() }

    private func cut(_ buffer: Buffer, _ lane: Lane, messages: Int = 1) async throws -> Cut? {
        try await buffer.nextCut(in: lane, maximumBytes: 1 << 20, maximumMessages: messages)
    }

    @Test func liveDataIsCutBesideTheBacklogAndItsAnswersLeaveARun() async throws {
        let buffer = try scratch.open { $0.deletionSlice = (bytes: 1, frames: 4) }
        for _ in 0..<3 { try await buffer.commit(drafts([0])) }
        #expect(try await cut(buffer, .backlog) == nil, "without a start there is the lane live alone")
        #expect(try await buffer.startLive())
        #expect(try await cut(buffer, .live) == nil)
        for _ in 0..<3 { try await buffer.commit(drafts([0])) }
        let (live, backlog) = (try await cut(buffer, .live), try await cut(buffer, .backlog))
        #expect(live?.firstFrame == 4 && live?.lane == .live && backlog?.firstFrame == 1 && backlog?.lane == .backlog)
        let again = (try await cut(buffer, .live), try await cut(buffer, .backlog))
        #expect(again.0 == live && again.1 == backlog, "one waits in each lane")
        try await buffer.acknowledge(try #require(live))
        var waiting = await buffer.waiting()
        #expect(waiting.live.messages == 2 && waiting.backlog.messages == 3)
        #expect(try await buffer.accounting().epochs.map(\.buffered) == [[[1, 3], [5, 6]]])
        try await buffer.acknowledge(try #require(try await cut(buffer, .live, messages: 9)))
        try await buffer.acknowledge(try #require(backlog))
        waiting = await buffer.waiting()
        #expect(waiting.live.messages == 0 && waiting.backlog.messages == 2)
        #expect(try await buffer.accounting().epochs.map(\.buffered) == [[[2, 3]]])
        try await buffer.acknowledge(try #require(try await cut(buffer, .backlog, messages: 9)))
        #expect(buffer.fill().messages == 0 && buffer.fill().bytes == 0 && buffer.fill().oldestFrame == nil)
        try await buffer.commit(drafts([0]))
        #expect(try await cut(buffer, .live)?.firstFrame == 7)
        await buffer.close()
    }

    @Test func aCutThatWaitsKeepsItsLaneWhenAnotherOutageEnds() async throws {
        let buffer = try scratch.open()
        try await buffer.commit(drafts([0]))
        let old = try #require(try await cut(buffer, .live))
        try await buffer.commit(drafts([0]))
        #expect(try await buffer.startLive())
        try await buffer.commit(drafts([0]))
        let backlog = try #require(try await cut(buffer, .backlog, messages: 9))
        #expect(backlog.firstFrame == 2 && backlog.lastFrame == 2, "no frame is in two cuts")
        #expect(try await cut(buffer, .live) == old)
        try await buffer.acknowledge(old)
        #expect(try await cut(buffer, .live)?.firstFrame == 3)
        try await buffer.acknowledge(backlog)
        await buffer.close()
    }

    /// Two cuts must not report the same: the answer to one would tick off what only the other has told.
    @Test func accountsAndLedgerLinesTravelInTheLaneLiveAlone() async throws {
        let first = try scratch.open(epoch: 1)
        try await first.commit(drafts([0]))
        await first.close()
        let buffer = try scratch.open(epoch: 2)
        #expect(try await buffer.startLive())
        let backlog = try #require(try await cut(buffer, .backlog))
        #expect(try await buffer.contents(of: backlog).accounts.isEmpty)
        try await buffer.acknowledge(backlog)
        let live = try #require(try await cut(buffer, .live), "the closed epoch waits still")
        #expect(try await buffer.contents(of: live).accounts.map(\.isClosed) == [true])
        try await buffer.acknowledge(live)
        #expect(try await cut(buffer, .live) == nil)
        await buffer.close()
    }

    @Test func outagesWithinOneBacklogAreBounded() async throws {
        let buffer = try scratch.open()
        for _ in 0..<200 {
            try await buffer.commit(drafts([0]))
            #expect(try await buffer.startLive())
            try await buffer.commit(drafts([0]))
            try await buffer.acknowledge(try #require(try await cut(buffer, .live)))
        }
        await buffer.close()
        let again = try scratch.open(epoch: 2)
        let runs = try await again.perform { store throws(SQLiteError) in store.answered.runs.count }
        #expect(2...AnsweredFrames.maximumRuns ~= runs)
        let waiting = await again.waiting()
        #expect(waiting.live.messages + waiting.backlog.messages == 200)
        while let next = try await cut(again, .backlog, messages: 50) { try await again.acknowledge(next) }
        while let next = try await cut(again, .live, messages: 50) { try await again.acknowledge(next) }
        #expect(again.fill().messages == 0)
        #expect(try await again.perform { store throws(SQLiteError) in store.answered.runs.isEmpty })
        await again.close()
    }

    @Test func framesThatWereDroppedAreNotSent() async throws {
        let buffer = try scratch.open { $0.readSlice = 1 }
        for _ in 0..<5 { try await buffer.commit(drafts([0, 1])) }
        try await buffer.drop([1, 3])
        let first = try #require(try await cut(buffer, .live, messages: 8))
        #expect(try await buffer.contents(of: first).frames.map(\.id) == [2, 4, 5])
        #expect(first.messageCount == 6)
        try await buffer.acknowledge(first)
        #expect(try await buffer.perform { store throws(SQLiteError) in store.drops.all } == FrameTotals())
        #expect(buffer.fill().messages == 0 && buffer.fill().bytes == 0)
        await buffer.close()
    }
}

extension LaneTests {
    /// Its answer would make a run of them, over one that was answered before it.
    @Test func aGapThatIsEmptyWaitsForTheBatchOverIt() async throws {
        let buffer = try scratch.open()
        for _ in 0..<2 { try await buffer.commit(drafts([0])) }
        #expect(try await buffer.startLive())
        for _ in 0..<2 { try await buffer.commit(drafts([0])) }
        let backlog = try #require(try await cut(buffer, .backlog, messages: 9))
        let live = try #require(try await cut(buffer, .live, messages: 9))
        #expect(backlog.lastFrame == 2 && live.firstFrame == 3)
        try await buffer.drop([1, 2])
        try await buffer.acknowledge(live)
        let answered = try await buffer.perform { store throws(SQLiteError) in store.answered }
        #expect(answered.prefix.frame == 0 && answered.runs.map(\.start.frame) == [2])
        try await buffer.acknowledge(backlog)
        try await buffer.acknowledge(try #require(try await cut(buffer, .live)))
        await buffer.close()
        let again = try scratch.open(epoch: 2)
        #expect(again.salvage == nil && again.fill().messages == 0)
        #expect(try await again.perform { store throws(SQLiteError) in store.answered.prefix.frame } == 4)
        await again.close()
    }
}

/// What the buffer should hold, kept as naively as can be: each frame with its lane and whether it is answered.
private struct LaneModel {
    struct Frame {
        var id: Int64
        var epoch: UInt64
        var sequences: ClosedRange<UInt64>
        var bytes = 0
        var isAnswered = false
    }

    var frames: [Frame] = []
    var liveStart: Int64 = 0
    var open: [Lane: Cut] = [:]

    func waiting(_ lane: Lane) -> LaneFill {
        frames.reduce(into: LaneFill()) { fill, frame in
            guard !frame.isAnswered, (frame.id > liveStart) == (lane == .live) else { return }
            fill.messages += frame.sequences.count
            fill.bytes += frame.bytes
        }
    }

    /// The frames that a new cut of the lane may begin with, and no other.
    func first(_ lane: Lane) -> Int64? {
        frames.first { frame in
            !frame.isAnswered && (frame.id > liveStart) == (lane == .live)
                && !open.values.contains { $0.firstFrame...max($0.firstFrame, $0.lastFrame) ~= frame.id }
        }?.id
    }

    func buffered(_ epoch: UInt64) -> [[UInt64]] {
        var set = IntervalSet()
        for frame in frames where frame.epoch == epoch && !frame.isAnswered { _ = try? set.insert(frame.sequences) }
        return set.ranges.map { [$0.lowerBound, $0.upperBound] }
    }

    var rows: Set<Int64> { Set(frames.filter { !$0.isAnswered }.map(\.id)) }
}

@Suite struct LanePropertyTests {
    /// Random commits, cuts, answers, starts of the lane live and restarts: after each step the buffer tells what the
    /// model tells, each frame is answered once, in the order of its lane.
    @Test(arguments: 1...24 as ClosedRange<UInt64>)
    func theBufferAgreesWithANaiveModel(seed: UInt64) async throws {
        let scratch = try Scratch()
        var generator = SplitMix64(seed: seed)
        var model = LaneModel()
        var epoch: UInt64 = 1
        var sequence: UInt64 = 0
        func open() throws -> Buffer {
            try scratch.open(epoch: epoch) {
                $0.deletionSlice = (bytes: 700, frames: 4)
                $0.readSlice = 600
                $0.idleTime = 0.001
            }
        }
        var buffer = try open()
        for _ in 0..<120 {
            switch Int.random(in: 0..<100, using: &generator) {
            case ..<40:
                let devices = (0..<Int.random(in: 1...4, using: &generator)).map { DeviceHandle($0 % 2) }
                let before = buffer.fill().bytes
                let receipt = try await buffer.commit(
                    drafts(devices, payload: Int.random(in: 1...400, using: &generator)))
                #expect(receipt.firstSequence == sequence + 1)
                sequence = receipt.lastSequence
                model.frames.append(
                    .init(
                        id: Int64(model.frames.count + 1), epoch: epoch,
                        sequences: receipt.firstSequence...receipt.lastSequence, bytes: buffer.fill().bytes - before))
            case ..<60:
                let lane: Lane = Bool.random(using: &generator) ? .live : .backlog
                try await cut(lane, buffer, &model, &generator)
            case ..<85:
                guard let cut = model.open.values.sorted(by: { $0.id < $1.id }).randomElement(using: &generator)
                else { continue }
                try await buffer.acknowledge(cut)
                model.open[cut.lane] = nil
                for index in model.frames.indices
                where cut.firstFrame <= model.frames[index].id && model.frames[index].id <= cut.lastFrame {
                    #expect(!model.frames[index].isAnswered, "answered twice")
                    model.frames[index].isAnswered = true
                }
            case ..<92:
                let hasBacklog = try await buffer.startLive()
                if model.frames.contains(where: { !$0.isAnswered }) { model.liveStart = Int64(model.frames.count) }
                #expect(hasBacklog == (model.waiting(.backlog).messages > 0))
            default:
                await buffer.close()
                epoch += 1
                sequence = 0
                buffer = try open()
            }
            try await check(buffer, model, seed)
        }
        await buffer.close()
    }

    private func cut(
        _ lane: Lane, _ buffer: Buffer, _ model: inout LaneModel, _ generator: inout SplitMix64
    ) async throws {
        let first = model.first(lane)
        let messages = Int.random(in: 1...6, using: &generator)
        let cut = try await buffer.nextCut(in: lane, maximumBytes: 900, maximumMessages: messages)
        if let open = model.open[lane] {
            #expect(cut == open)
            return
        }
        guard let cut else {
            #expect(first == nil)
            return
        }
        if cut.lastFrame >= cut.firstFrame { #expect(cut.firstFrame == first) }
        let frames = try await buffer.contents(of: cut).frames
        #expect(frames.map(\.id) == Array(cut.firstFrame..<max(cut.firstFrame, cut.lastFrame + 1)))
        let expected = model.frames.filter { cut.firstFrame <= $0.id && $0.id <= cut.lastFrame }
        #expect(expected.allSatisfy { !$0.isAnswered && ($0.id > model.liveStart) == (lane == .live) })
        #expect(expected.reduce(0) { $0 + $1.bytes } == cut.byteCount)
        #expect(expected.reduce(0) { $0 + $1.sequences.count } == cut.messageCount)
        model.open[lane] = cut
    }

    private func check(_ buffer: Buffer, _ model: LaneModel, _ seed: UInt64) async throws {
        let waiting = await buffer.waiting()
        #expect(waiting.live == model.waiting(.live) && waiting.backlog == model.waiting(.backlog), "seed \(seed)")
        let accounting = try await buffer.accounting()
        for entry in accounting.epochs {
            let epoch = try #require(UInt64(entry.epoch.suffix(16), radix: 16))
            #expect(entry.buffered == model.buffered(epoch), "seed \(seed), epoch \(epoch)")
        }
        #expect(accounting.bufferedMessages == UInt64(waiting.live.messages + waiting.backlog.messages))
        let rows = try await buffer.perform { store throws(SQLiteError) in
            let statement = try store.connection.prepare("SELECT id FROM frame")
            defer { statement.finalize() }
            var ids: Set<Int64> = []
            while try statement.step() { ids.insert(statement.integer(0)) }
            return ids
        }
        #expect(rows.isSuperset(of: model.rows), "nothing is deleted before its answer")
    }
}
