import Flow
import Foundation
import MQTTSession
import NIOConcurrencyHelpers
import NIOCore
import SyncModel
import Testing

@testable import Buffer

/// A damaged file keeps nothing from starting, and nothing readable from arriving; what is lost has its ledger line.
@Suite struct SalvageTests {
    let scratch: Scratch

    init() throws { scratch = try Scratch() }

    private static let first = Epoch(high: 0, low: 1)

    /// Two epochs, some of the first answered; half of the frames with overflow pages.
    private func make(
        _ generator: inout SplitMix64, checkpoints: Bool, frames: Int = 60
    ) async throws -> (BufferFiles, BufferModel) {
        var model = BufferModel()
        for file in try FileManager.default.contentsOfDirectory(atPath: scratch.directory) {
            try FileManager.default.removeItem(atPath: scratch.directory + "/" + file)
        }
        let before = try scratch.open(epoch: 1)
        for index in 0..<frames {
            try await model.commit(
                1 + index % 4, payload: index % 2 == 0 ? 40 : 3_000, to: before, &generator)
        }
        let cut = try #require(try await before.nextCut(maximumBytes: 20_000, maximumMessages: 12))
        let stored = try await before.contents(of: cut).frames
        try await before.acknowledge(cut)
        await before.close()
        let count = stored.reduce(0) { $0 + $1.count }
        model.answered = Set(model.messages.filter { $0.sequence <= UInt64(count) })
        let after = try scratch.open(epoch: 2) {
            guard !checkpoints else { return }
            $0.checkpointPages = 1 << 20
            $0.idleCheckpointPages = 1 << 20
        }
        for index in 0..<frames {
            try await model.commit(1 + index % 3, payload: index % 2 == 0 ? 60 : 5_000, to: after, &generator)
        }
        if checkpoints { await after.close() }
        let files = try BufferFiles(at: scratch.path)
        if !checkpoints { await after.close() }
        return (files, model)
    }

    private struct Outcome {
        var found: Set<BufferModel.Message>
        var lost: Set<BufferModel.Message>
        var ledger: [LedgerLine]
        var salvage: SalvageReport?
        var audit: AuditReport
        var retained: Int
    }

