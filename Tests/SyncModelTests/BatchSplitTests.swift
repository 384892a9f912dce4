import Flow
import NIOCore
import Testing

@testable import SyncModel

@Suite struct BatchSplitTests {
    /// Splits as the uplink would, against a cloud that refuses what holds one of the bad messages.
    private func run(
        _ pieces: [BatchSplit.Piece], bad: Set<Int>, mayBury: Bool = true, takesProbe: Bool = true
    ) -> (accepted: [Int], buried: [Int], requests: Int, end: BatchSplit.Step) {
        var split = BatchSplit(cut: 1, pieces: pieces, status: 422)
        var (accepted, buried, requests) = ([Int](), [Int](), 0)
        while requests < 10_000 {
            let step = split.next(mayBury: mayBury)
            switch step {
            case .probe:
                requests += 1
                if takesProbe { split.accepted() } else { split.refused(status: 400, reason: "no") }
            case .send(let part):
                requests += 1
                if numbers(part).contains(where: bad.contains) {
                    split.refused(status: 422, reason: "bad")
                } else {
                    accepted += numbers(part)
                    split.accepted()
                }
            case .bury(let suspect):
                #expect(suspect.reason == "bad" && suspect.status == 422)
                buried += numbers([suspect.piece])
                split.buried()
            case .done, .giveUp: return (accepted, buried, requests, step)
            }
        }
        return (accepted, buried, requests, .probe)
    }

    private func numbers(_ pieces: [BatchSplit.Piece]) -> [Int] {
        pieces.flatMap { piece in piece.records.map { Int(piece.frame) * 100 + $0 } }
    }

    private func pieces(_ counts: [Int]) -> [BatchSplit.Piece] {
        counts.enumerated().map { BatchSplit.Piece(frame: Int64($0.offset), records: 0..<$0.element) }
    }

    @Test(arguments: [0, 3, 199, 250, 399])
    func theOneBadMessageIsFoundAndTheRestGoesOn(bad: Int) {
        let run = run(pieces([100, 100, 100, 100]), bad: [bad])
        #expect(run.buried == [bad] && run.end == .done)
        #expect(run.accepted == (0..<400).filter { $0 != bad }, "in order, each once")
        #expect(run.requests <= 22, "\(run.requests) requests")
    }

    @Test func severalBadMessagesAreFoundInOneGo() {
        var generator = SeededGenerator(seed: 3)
        for _ in 0..<50 {
            let counts = (0..<Int.random(in: 2...9, using: &generator)).map { _ in
                Int.random(in: 1...40, using: &generator)
            }
            let all = pieces(counts).flatMap { piece in piece.records.map { Int(piece.frame) * 100 + $0 } }
            let bad = Set(all.filter { _ in UInt8.random(in: 0..<20, using: &generator) == 0 })
            guard bad.count < 4 else { continue }
            let run = run(pieces(counts), bad: bad)
            #expect(Set(run.accepted).union(run.buried) == Set(all) || bad.count == all.count)
            #expect(Set(run.buried) == bad && run.accepted == all.filter { !bad.contains($0) })
        }
    }

    /// A link that takes so many messages within the time of a request: all arrive, in order and once, and few attempts fail.
    @Test(arguments: [1, 7, 30, 1_000], [1, 3])
    func whatIsTooSlowGoesInParts(capacity: Int, first: Int) {
        let all = pieces([100, 1, 60, 39])
        var split = BatchSplit(cut: 1, pieces: all, maximumMessages: 100 * first, fewest: 1)
        #expect(split.next(mayBury: false) == .probe)
        split.tookTooLong()
        split.accepted()
        var (accepted, failures) = ([Int](), 0)
        while case .send(let part) = split.next(mayBury: false) {
            if part.messages > capacity {
                failures += 1
                split.tookTooLong()
            } else {
                accepted += numbers(part)
                // As the uplink judges: it would fit twice.
                split.accepted(wasQuick: part.messages * 2 <= capacity)
            }
        }
        #expect(split.next(mayBury: false) == .done)
        #expect(accepted == numbers(all))
        #expect(failures <= 8, "\(failures)")
    }

    @Test func aCloudThatHangsMakesNoPartsOfOneMessage() {
        var split = BatchSplit(cut: 1, pieces: pieces([100, 100]), maximumMessages: 100, fewest: 20)
        split.accepted()
        for _ in 0..<50 { split.tookTooLong() }
        guard case .send(let part) = split.next(mayBury: false) else {
            Issue.record("nothing is sent")
            return
        }
        #expect(part.messages == 20)
    }

    /// Among them one that the cloud refuses: found, buried, and the rest arrives.
    @Test func aBadMessageIsFoundInSlowPartsToo() {
        let all = pieces([50, 50])
        var split = BatchSplit(cut: 1, pieces: all, maximumMessages: 8, fewest: 1)
        var (accepted, buried) = ([Int](), [Int]())
        while true {
            switch split.next(mayBury: true) {
            case .probe: split.accepted()
            case .send(let part):
                #expect(part.messages <= 8)
                if numbers(part).contains(49) {
                    split.refused(status: 422, reason: "bad")
                } else {
                    accepted += numbers(part)
                    split.accepted()
                }
            case .bury(let suspect):
                buried += numbers([suspect.piece])
                split.buried()
            case .done:
                #expect(buried == [49] && accepted == numbers(all).filter { $0 != 49 })
                return
            case .giveUp(let status):
                Issue.record("given up with \(status)")
                return
            }
        }
    }

