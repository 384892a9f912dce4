import MQTTSession
import NIOCore
import Operations
import SyncModel

extension BufferStore {
    func commit(_ drafts: [FrameDraft], changes: [DurableChange]) -> Result<CommitReceipt, BufferError> {
        let start = Clock.monotonic()
        let drafts = drafts.filter { $0.count > 0 }
        let messages = drafts.reduce(0) { $0 + $1.count }
        let first = messages == 0 ? 0 : lastSequence + 1
        if messages == 0 && changes.isEmpty {
            if let failure { return .failure(failure) }
            return .success(receipt(first: first, messages: messages, duration: 0))
        }
        if isDoubtStored, messages != doubtful {
            // Its sequences are taken, and nobody would be told that it is stored.
            distrust(
                .corrupt(
                    "\(configuration.path): a group of \(doubtful) messages was in doubt, \(messages) came instead"))
        }
        if let receipt = receiptOfDoubt(drafts, messages: messages) { return .success(receipt) }
        let size = drafts.reduce(0) { $0 + Int64($1.records.readableBytes) }
        if messages > 0, let refusal = refusalToUseReserve(for: size) { return .failure(refusal) }
        var numbered = 0
        var isRepeated = false
        var stamp: WrittenStamp?
        let stamps = messages > 0 || isStampDue
        let result = attempt(mayUseReserve: messages == 0 || configuration.dropsOldest) { () throws(SQLiteError) in
            for draft in drafts.prefix(numbered) { takeBackNumbers(of: draft) }
            numbered = 0
            try recallNumbers(of: drafts)
            var effect = CommitEffectOnStore(self)
            // The disk is full: pages for it have to come from the file, which must not grow in its log either.
            let mustDrop = isRepeated ? true : try lacksPages(for: size)
            if mustDrop { effect.drops.excess = max(effect.drops.excess, Self.reuseReserve) }
            isRepeated = true
            try transaction { () throws(SQLiteError) in
                try makeRoom(for: size, &effect.drops)
                if drafts.contains(where: \.isDiscarded) { effect.mayDiscard = try hasLedgerRoom() }
                var watch = clockWatch
                var actions: [ClockWatch.Action] = []
                for draft in drafts {
                    numbered += 1
                    let first = effect.sequence + 1
                    try place(
                        draft, firstSequence: first, after: &effect.last, &effect.drops, mayDiscard: effect.mayDiscard)
                    effect.sequence += UInt64(draft.count)
                    actions += watch.commit(draft.clock, epoch: epoch, sequences: first...effect.sequence)
                }
                if effect.drops.all != drops.all { try saveDrops(effect.drops) }
                for change in changes { try sessions.apply(change) }
                if messages > 0 { try saveEpoch(lastSequence: effect.sequence, lastFrame: effect.last.frame) }
                if stamps { stamp = try writeStamp(clocks, watch, actions: actions) }
                // Under load a slice of answered frames goes with the commit and costs no fsync of its own.
                effect.isDeletionDue = try deleteSlice(share: 4)
            }
            return effect
        }
        switch result {
        case .failure(let error):
            for draft in drafts.prefix(numbered) { takeBackNumbers(of: draft) }
            if case .failing = error { doubtful = messages }
            return .failure(error)
        case .success(let effect):
            lastSequence = effect.sequence
            last = effect.last
            isDeletionDue = effect.isDeletionDue
            doubtful = 0
            noteEnd()
            adopt(effect.drops)
            if effect.mayDiscard { countDiscarded(in: drafts) }
        }
        if let stamp { stamped(stamp) }
        // The commit stands whatever the look at the disk says; a damage found there is told to the next caller.
        _ = attempt { () throws(SQLiteError) in try refreshFill(committed: true) }
        if messages > 0 { shared.announce() }
        return .success(receipt(first: first, messages: messages, duration: Clock.monotonic() - start))
    }