    /// Starts with the files as they are, drains, and checks what holds whatever the damage was.
    private func start(
        _ files: BufferFiles, _ model: BufferModel, _ what: String = "", epoch: UInt64 = 9
    ) async throws -> Outcome {
        try files.put(to: scratch.path)
        var (buffer, restored) = try Buffer.open(
            scratch.configuration(), epoch: Epoch(high: 0, low: epoch), logger: quiet)
        // What is found after SQLite has opened the file has been checkpointed before.
        if let salvage = buffer.salvage, salvage.cause.hasPrefix("its ") {
            let kept = try BufferFiles(at: salvage.movedTo)
            #expect(kept.database == files.database && kept.log == files.log, "\(what): the damaged files are kept")
        }
        // It works.
        var later = model
        var generator = SplitMix64(seed: 77)
        try await later.commit(2, payload: 10, to: buffer, &generator)
        let new = later.messages.subtracting(model.messages)
        var drained = Drained()
        do {
            try await drained.drain(buffer)
        } catch BufferError.corrupt {
            // Found when it was read: the next start salvages.
            await buffer.close()
            (buffer, restored) = try Buffer.open(
                scratch.configuration(), epoch: Epoch(high: 0, low: epoch + 100), logger: quiet)
            #expect(buffer.salvage != nil, "\(what)")
            try await drained.drain(buffer)
        }
        let accounting = try await buffer.accounting()
        await buffer.close()
        #expect(drained.messages.count == Set(drained.messages).count, "\(what): none twice")
        let found = Set(drained.messages)
        #expect(found.isSubset(of: later.messages), "\(what): nothing under another identity or with other bytes")
        #expect(new.isSubset(of: found), "\(what)")
        let audit = drained.audit(accounting, answered: model.answered)
        #expect(audit.closed, "\(what): \(audit.problems)")
        let lost = model.waiting.subtracting(found)
        // Where it is not known what was answered, a line may name what the cloud has stored, and comes too late there.
        let isAnsweredKnown = buffer.salvage.map { $0.isProgressKnown && $0.isLedgerWhole } ?? true
        let named = isAnsweredKnown ? lost : lost.union(model.answered)
        for line in drained.ledger where line.device != MissingMessages.unknownDevice {
            for number in line.numbers {
                #expect(
                    named.contains { $0.epoch == line.epoch && $0.device == line.device && $0.number == number },
                    "\(what): \(line) names what is not lost")
            }
        }
        return Outcome(
            found: found.subtracting(new), lost: lost, ledger: drained.ledger, salvage: buffer.salvage, audit: audit,
            retained: restored.retained.count)
    }

    /// What is lost is in the ledger, and nothing else is. Where the ledger cannot be read whole, what was answered is named
    /// as well, or sent again.
    private func expectExact(_ outcome: Outcome, _ model: BufferModel, _ what: String) {
        guard outcome.salvage?.isLedgerWhole == true else {
            #expect(outcome.found.isSuperset(of: model.waiting.subtracting(outcome.lost)), "\(what)")
            let ended = model.answered.subtracting(outcome.found).union(outcome.lost)
            #expect(outcome.salvage?.missing == UInt64(ended.count), "\(what)")
            for message in ended {
                #expect(
                    outcome.ledger.contains { $0.epoch == message.epoch && $0.sequences ~= message.sequence },
                    "\(what): \(message.sequence) is nowhere")
            }
            return
        }
        #expect(outcome.found == model.waiting.subtracting(outcome.lost), "\(what)")
        #expect(outcome.salvage?.missing == UInt64(outcome.lost.count), "\(what)")
        let counted = outcome.ledger.reduce(UInt64(0)) { $0 + ($1.numbers.upperBound - $1.numbers.lowerBound + 1) }
        #expect(counted == UInt64(outcome.lost.count), "\(what)")
    }

    @Test func aWholeFileIsLeftAlone() async throws {
        var generator = SplitMix64(seed: 1)
        for checkpoints in [true, false] {
            let (files, model) = try await make(&generator, checkpoints: checkpoints)
            let outcome = try await start(files, model)
            #expect(outcome.salvage == nil && outcome.lost.isEmpty && outcome.ledger.isEmpty)
            #expect(outcome.found == model.waiting && outcome.retained == 1)
        }
    }

    /// mosquitto#2639: the file's whole length is there, and all of it is zeros.
    @Test func aFileOfZerosIsReplaced() async throws {
        var generator = SplitMix64(seed: 2)
        var (files, model) = try await make(&generator, checkpoints: true)
        for index in files.database.indices { files.database[index] = 0 }
        model.answered = model.messages
        let outcome = try await start(files, model)
        #expect(outcome.found.isEmpty && outcome.salvage?.frames == 0)
    }

    @Test func aFileOfGarbageIsReplaced() async throws {
        var generator = SplitMix64(seed: 3)
        var (files, model) = try await make(&generator, checkpoints: true)
        for index in files.database.indices { files.database[index] = UInt8(truncatingIfNeeded: generator.next()) }
        model.answered = model.messages
        let outcome = try await start(files, model)
        #expect(outcome.found.isEmpty && outcome.salvage?.frames == 0)
    }

    /// Zeros over the database file while the log still has what was written last.
    @Test func theLogIsReadWithoutItsDatabase() async throws {
        var generator = SplitMix64(seed: 4)
        var (files, model) = try await make(&generator, checkpoints: false)
        for index in files.database.indices { files.database[index] = 0 }
        let outcome = try await start(files, model)
        #expect(outcome.salvage != nil)
        let second = model.messages.filter { $0.epoch.low == 2 }
        #expect(second.isSubset(of: outcome.found), "all of the second epoch is in the log")
    }

    /// The first page has the header and the table of tables: without it no table is found, and every frame is.
    @Test(arguments: [UInt8(0), 0xff]) func aLostFirstPageLosesNoFrame(byte: UInt8) async throws {
        var generator = SplitMix64(seed: 5)
        var (files, model) = try await make(&generator, checkpoints: true)
        files.overwritePage(0, with: byte)
        let outcome = try await start(files, model)
        expectExact(outcome, model, "first page")
        #expect(outcome.lost.isEmpty && outcome.salvage?.isProgressKnown == true)
    }

    /// Each mark and each move in turn is the first that does not happen any more.
    @Test(arguments: 1...6) func aMachineThatEndsWithinASalvageLosesNothing(change: Int) async throws {
        var generator = SplitMix64(seed: 90)
        var (files, model) = try await make(&generator, checkpoints: false)
        files.overwritePage(0, with: 0)
        try files.put(to: scratch.path)
        let changes = NIOLockedValueBox(0)
        let ending = scratch.configuration {
            $0.beforeFileChange = { () throws(BufferError) in
                let count = changes.withLockedValue { value in
                    value += 1
                    return value
                }
                if count >= change { throw .io("the power is gone") }
            }
        }
        #expect(throws: BufferError.self) {
            try Buffer.prepare(ending, epoch: Epoch(high: 0, low: 8), shared: BufferShared())
        }
        #expect(changes.withLockedValue { $0 } >= change)
        let (buffer, _) = try Buffer.open(scratch.configuration(), epoch: Epoch(high: 0, low: 9), logger: quiet)
        var drained = Drained()
        try await drained.drain(buffer)
        await buffer.close()
        // Without its first page nothing tells that the ledger is whole, so what was answered may come again.
        let found = Set(drained.messages)
        #expect(found.isSuperset(of: model.waiting) && found.isSubset(of: model.messages))
        #expect(drained.messages.count == found.count)
    }

    @Test func aLostInteriorPageLosesNothing() async throws {
        var generator = SplitMix64(seed: 6)
        let (whole, model) = try await make(&generator, checkpoints: true)
        let interior = (1..<whole.pages).filter { whole.kind(ofPage: $0) == .tableInterior }
        #expect(!interior.isEmpty)
        for page in interior {
            var files = whole
            files.overwritePage(page, with: 0)
            let outcome = try await start(files, model, "page \(page)")
            expectExact(outcome, model, "page \(page)")
            #expect(outcome.lost.isEmpty && outcome.retained == 1)
        }
    }

    /// Every eleventh page in turn: a leaf takes the frames on it, an overflow page one frame, and no other is touched.
    @Test(arguments: [UInt8(0), 0xa5]) func aLostPageTakesOnlyWhatIsOnIt(byte: UInt8) async throws {
        var generator = SplitMix64(seed: 7)
        let (whole, model) = try await make(&generator, checkpoints: true)
        var losses = 0
        for page in stride(from: 1, to: whole.pages, by: 11) {
            var files = whole
            files.overwritePage(page, with: byte)
            let outcome = try await start(files, model, "page \(page)")
            guard outcome.salvage != nil else {
                #expect(outcome.lost.isEmpty)
                continue
            }
            if outcome.salvage?.isProgressKnown == true, outcome.salvage?.isLedgerWhole == true {
                #expect(outcome.audit.dropped["damaged"] ?? 0 == outcome.lost.count, "page \(page)")
            }
            #expect(outcome.lost.count <= 60, "page \(page)")
            losses += outcome.lost.count
        }
        #expect(losses > 0)
    }

    @Test func aFileThatIsCutOffKeepsWhatIsBefore() async throws {
        var generator = SplitMix64(seed: 8)
        let (whole, model) = try await make(&generator, checkpoints: true)
        var found = 0
        for part in [2, 3, 5, 9] {
            var files = whole
            files.database.removeLast(files.database.count / part - part)
            let outcome = try await start(files, model, "1/\(part) cut off")
            #expect(outcome.salvage != nil)
            found = max(found, outcome.found.count)
        }
        #expect(found > model.waiting.count / 2)
    }

    /// Recovery would end at the wrong byte without a word.
    @Test func oneWrongByteInTheLogLosesWhatItHit() async throws {
        var generator = SplitMix64(seed: 9)
        let (whole, model) = try await make(&generator, checkpoints: false)
        var intact = 0
        for round in 0..<20 {
            var files = whole
            let offset = 32 + Int(generator.next() % UInt64(files.log.count * 3 / 4))
            files.log[offset] ^= 1 << UInt8(generator.next() % 8)
            let outcome = try await start(files, model, "round \(round)")
            #expect(outcome.salvage?.cause.contains("beyond frame") == true, "round \(round)")
            expectExact(outcome, model, "round \(round)")
            #expect(outcome.lost.count <= 60, "round \(round): what was on one page, at most")
            if outcome.lost.isEmpty { intact += 1 }
        }
        #expect(intact > 0, "a later version of the page has all of it")
    }

    /// SQLite's pages have no checksums; the frames have.
    @Test func oneWrongByteInAPayloadIsFoundWhenItIsRead() async throws {
        var generator = SplitMix64(seed: 10)
        let (files, model) = try await make(&generator, checkpoints: true)
        let message = try #require(model.waiting.first { $0.payload.count > 5_000 })
        let place = try #require(
            Data(files.database).range(of: Data(message.payload.prefix(12).utf8)))
        try files.put(to: scratch.path)
        // Of a small file a start looks at the frames, so it comes later; the cache is too small to hold them.
        let buffer = try scratch.open(epoch: 8) { $0.cacheBytes = 64 * 1024 }
        let handle = try #require(FileHandle(forUpdatingAtPath: scratch.path))
        try handle.seek(toOffset: UInt64(place.lowerBound))
        try handle.write(contentsOf: [files.database[place.lowerBound] ^ 1])
        try handle.close()
        await #expect(throws: BufferError.self) {
            var drained = Drained()
            try await drained.drain(buffer)
        }
        await buffer.close()
        #expect(FileManager.default.fileExists(atPath: scratch.path + ".suspect"))
        let again = try scratch.open(epoch: 9)
        let salvage = try #require(again.salvage)
        #expect(salvage.cause.contains("checksum") && salvage.missing > 0 && salvage.missing <= 4)
        #expect(!FileManager.default.fileExists(atPath: scratch.path + ".suspect"))
        var drained = Drained()
        try await drained.drain(again)
        #expect(Set(drained.messages).isSubset(of: model.messages) && !drained.messages.contains(message))
        await again.close()
    }

    /// Nothing that a file holds may end the process or be taken for a message that was never sent.
    @Test func anyDamageIsSurvived() async throws {
        var generator = SplitMix64(seed: 11)
        for checkpoints in [true, false] {
            let (whole, model) = try await make(&generator, checkpoints: checkpoints)
            for round in 0..<60 {
                var files = whole
                for _ in 0...(generator.next() % 4) { damage(&files, &generator) }
                _ = try await start(files, model, "checkpoints \(checkpoints), round \(round)")
            }
        }
    }

    private func damage(_ files: inout BufferFiles, _ generator: inout SplitMix64) {
        func range(_ count: Int) -> Range<Int> {
            let begin = Int(generator.next() % UInt64(count))
            return begin..<min(count, begin + 1 + Int(generator.next() % 20_000))
        }
        func hurt(_ bytes: inout [UInt8]) {
            guard !bytes.isEmpty else { return }
            let range = range(bytes.count)
            switch generator.next() % 4 {
            case 0: for index in range { bytes[index] = 0 }
            case 1: for index in range { bytes[index] = UInt8(truncatingIfNeeded: generator.next()) }
            case 2: bytes[range.lowerBound] ^= 1 << UInt8(generator.next() % 8)
            default: bytes.removeLast(range.count)
            }
        }
        if generator.next() % 2 == 0 { hurt(&files.log) } else { hurt(&files.database) }
    }

    /// What the second salvage finds was numbered anew by the first; identities are the same all the same.
    @Test func aSalvagedFileCanBeSalvagedAgain() async throws {
        var generator = SplitMix64(seed: 12)
        let (whole, model) = try await make(&generator, checkpoints: true)
        var files = whole
        for page in stride(from: 40, to: whole.pages, by: 17) { files.overwritePage(page, with: 0) }
        try files.put(to: scratch.path)
        let once = try scratch.open(epoch: 7)
        #expect(once.salvage != nil)
        await once.close()
        files = try BufferFiles(at: scratch.path)
        for page in stride(from: 41, to: files.pages, by: 19) { files.overwritePage(page, with: 0) }
        let outcome = try await start(files, model)
        #expect(outcome.salvage != nil && !outcome.lost.isEmpty)
        #expect(outcome.audit.dropped["damaged"] == UInt64(outcome.lost.count))
    }

    /// Their rows stay in free pages until those are used again, and a dead letter in its frame.
    @Test(arguments: [false, true]) func whatHasALedgerLineDoesNotComeBack(isReported: Bool) async throws {
        var generator = SplitMix64(seed: 14)
        var model = BufferModel()
        let before = try scratch.open(epoch: 1)
        for index in 0..<30 {
            try await model.commit(1 + index % 3, payload: index % 2 == 0 ? 40 : 3_000, to: before, &generator)
        }
        let cut = try #require(try await before.nextCut(maximumBytes: 1 << 20, maximumMessages: 6))
        var split = BatchSplit(cut: cut.id, pieces: [.init(frame: 2, records: 1..<2)], status: 422)
        split.accepted()
        split.refused(status: 422, reason: "bad")
        guard case .bury(let suspect) = split.next(mayBury: true) else { preconditionFailure("one is suspected") }
        #expect(try await before.bury(suspect, in: cut))
        try await before.drop(Array(10...20))
        var lines: [LedgerLine] = []
        if isReported {
            #expect(try await before.startLive())
            try await before.acknowledge(cut)
            try await model.commit(1, payload: 10, to: before, &generator)
            let live = try #require(try await before.nextCut(in: .live, maximumBytes: 1, maximumMessages: 1))
            lines = try await before.contents(of: live).ledger
            #expect(!lines.isEmpty)
            try await before.acknowledge(live)
        }
        var drained = Drained()
        let count = try await before.perform { store throws(SQLiteError) in
            try store.connection.integer("SELECT sum(count) FROM frame") ?? 0
        }
        await before.close()
        try SalvageFiles(scratch.configuration()).write(.suspect("a test"))
        let again = try scratch.open(epoch: 2)
        #expect(again.salvage?.missing == 0)
        try await drained.drain(again)
        let accounting = try await again.accounting()
        await again.close()
        if !isReported { #expect(drained.messages.count == Int(count) - 1, "all but the buried one") }
        drained.ledger += lines.filter { !drained.ledger.contains($0) }
        let named = drained.ledger.flatMap { line in line.numbers.map { "\(line.device) \($0)" } }
        #expect(Set(named).count == named.count)
        #expect(Set(named).isDisjoint(with: drained.messages.map { "\($0.device) \($0.number)" }))
        let answered = isReported ? model.messages.subtracting(drained.messages) : []
        let stored = answered.filter { !named.contains("\($0.device) \($0.number)") }
        #expect(drained.messages.count + stored.count + named.count == model.messages.count)
        let audit = drained.audit(accounting, answered: stored)
        #expect(audit.closed && audit.dropped["damaged"] == nil, "\(audit.problems)")
    }

    /// The process that saw the file fail knows what it had acknowledged, whatever is left of it.
    /// Opening the file anew does not help where a page of it cannot be read: after some attempts the next start salvages it.
    @Test func whatCannotBeReadAgainAndAgainIsDistrusted() throws {
        let clock = SetClock()
        let configuration = scratch.configuration { $0.clock = clock.clock }
        try FileSystem.create(configuration.path)
        let connection = try Schema.open(configuration, for: .start)
        let store = try BufferStore(configuration, connection: connection, shared: BufferShared())
        try store.begin(Epoch(high: 0, low: 1))
        _ = try store.commit(drafts([0, 0]), changes: []).get()
        var writer = Writer(store: store, logger: quiet)
        for attempt in 1...3 {
            #expect(writer.store.failure == nil)
            let result = writer.store.attempt { () throws(SQLiteError) in
                throw SQLiteError(code: SQLiteError.unreadable, message: "disk I/O error", operation: "test")
            }
            guard case .failure(.failing) = result else {
                Issue.record("\(result)")
                return
            }
            for _ in 0..<40 where attempt < 3 && writer.store.failure != nil {
                _ = writer.take(.idle)
                clock.pass(seconds: 1)
            }
        }
        _ = writer.take(.idle)
        guard case .corrupt(let what)? = writer.store.failure else {
            Issue.record("\(String(describing: writer.store.failure))")
            return
        }
        #expect(what.contains("restart the daemon, which salvages the rest"))
        writer.store.abandon()
        let (store2, _, salvage) = try Buffer.prepare(
            configuration, epoch: Epoch(high: 0, low: 2), shared: BufferShared())
        #expect(salvage?.messages == 2 && salvage?.missing == 0)
        store2.close()
    }

    @Test func theMarkSaysWhatWasAcknowledged() async throws {
        let before = try scratch.open(epoch: 1)
        try await before.commit(drafts([0, 1]))
        let cut = try #require(try await before.nextCut(maximumBytes: 1 << 20, maximumMessages: 6))
        try await before.acknowledge(cut)
        await before.close()
        let files = SalvageFiles(scratch.configuration())
        try files.write(.suspect("two\nlines", KnownEnd(epoch: Self.first, lastSequence: 5)))
        #expect(files.mark() == .suspect("two\nlines", KnownEnd(epoch: Self.first, lastSequence: 5)))
        let again = try scratch.open(epoch: 2)
        #expect(again.salvage?.missing == 3 && again.salvage?.cause == "two\nlines")
        var drained = Drained()
        try await drained.drain(again)
        #expect(drained.messages.isEmpty && drained.ledger.map(\.sequences) == [3...5])
        #expect(try await again.accounting().epochs.map(\.lastSequence) == [5])
        await again.close()
        try files.write(.suspect("later", KnownEnd(epoch: Epoch(high: 0, low: 7), lastSequence: 2)))
        let third = try scratch.open(epoch: 3)
        #expect(third.salvage?.missing == 2, "an epoch of which the file knows nothing")
        await third.close()
    }

    // MARK: At run time

    /// A file whose log lost something while it was closed must not be recovered from, or the rest is forgotten.
    @Test func theFileIsCheckedBeforeItIsOpenedAnew() throws {
        let configuration = scratch.configuration()
        func store() throws -> BufferStore {
            let connection = try Schema.open(configuration, for: .start)
            let store = try BufferStore(configuration, connection: connection, shared: BufferShared())
            try store.begin(Self.first)
            for _ in 1...3 { #expect(throws: Never.self) { try store.commit(drafts([0]), changes: []).get() } }
            store.abandon()
            return store
        }
        for harm in ["flipped", "older", "none"] {
            try BufferFiles().put(to: scratch.path)
            let former = try store()
            var files = try BufferFiles(at: scratch.path)
            switch harm {
            case "flipped": files.log[files.log.count / 2] ^= 1
            case "older": files.log.removeLast(3 * 4_096)
            default: break
            }
            try files.put(to: scratch.path)
            if harm == "none" {
                let fresh = try Writer.open(insteadOf: former)
                #expect(fresh.lastSequence == 3)
                fresh.close()
                continue
            }
            #expect(throws: BufferError.self, "\(harm)") { try Writer.open(insteadOf: former) }
            let left = try BufferFiles(at: scratch.path)
            #expect(left.database == files.database && left.log == files.log, "\(harm): nothing is recovered")
        }
    }

    // MARK: Crashes on the way

    private enum Step: CaseIterable { case marked, halfBuilt, built, logMoved, fileMoved, placed }

    @Test func aSalvageThatIsInterruptedGoesOn() async throws {
        var generator = SplitMix64(seed: 13)
        var (files, model) = try await make(&generator, checkpoints: false)
        files.log[files.log.count / 2] ^= 1
        try files.put(to: scratch.path)
        let whole = try Salvage.run(scratch.configuration(), cause: "a test")
        let new = try Data(contentsOf: URL(fileURLWithPath: scratch.path))
        let manager = FileManager.default
        for step in Step.allCases {
            try files.put(to: scratch.path)
            let salvage = SalvageFiles(scratch.configuration())
            switch step {
            case .marked: try salvage.write(.suspect("a test"))
            case .halfBuilt:
                try salvage.write(.suspect("a test"))
                try new.prefix(new.count / 2).write(to: URL(fileURLWithPath: salvage.rebuildPath))
            case .built, .logMoved, .fileMoved, .placed:
                try salvage.write(.rebuilt(whole))
                try new.write(to: URL(fileURLWithPath: salvage.rebuildPath))
                if step != .built {
                    try manager.moveItem(atPath: scratch.path + "-wal", toPath: whole.movedTo + "-wal")
                }
                if step == .fileMoved || step == .placed {
                    try manager.moveItem(atPath: scratch.path, toPath: whole.movedTo)
                }
                if step == .placed { try manager.moveItem(atPath: salvage.rebuildPath, toPath: scratch.path) }
            }
            let buffer = try scratch.open(epoch: 20)
            let report = try #require(buffer.salvage, "\(step)")
            #expect(report.messages == whole.messages && report.cause == "a test", "\(step)")
            var drained = Drained()
            try await drained.drain(buffer)
            let lost = model.waiting.subtracting(drained.messages)
            // A version of a page is lost with the byte, and it may have been the ledger's.
            let ended = lost.union(model.answered.subtracting(drained.messages))
            #expect(!whole.isLedgerWhole && UInt64(ended.count) == whole.missing, "\(step)")
            #expect(drained.audit(try await buffer.accounting(), answered: model.answered).closed, "\(step)")
            await buffer.close()
            #expect(!manager.fileExists(atPath: salvage.markPath), "\(step)")
            #expect(!manager.fileExists(atPath: salvage.rebuildPath), "\(step)")
            let kept = try BufferFiles(at: report.movedTo)
            #expect(kept.database == files.database && kept.log == files.log, "\(step)")
        }
    }

    @Test func anotherGatewaysFileIsNotSalvaged() async throws {
        var generator = SplitMix64(seed: 14)
        var (files, _) = try await make(&generator, checkpoints: true)
        files.overwritePage(0, with: 0)
        try files.put(to: scratch.path)
        var configuration = scratch.configuration()
        configuration.gatewayID = "plant-8"
        #expect {
            _ = try Buffer.open(configuration, epoch: Epoch(high: 0, low: 9), logger: quiet)
        } throws: { error in
            "\(error)".contains("belongs to the gateway plant-7")
        }
        #expect(try BufferFiles(at: scratch.path).database == files.database, "it is left as it was")
    }
}
