import NIOCore
import Processor
import SyncModel
import Testing

/// What the database tells of the true time of rows whose gateway's clock was not set.
@Suite struct ClockCorrectionTests {
    private static let now: Int64 = 1_700_000_000_000_000
    private static let second: Int64 = 1_000_000
    private static let times = """
        SELECT concat_ws(' ', sequence, true_time(source, sequence, flags, time, device_time)) AS line FROM (
            SELECT source, sequence, flags, time, device_time FROM measurement
            UNION ALL SELECT source, sequence, flags, time, device_time FROM event) r ORDER BY sequence
        """

    private func messages(
        epoch: Epoch = epochOne, _ first: UInt64, at times: [Int64], synchronised: Bool, payload: String = "1"
    ) -> LogEntry {
        .messages(
            DeviceMessages(
                gateway: "g1", epoch: epoch, device: "d1", lane: .live, bootHigh: 1, bootLow: 1,
                messages: times.enumerated().map { index, time in
                    SyncedMessage(
                        sequence: first + UInt64(index), number: first + UInt64(index), qos: 1, wallTime: time,
                        isClockSynchronised: synchronised, topic: ByteBuffer(string: "t"),
                        payload: ByteBuffer(string: payload))
                }))
    }

    private func correction(_ sequences: ClosedRange<UInt64>, _ offset: Int64, epoch: Epoch = epochOne) -> LogEntry {
        .correction(gateway: "g1", ClockCorrection(epoch: epoch, sequences: sequences, offset: offset))
    }

    @Test func aRowsTrueTimeFollowsFromItsCorrection() async throws {
        let warehouse = try await Warehouse()
        let log = MemoryLog(partitions: 1)
        let early = 10 * Self.second
        await log.append(
            // A clock of 1970 that was then stepped back by less than it ran: equal wall times, other true ones.
            messages(1, at: [early, early + Self.second], synchronised: false),
            messages(3, at: [early + Self.second], synchronised: false),
            messages(4, at: [Self.now - 100 * Self.second], synchronised: false, payload: "no json"),
            messages(5, at: [Self.now], synchronised: true),
            messages(6, at: [Self.now], synchronised: false),
            correction(1...2, Self.now - 200 * Self.second - early),
            correction(3...3, Self.now - 150 * Self.second - early), correction(4...4, 7 * Self.second))
        try await warehouse.drain(log)
        let expected = [
            "1 2023-11-14 22:10:00+00", "2 2023-11-14 22:10:01+00", "3 2023-11-14 22:10:51+00",
            "4 2023-11-14 22:11:47+00", "5 2023-11-14 22:13:20+00", "6",
        ]
        #expect(try await warehouse.lines(Self.times) == expected)
        // Sent again, and another for the same messages: the first stays.
        await log.append(correction(1...2, 5), correction(4...4, 7 * Self.second))
        try await warehouse.drain(log)
        #expect(try await warehouse.lines(Self.times) == expected)
        #expect(try await warehouse.one("SELECT count(*) AS n FROM clock_correction") == "3")
    }

    @Test func aCorrectionMayComeBeforeItsMessagesAndTouchesNoOtherEpoch() async throws {
        let warehouse = try await Warehouse()
        let log = MemoryLog(partitions: 1)
        let other = Epoch(high: 9, low: 9)
        await log.append(correction(1...1, Self.second, epoch: other))
        try await warehouse.drain(log)
        await log.append(
            messages(1, at: [Self.now], synchronised: false),
            messages(epoch: other, 1, at: [Self.now], synchronised: false))
        try await warehouse.drain(log)
        #expect(try await warehouse.lines(Self.times) == ["1", "1 2023-11-14 22:13:21+00"])
    }

    /// A gateway may say anything with its own certificate: no time that PostgreSQL cannot tell, and no error.
    @Test func noCorrectionMakesATimeThatCannotBeTold() async throws {
        let warehouse = try await Warehouse()
        let log = MemoryLog(partitions: 1)
        await log.append(
            messages(1, at: [Self.now, .min, .max], synchronised: false),
            correction(1...1, SyncLimits.clockOffsets.lowerBound),
            correction(2...3, SyncLimits.clockOffsets.upperBound))
        try await warehouse.drain(log)
        #expect(try await warehouse.lines(Self.times) == ["1", "2", "3"])
    }

    /// A device's own time is not the gateway's to correct.
    @Test func aTimeFromThePayloadStays() async throws {
        let warehouse = try await Warehouse()
        let log = MemoryLog(partitions: 1)
        await log.append(
            messages(1, at: [5], synchronised: false, payload: #"{"ts":1699999990,"n":1}"#),
            correction(1...1, Self.now))
        try await warehouse.drain(log) { $0.timeField = "ts" }
        #expect(try await warehouse.lines(Self.times) == ["1 2023-11-14 22:13:10+00"])
    }
}
