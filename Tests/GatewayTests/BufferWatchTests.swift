import Logging
import TestSupport
import Testing

@testable import Buffer
@testable import Gateway

/// What the log hears of a buffer that is full, and of dropping.
@Suite struct BufferWatchTests {
    private static let second: Int64 = 1_000_000
    private let lines = LogLines()

    private func fill(_ isFull: Bool) -> BufferFill {
        var fill = BufferFill()
        fill.isFull = isFull
        return fill
    }

    @Test(arguments: [BufferConcerns.Bound.configuredLimit, .disk])
    func fullIsToldOnceAndWellOnce(bound: BufferConcerns.Bound) {
        var watch = BufferWatch()
        var concerns = BufferConcerns()
        concerns.bound = bound
        // Emptied slowly, it is full at every other look for a minute.
        for step in 0..<1_200 as Range<Int64> {
            watch.look(at: fill(step % 2 == 0), concerns, now: step * Self.second / 20, logger: lines.logger)
        }
        #expect(lines.all.count == 1)
        #expect(lines.contains(.warning, bound == .disk ? "free disk space" : "raise the limit"))
        watch.look(at: fill(false), BufferConcerns(), now: 80 * Self.second, logger: lines.logger)
        watch.look(at: fill(false), BufferConcerns(), now: 90 * Self.second, logger: lines.logger)
        #expect(lines.all.count == 2 && lines.contains(.notice, "not full any more"))
        watch.look(at: fill(true), concerns, now: 91 * Self.second, logger: lines.logger)
        #expect(lines.all.count == 3)
    }

    @Test func droppingIsToldOnceAMinuteWithItsCount() {
        var watch = BufferWatch()
        var concerns = BufferConcerns()
        for step in 0..<130 as Range<Int64> {
            concerns.droppedForRoom += 10
            watch.look(at: fill(false), concerns, now: step * Self.second, logger: lines.logger)
        }
        #expect(lines.all.count == 3)
        #expect(zip(lines.all, ["10", "600", "600"]).allSatisfy { $0.contains("\"count\": \($1)") }, "\(lines.all)")
        concerns.expired += 7
        watch.look(at: fill(false), concerns, now: 200 * Self.second, logger: lines.logger)
        #expect(lines.contains(.warning, "maximumAge") && lines.all.count == 5)
        watch.look(at: fill(false), concerns, now: 400 * Self.second, logger: lines.logger)
        #expect(lines.all.count == 5, "nothing new")
    }
}