    /// What was dropped meanwhile is passed over, and is no sign that the cloud takes messages.
    @Test func whatIsGoneSaysNothingOfTheCloud() {
        var split = BatchSplit(cut: 1, pieces: pieces([1, 1, 1, 1]), status: 422)
        split.accepted()
        split.partIsGone()
        for _ in 0..<2 {
            if case .send(let part) = split.next(mayBury: true), part.count > 1 {
                split.refused(status: 422, reason: "bad")
            }
            split.refused(status: 422, reason: "bad")
        }
        guard case .bury = split.next(mayBury: true) else {
            Issue.record("\(split.next(mayBury: true))")
            return
        }
        split.buried()
        #expect(split.next(mayBury: true) == .giveUp(status: 422), "none was accepted")
        split.suspectIsGone()
        #expect(split.next(mayBury: true) == .done)
    }

    @Test func aBatchOfOneBadMessageIsBuriedAfterTheProbe() {
        let run = run(pieces([1]), bad: [0])
        #expect(run.buried == [0] && run.end == .done && run.requests == 2)
    }

    /// A cloud, or a proxy before it, that refuses whatever comes.
    @Test func aStatusThatHitsEverythingBuriesNothing() {
        let run = run(pieces([100, 100]), bad: Set(0..<300), takesProbe: false)
        #expect(run.buried.isEmpty && run.end == .giveUp(status: 400) && run.requests == 1)
    }

    /// The empty batch passes, and no message does: one is buried at most before someone is called.
    @Test func aCloudThatTakesNoMessageCostsOneAtMost() {
        let run = run(pieces([100, 100, 100]), bad: Set(0..<300))
        #expect(run.buried.count == 1 && run.end == .giveUp(status: 422) && run.requests < 30)
    }

    @Test func beyondTheHoursBurialsItGivesUp() {
        let run = run(pieces([100]), bad: [50], mayBury: false)
        #expect(run.buried.isEmpty && run.end == .giveUp(status: 422))
    }
}

@Suite struct FramePartsTests {
    /// Each message in a frame of its own, or any run of them, decodes to what it was, with its sequence and number.
    @Test(arguments: 1...30 as ClosedRange<UInt64>)
    func anyRunOfAFrameIsAFrameWithTheSameIdentities(seed: UInt64) throws {
        var generator = SeededGenerator(seed: seed)
        for frame in randomBatch(using: &generator).frames {
            let whole = messages(of: frame)
            let parts = try #require(FrameParts(header: frame.encoded(), records: ByteBuffer()) ?? split(frame))
            #expect(parts.count == frame.records.count)
            let lower = Int.random(in: 0..<parts.count, using: &generator)
            let upper = Int.random(in: (lower + 1)...parts.count, using: &generator)
            var (header, records) = parts.encoded(lower..<upper)
            header.writeBuffer(&records)
            let part = try Frame.decode(header)
            #expect(part.epoch == frame.epoch && part.clock == frame.clock)
            #expect(messages(of: part) == Array(whole[lower..<upper]))
            #expect(Array(part.records.map(\.payload)) == frame.records[lower..<upper].map(\.payload))
            let message = parts.message(at: lower)
            #expect([message.device, "\(message.sequence)", "\(message.number)"] == whole[lower])
            #expect(message.topic == frame.records[lower].topic && message.payload == frame.records[lower].payload)
            #expect(message.properties == frame.records[lower].properties)
        }
    }

    @Test func whatIsBuiltAsAFrameIsTakenApartWhateverIsInIt() throws {
        var frame = sampleFrame()
        frame.records[1].topic = ByteBuffer(bytes: [0, 0xFF])
        frame.devices[1].id = "\u{7}"
        let parts = try #require(split(frame))
        #expect(parts.message(at: 1).topic == ByteBuffer(bytes: [0, 0xFF]))
        var (header, records) = parts.encoded(2..<3)
        header.writeBuffer(&records)
        #expect(try Frame.decode(header).records == [frame.records[2]], "a good one beside it passes")
        #expect(FrameParts(header: bytes("no frame"), records: ByteBuffer()) == nil)
        #expect(FrameParts(header: frame.encoded(), records: bytes("x")) == nil)
    }

    private func split(_ frame: Frame) -> FrameParts? {
        var header = ByteBuffer()
        FrameHeader.encode(
            epoch: frame.epoch, firstSequence: frame.firstSequence, clock: frame.clock, into: &header)
        for device in frame.devices { FrameHeader.encode(device, into: &header) }
        let all = frame.encoded()
        let records = all.getSlice(at: header.readableBytes, length: all.readableBytes - header.readableBytes)
        return FrameParts(header: header, records: records ?? ByteBuffer())
    }

    private func messages(of frame: Frame) -> [[String]] {
        var numbers = frame.devices.map(\.firstNumber)
        return frame.records.enumerated().map { index, record in
            defer { numbers[record.device] += 1 }
            return [
                frame.devices[record.device].id, "\(frame.firstSequence + UInt64(index))", "\(numbers[record.device])",
            ]
        }
    }
}
