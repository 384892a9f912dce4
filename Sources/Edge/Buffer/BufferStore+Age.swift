import MQTTSession
import SyncModel

extension Schema {
    /// Up to which frame the buffer had come at a moment of the gateway's own time (microseconds), so that age needs no
    /// column in each frame.
    static let ages = "CREATE TABLE age_mark (gateway_time INTEGER PRIMARY KEY, frame INTEGER NOT NULL);"
}

/// What is older than `maximumAge` goes, whatever its priority, with a ledger line. Age is the gateway's own time: no step of
/// the clock makes messages old.
extension BufferStore {
    /// Messages live longer than their age by so much at most, and a mark is written so often.
    private var ageInterval: Int64 { max(1_000_000, (configuration.maximumAge ?? 0) / 60) }
    /// One transaction expires so many frames.
    private static let expiredFrames = 4_096

    /// Seconds until `keepAge` has something to do; `nil`: never.
    var timeToAge: Double? {
        guard configuration.maximumAge != nil, epochRow != 0, last.frame > answered.prefix.frame || isAgeMarked
        else { return nil }
        return max(0, Double(nextAge - monotonicTime) / 1_000_000)
    }

    func keepAge() {
        guard let maximumAge = configuration.maximumAge, epochRow != 0, monotonicTime >= nextAge else { return }
        let now = gatewayNow()
        let result = attempt { () throws(SQLiteError) in
            var effect = (drops: drops, isMarked: false, isDone: true)
            try transaction { () throws(SQLiteError) in
                if try lastMark() < last.frame {
                    try connection.execute("INSERT OR REPLACE INTO age_mark VALUES (\(now), \(last.frame))")
                }
                effect.isDone = try expire(before: now - maximumAge, &effect.drops)
                if effect.drops.all != drops.all {
                    try saveDrops(effect.drops)
                    // The newest may be among them, and older ones left.
                    try saveEnd(last)
                }
                effect.isMarked = try lastMark() > 0
            }
            return effect
        }
        nextAge = monotonicTime + ageInterval
        guard case .success(let effect) = result else { return }
        let hasLines = effect.drops.all != drops.all || effect.drops.held != drops.held
        adopt(effect.drops)
        if hasLines { shared.announce() }
        isAgeMarked = effect.isMarked
        if !effect.isDone { nextAge = 0 }
        _ = attempt { () throws(SQLiteError) in try refreshFill(committed: false) }
    }

    private func lastMark() throws(SQLiteError) -> Int64 {
        try connection.integer("SELECT frame FROM age_mark ORDER BY gateway_time DESC LIMIT 1") ?? 0
    }

    /// - Returns: whether nothing is left to expire.
    private func expire(before time: Int64, _ state: inout DropState) throws(SQLiteError) -> Bool {
        let found = try connection.integer(
            "SELECT frame FROM age_mark WHERE gateway_time <= \(time) ORDER BY gateway_time DESC LIMIT 1")
        guard let limit = found else { return true }
        var frames = 0
        var next = answered.gap(after: FramePosition()).start.frame
        while let frame = try firstPosition(after: next)?.position.frame, frame <= limit {
            if let run = answered.runs.first(where: { $0.start.frame < frame && frame <= $0.end.frame }) {
                next = run.end.frame
                continue
            }
            // It may be on its way or stored already; the others do not wait for its answer, which an outage holds up.
            if let cut = openCuts.values.first(where: { $0.cut.firstFrame <= frame && frame <= $0.cut.lastFrame })?.cut
            {
                next = cut.lastFrame
                continue
            }
            guard frames < Self.expiredFrames else { return false }
            _ = try drop(frame, reason: .expiredByAge, &state)
            frames += 1
            next = frame
        }
        while let held = try oldestHeld(through: limit, state) {
            guard frames < Self.expiredFrames else { return false }
            _ = try dropHeld(held.id, of: held.queue, reason: .expiredByAge, &state)
            frames += 1
        }
        try connection.execute("DELETE FROM age_mark WHERE gateway_time <= \(time)")
        return true
    }
}
