import Flow
import Testing

@testable import SyncModel

private let second: Int64 = 1_000_000

private func mark(_ time: Int64, _ segment: Int64) -> LogAge.Mark { LogAge.Mark(time: time * second, segment: segment) }

@Suite struct LogAgeTests {
    /// The marks of a file, as the log keeps them.
    private struct File {
        var marks: [Int64: Int64] = [:]

        var last: LogAge.Mark? { marks.max { $0.key < $1.key }.map { LogAge.Mark(time: $0.key, segment: $0.value) } }

        mutating func write(_ new: [LogAge.Mark]) { for mark in new { marks[mark.time] = mark.segment } }

        func expired(_ age: LogAge, keeping retention: Int64, _ monotonic: Int64) -> Int64 {
            switch age.expired(keeping: retention, monotonic: monotonic) {
            case .through(let segment): segment
            case .marked(let limit): marks.filter { $0.key <= limit }.max { $0.key < $1.key }?.value ?? 0
            }
        }
    }

    @Test func marksAreWrittenSeldom() {
        var age = LogAge(after: nil, newest: 0, monotonic: 7 * second)
        #expect(age.end(monotonic: 8 * second) == [])
        #expect(age.append(through: 2, monotonic: 9 * second) == [mark(2, 2)])
        #expect(age.append(through: 3, monotonic: 9 * second + 999_999) == [])
        #expect(
            age.append(through: 4, monotonic: 10 * second) == [
                LogAge.Mark(time: 2 * second + 999_999, segment: 3), mark(3, 4),
            ])
        #expect(age.append(through: 5, monotonic: 11 * second) == [mark(4, 5)])
        #expect(age.end(monotonic: 12 * second) == [mark(5, 5)])
        #expect(age.append(through: 6, monotonic: 11 * second + 5) == [])
        #expect(age.end(monotonic: 12 * second) == [LogAge.Mark(time: 4 * second + 5, segment: 6), mark(5, 6)])
    }

    @Test func aRunGoesOnWhereTheLastOneEnded() {
        let age = LogAge(after: mark(50, 9), newest: 9, monotonic: 1_000 * second)
        #expect(age.end(monotonic: 1_003 * second) == [mark(50, 9), mark(53, 9)])
        // A clock that goes back against its promise.
        #expect(age.end(monotonic: 0) == [mark(50, 9)])
    }

    @Test func whatHasNoMarkIsAsOldAsTheRun() {
        let age = LogAge(after: nil, newest: 40, monotonic: second)
        #expect(age.expired(keeping: 10 * second, monotonic: 11 * second - 1) == .marked(notAfter: -1))
        #expect(age.expired(keeping: 10 * second, monotonic: 11 * second) == .through(40))
        var next = LogAge(after: mark(5, 40), newest: 42, monotonic: 0)
        #expect(next.append(through: 43, monotonic: 2 * second) == [mark(5, 42), mark(7, 43)])
    }

    /// Against a log that knows each segment's true running time: none goes early, and none stays for longer than the marks are
    /// apart and crashes forget.
    @Test(arguments: 0..<200)
    func nothingGoesEarlyOrStaysLong(seed: UInt64) {
        var random = SplitMix64(seed: seed)
        var file = File()
        let retention = random.upTo(60) * second + second
        var written: [(segment: Int64, time: Int64)] = []
        var running: Int64 = 0
        var forgotten: Int64 = 0
        for _ in 0..<6 {
            let boot = random.upTo(1_000) * second
            var age = LogAge(after: file.last, newest: written.last?.segment ?? 0, monotonic: boot)
            var now = boot
            var sinceCommit: Int64 = 0
            for _ in 0..<random.upTo(80) {
                let step = random.upTo(3) == 0 ? random.upTo(20) * second : random.upTo(700_000)
                now += step
                running += step
                sinceCommit += step
                if random.upTo(2) > 0 {
                    written.append(((written.last?.segment ?? 0) + 1 + random.upTo(2), running))
                    file.write(age.append(through: written.last!.segment, monotonic: now))
                    sinceCommit = 0
                }
                let through = file.expired(age, keeping: retention, now)
                let limit = retention + forgotten + LogAge.interval
                #expect(written.allSatisfy { $0.segment > through || running - $0.time >= retention }, "early")
                #expect(written.allSatisfy { $0.segment <= through || running - $0.time <= limit }, "late")
            }
            if random.upTo(1) == 0 {
                file.write(age.end(monotonic: now))
            } else {
                // What has no mark begins to age with the next run.
                forgotten += sinceCommit + LogAge.interval
            }
        }
        #expect(!written.isEmpty)
    }

    @Test func appendTimesKeepTheirOrderUntilAClockIsSetBack() {
        let last = 1_000 * second
        #expect(LogAppendTime.next(after: last, wall: last + 1) == last + 1)
        #expect(LogAppendTime.next(after: last, wall: last - LogAppendTime.tolerance) == last)
        #expect(LogAppendTime.next(after: last, wall: last - LogAppendTime.tolerance - 1) == 940 * second - 1)
        #expect(LogAppendTime.next(after: 0, wall: last) == last)
    }
}

extension SplitMix64 {
    fileprivate mutating func upTo(_ maximum: Int64) -> Int64 { .random(in: 0...maximum, using: &self) }
}
