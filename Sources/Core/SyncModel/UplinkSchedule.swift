import Flow

/// Which lane may send, and when: shares, waits, the cap on bandwidth and the hour's bytes. Times are microseconds.
struct UplinkSchedule: Sendable {
    enum Turn: Equatable {
        case lane(Lane)
        case at(Int64)
        /// No lane has anything to send.
        case none
    }

    /// Bytes of the smallest batch, however slow the link is: below, the headers rule.
    static let smallestBatch = 64 * 1024
    /// Bytes of the smallest part of a batch for which the link was too slow.
    static let smallestPart = 4 * 1024
    /// Microseconds; after a part that took less the next one may be twice as large.
    static let quickPart: Int64 = 2_500_000
    /// Seconds that one batch may keep the link, so that live data does not wait long behind a backlog's.
    private static let longestBatch = 5.0
    /// The same with a cap: the link is then quiet for as long.
    private static let longestCappedBatch = 2

    private let settings: UplinkState.Settings
    private var bucket: TokenBucket?
    private var hours: [Lane: HourMeter]
    private var heldUntil: [Lane: Int64] = [:]
    /// What each lane has had, divided by its share: the smaller one's turn it is.
    private var spent: [Lane: Double] = [.live: 0, .backlog: 0]
    /// Bytes of frames that one second takes, as last measured; a first batch is small, since nothing is known.
    private var pace: Double?

    init(_ settings: UplinkState.Settings, at now: Int64) {
        self.settings = settings
        hours = [.live: HourMeter(at: now), .backlog: HourMeter(at: now)]
        bucket = settings.bandwidth.map { TokenBucket(rate: Double($0), burst: 1, at: now) }
    }

    /// Of frames in the next batch.
    var maximumBytes: Int {
        var bytes = min(settings.maximumBatch, pace.map { Int($0 * Self.longestBatch) } ?? settings.fullBatch)
        if let bandwidth = settings.bandwidth { bytes = min(bytes, bandwidth * Self.longestCappedBatch) }
        return max(bytes, min(Self.smallestBatch, settings.maximumBatch))
    }

    /// Whether so many bytes are too many for new data to wait behind them: a slow link needs long for few.
    func isBacklog(_ bytes: Int) -> Bool { bytes > min(settings.smallBacklog, 2 * maximumBytes) }

    mutating func hours(at now: Int64) -> (current: Int, previous: Int) {
        var sum = (current: 0, previous: 0)
        for lane in [Lane.live, .backlog] {
            sum.current += hours[lane]?.current(at: now) ?? 0
            sum.previous += hours[lane]?.previous(at: now) ?? 0
        }
        return sum
    }

    /// - Parameter lane: `nil`: both.
    mutating func hold(_ lane: Lane? = nil, until time: Int64) {
        for held in lane.map({ [$0] }) ?? [.live, .backlog] { heldUntil[held] = max(heldUntil[held] ?? 0, time) }
    }

    /// - Parameters:
    ///   - bytes: as sent, compressed.
    ///   - time: from the cut to the answer.
    mutating func charge(_ lane: Lane, bytes: Int, time: Int64, at now: Int64) {
        hours[lane]?.add(bytes, at: now)
        // The turn came with no debt open, so all of it is taken now, and paid off before the next turn.
        _ = bucket?.take(Int64(bytes), at: now)
        let share = lane == .backlog ? settings.backlogShare : 100 - settings.backlogShare
        let cost = settings.bandwidth == nil ? Double(max(time, 1)) : Double(max(bytes, 1))
        spent[lane, default: 0] += cost / Double(max(share, 1))
    }

    /// A whole batch was taken by the cloud.
    mutating func sent(bytes: Int, time: Int64) {
        // A small one measures the way there and back.
        guard bytes >= min(Self.smallestBatch, settings.fullBatch) else { return }
        pace = Double(bytes) * 1e6 / Double(max(time, 1))
    }

    /// A whole batch failed after that time: the link is at most half as fast as that would have been.
    mutating func tookTooLong(bytes: Int, time: Int64) {
        let failed = Double(bytes) * 1e6 / Double(max(time, 1)) / 2
        pace = min(pace ?? failed, failed)
    }

    /// - Parameter due: lanes that have something to send, and from when.
    mutating func turn(due: [Lane: Int64], at now: Int64) -> Turn {
        var times: [Lane: Int64] = [:]
        for (lane, time) in due {
            times[lane] = max(time, heldUntil[lane] ?? 0, bandwidthTime(at: now), hourTime(lane, at: now))
        }
        let ready = times.filter { $0.value <= now }.keys
        guard let first = ready.min(by: { order($0) < order($1) }) else {
            return times.values.min().map { .at($0) } ?? .none
        }
        // Who has nothing to send saves nothing up.
        for lane in [Lane.live, .backlog] where !ready.contains(lane) {
            spent[lane] = max(spent[lane] ?? 0, spent[first] ?? 0)
        }
        return .lane(first)
    }

    /// Live first where both have had the same.
    private func order(_ lane: Lane) -> (Double, UInt8) { (spent[lane] ?? 0, lane.rawValue) }

    private mutating func bandwidthTime(at now: Int64) -> Int64 {
        guard let bandwidth = settings.bandwidth, let available = bucket?.available(at: now), available < 1 else {
            return now
        }
        return now + (1 - available) * 1_000_000 / Int64(max(bandwidth, 1)) + 1
    }

    private mutating func hourTime(_ lane: Lane, at now: Int64) -> Int64 {
        isHourSpent(lane, at: now) ? hours[lane]?.nextHour(at: now) ?? now : now
    }

    /// A backlog may spend its share of the hour's bytes, so that live data has the rest.
    mutating func isHourSpent(_ lane: Lane, at now: Int64) -> Bool {
        guard let budget = settings.bytesPerHour else { return false }
        let backlog = hours[.backlog]?.current(at: now) ?? 0
        let isSpent = hours(at: now).current >= budget
        let isShareSpent = lane == .backlog && backlog >= budget / 100 * settings.backlogShare
        return isSpent || isShareSpent
    }
}