    func noteEnd() {
        if lastSequence > 0 { configuration.noteEnd(KnownEnd(epoch: epoch, lastSequence: lastSequence)) }
    }

    /// What a commit changes of what is remembered.
    private struct CommitEffectOnStore {
        var last: FramePosition
        var sequence: UInt64
        var isDeletionDue: Bool
        var drops: DropState
        var mayDiscard = true

        init(_ store: BufferStore) {
            (last, sequence) = (store.last, store.lastSequence)
            (isDeletionDue, drops) = (store.isDeletionDue, store.drops)
        }
    }

    /// The commit of a group failed and its fate was unknown. The file, opened anew, has it: what comes now is the same
    /// group again, and it is not stored twice.
    private func receiptOfDoubt(_ drafts: [FrameDraft], messages: Int) -> CommitReceipt? {
        defer { isDoubtStored = false }
        guard failure == nil, isDoubtStored, messages == doubtful else { return nil }
        doubtful = 0
        for draft in drafts { _ = giveNumbers(to: draft) }
        let first = lastSequence + 1
        lastSequence += UInt64(messages)
        noteEnd()
        shared.announce()
        return receipt(first: first, messages: messages, duration: 0)
    }

    /// While the reserve is given up, messages go only where the file itself has room: what is left of the disk is for
    /// answers and deletions.
    private func refusalToUseReserve(for size: Int64) -> BufferError? {
        guard configuration.reserveBytes > 0, !reserve.isHeld, !configuration.dropsOldest else { return nil }
        let result = attempt(mayUseReserve: false) { () throws(SQLiteError) in
            try refreshFill(committed: false)
            return try lacksPages(for: size)
        }
        switch result {
        case .failure(let error): return error
        case .success(let lacksPages): return lacksPages ? .full : nil
        }
    }

    /// The reserve is given up, or there never was room for it, and neither the file nor the disk has room for messages of
    /// so many bytes and for what must go on beside them.
    private func lacksPages(for size: Int64) throws(SQLiteError) -> Bool {
        guard configuration.reserveBytes > 0, !reserve.isHeld else { return false }
        try lookAtPages()
        let needed = 2 * size + Self.reuseReserve / 16
        guard disk.freeBytes < needed else { return false }
        return configuration.space.freeBytes(configuration.path).map { $0 < needed + Self.reuseReserve } ?? true
    }

    private func receipt(first: UInt64, messages: Int, duration: Int64) -> CommitReceipt {
        CommitReceipt(
            epoch: epoch, firstSequence: first, lastSequence: lastSequence, messageCount: messages, duration: duration)
    }

    /// - Parameter statement: has the columns of `insertFrame`.
    func insert(
        _ draft: FrameDraft, firstSequence: UInt64, after end: inout FramePosition, by statement: SQLiteStatement,
        rank: Int64
    ) throws(SQLiteError) {
        let header = draft.header(epoch: epoch, firstSequence: firstSequence, firstNumbers: giveNumbers(to: draft))
        let bytes = Int64(header.readableBytes + draft.records.readableBytes)
        end.frame += 1
        end.messages += Int64(draft.count)
        end.bytes += bytes
        statement.bind(1, end.frame)
        statement.bind(2, epochRow)
        statement.bind(3, Int64(firstSequence))
        statement.bind(4, Int64(draft.count))
        statement.bind(5, bytes)
        statement.bind(6, end.messages)
        statement.bind(7, end.bytes)
        statement.bind(8, draft.clock.wallTime)
        statement.bind(11, rank)
        statement.bind(
            12,
            FrameChecksum.of(id: end.frame, totalMessages: end.messages, header: header, records: draft.records))
        try statement.run(blob: (9, header), blob: (10, draft.records))
    }

    func saveEpoch(lastSequence: UInt64, lastFrame: Int64) throws(SQLiteError) {
        let statement = statements.saveEpoch
        statement.bind(1, Int64(lastSequence))
        statement.bind(2, lastFrame)
        statement.bind(3, epochRow)
        try statement.run()
    }
}
