import DeadLetters
import EventLog
import NIOCore
import Testing

private func record(_ partition: Int32, _ offset: Int64, bytes: Int = 10) -> StoredLogRecord {
    StoredLogRecord(
        partition: partition, offset: offset, appendTime: offset,
        record: LogRecord(key: "k", value: ByteBuffer(repeating: 7, count: bytes - 1), headers: []))
}

@Suite struct RangeCollectorTests {
    private let length = DeadLetterRange.length

    @Test func aRangeBeginsAtAMultipleWhereverTheOffsetLies() {
        var collector = RangeCollector()
        #expect(
            collector.begin(partition: 3, next: 1_500, logFirst: 0) == .init(partition: 3, offset: 1_024))
        for offset in 1_024..<Int64(2_047) { #expect(collector.add(record(3, offset)) == .none) }
        guard case .complete(let range, let records) = collector.add(record(3, 2_047)) else {
            Issue.record("not complete")
            return
        }
        #expect(range.start == 1_024 && range.end == 2_048)
        #expect(records.map(\.offset) == Array(1_024..<2_048))
        // The next one begins by itself.
        #expect(collector.add(record(3, 2_048)) == .none)
    }

    @Test func whatTheLogForgotIsNotWaitedFor() {
        var collector = RangeCollector()
        #expect(collector.begin(partition: 0, next: 1_500, logFirst: 1_200)?.offset == 1_200)
        #expect(collector.begin(partition: 0, next: 1_500, logFirst: 1_501) == nil)
        #expect(collector.add(record(0, 1_501)) == .none)
    }

    @Test func recordsOfBeforeASeekAreLeftOutAndAHoleBlocks() {
        var collector = RangeCollector()
        _ = collector.begin(partition: 0, next: 0, logFirst: 0)
        #expect(collector.add(record(0, 700)) == .none)
        #expect(collector.add(record(0, 0)) == .none)
        #expect(collector.add(record(0, 0)) == .none)
        #expect(collector.add(record(0, 1)) == .none)
        guard case .blocked(0, _) = collector.add(record(0, 3)) else {
            Issue.record("a hole went by")
            return
        }
        #expect(collector.add(record(0, 2)) == .none)
    }

    @Test func aRangeThatIsTooLargeStaysInTheLog() {
        var collector = RangeCollector(maximumRangeBytes: 100)
        _ = collector.begin(partition: 0, next: 0, logFirst: 0)
        for offset in 0..<Int64(10) { #expect(collector.add(record(0, offset)) == .none) }
        guard case .blocked(0, let reason) = collector.add(record(0, 10)) else {
            Issue.record("it went on")
            return
        }
        #expect(reason.contains("100 bytes"))
    }

    /// Three partitions, interleaved, of which two ranges fit: the log is read as the collector says, and each range is
    /// there once and whole.
    @Test func memoryIsBoundedAndEveryRangeIsReadInTheEnd() {
        var collector = RangeCollector(maximumRangeBytes: Int(length) * 10)
        var positions: [Int32: Int64] = [:]
        for partition in Int32(0)..<3 {
            positions[partition] = collector.begin(partition: partition, next: 0, logFirst: 0)?.offset
        }
        let ends: [Int32: Int64] = [0: length * 2, 1: length + 5, 2: length * 2 + 900]
        var complete: [String] = []
        var rounds = 0
        while complete.count < 5, rounds < 100_000 {
            rounds += 1
            var isIdle = true
            for partition in Int32(0)..<3 {
                guard let position = positions[partition], position < ends[partition]! else { continue }
                isIdle = false
                positions[partition] = position + 1
                if case .complete(let range, let records) = collector.add(record(partition, position)) {
                    complete.append("\(partition) \(range.start)")
                    #expect(records.map(\.offset) == Array(range.start..<range.end))
                    for seek in collector.takeSeeks(isAtEnd: false) { positions[seek.partition] = seek.offset }
                }
            }
            if isIdle { for seek in collector.takeSeeks(isAtEnd: true) { positions[seek.partition] = seek.offset } }
        }
        #expect(complete.sorted() == ["0 0", "0 1024", "1 0", "2 0", "2 1024"])
    }
}

@Suite struct DeadLetterObjectTests {
    private func object() -> DeadLetterObject {
        var records = (0..<DeadLetterRange.length).map { record(2, 2_048 + $0, bytes: Int($0 % 50) + 1) }
        records[7].record.headers = [.init(name: "traceparent", value: "00-1")]
        return DeadLetterObject(
            incarnation: "a/b:c", range: DeadLetterRange(partition: 2, containing: 2_048), records: records)
    }

    @Test func bytesComeBackAsTheyWere() throws {
        let object = object()
        #expect(object.key == "dead-letters/a_b_c/2/0000000000000002048-0000000000000003072")
        #expect(try DeadLetterObject(decoding: object.encoded()) == object)
        #expect(try object.encoded() == object.encoded())
    }

    @Test func anythingDamagedIsNoticed() throws {
        let bytes = try object().encoded()
        for position in stride(from: 0, to: bytes.readableBytes, by: 97) {
            var changed = bytes
            changed.setInteger(changed.getInteger(at: position, as: UInt8.self)! ^ 0x55, at: position)
            let decoded = try? DeadLetterObject(decoding: changed)
            #expect(decoded == nil || DeadLetterObject.digest(changed) != DeadLetterObject.digest(bytes))
            #expect(throws: DeadLetterError.self) {
                _ = try DeadLetterObject(decoding: bytes.getSlice(at: 0, length: position)!)
            }
        }
    }
}
