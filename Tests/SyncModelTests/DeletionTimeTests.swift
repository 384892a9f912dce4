import SyncModel
import Testing

@Suite struct DeletionTimeTests {
    private static let hour: Int64 = 3_600_000_000
    private static let day = 24 * hour
    private static let now = 20_000 * day

    private func time(
        process: Int64 = now, database: Int64 = now, _ looks: [DeletionTime.Look]
    ) -> DeletionTime {
        DeletionTime(.init(process: process, database: database), looks: looks)
    }

    private func look(witnessed: Int64? = nil, newest: Int64? = nil) -> DeletionTime.Look {
        .init(witnessed: witnessed, newest: newest)
    }

    @Test func withDataItIsTheEarlierClock() {
        let looks = [look(witnessed: Self.now - 5, newest: Self.now - 1)]
        #expect(time(looks).limit == Self.now)
        #expect(time(process: Self.now + 400 * Self.day, looks).limit == Self.now)
        #expect(time(database: Self.now + 400 * Self.day, looks).limit == Self.now)
        #expect(time(process: Self.now - 400 * Self.day, looks).limit == Self.now - 400 * Self.day)
        #expect(time(database: Self.now - Self.day, looks).limit == Self.now - Self.day)
        #expect(time(looks).ahead == 0 && !time(looks).isHeldBack)
    }

    @Test func withoutRowsNothingGoes() {
        let nothing = time([look(), look(), look(), look()])
        #expect(nothing.limit == nil && nothing.ahead == 0 && !nothing.isHeldBack)
    }

    /// Two days without data change nothing; of a clock that is a week ahead people are told.
    @Test func bothClocksMayBeAheadOfTheData() {
        let old = { (days: Int64) in time([look(witnessed: Self.now - days * Self.day)]) }
        #expect(old(2).limit == Self.now && old(2).ahead == 0)
        #expect(old(3).limit == Self.now - Self.day && old(3).ahead == Self.day && !old(3).isHeldBack)
        #expect(old(9).limit == Self.now - 7 * Self.day && !old(9).isHeldBack)
        #expect(old(10).isHeldBack)
        // A clock that is ahead alone is told of too.
        let looks = [look(witnessed: Self.now)]
        #expect(time(process: Self.now + 8 * Self.day, looks).isHeldBack)
        #expect(!time(database: Self.now + 8 * Self.day, looks).isHeldBack)
    }

    /// The newest witness of all looks counts, whatever the log says.
    @Test func aWitnessOutweighsTheLog() {
        let old = Self.now - 300 * Self.day
        let looks = [
            look(newest: Self.now), look(witnessed: old - 5, newest: Self.now - Self.hour), look(witnessed: old),
            look(newest: Self.now - 4 * Self.day),
        ]
        #expect(time(looks).evidence == old && time(looks).isHeldBack)
    }

    /// Without one it is the log's word of four days ago: a clock that has just stepped has none.
    @Test func theLogAloneIsBelievedLate() {
        let old = Self.now - 300 * Self.day
        let young = [look(newest: Self.now), look(newest: Self.now - Self.hour), look(newest: Self.now - Self.day)]
        #expect(time(young + [look(newest: old)]).evidence == old)
        #expect(time(young + [look()]).limit == nil)
        let settled = time(young + [look(newest: Self.now - 4 * Self.day)])
        #expect(settled.limit == Self.now - 2 * Self.day && !settled.isHeldBack)
    }
}
