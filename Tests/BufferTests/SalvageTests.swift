import Flow
import Foundation
import MQTTSession
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
        let named = buffer.salvage?.isProgressKnown == false ? lost.union(model.answered) : lost
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

    /// What is lost is in the ledger, and nothing else is.
    private func expectExact(_ outcome: Outcome, _ model: BufferModel, _ what: String) {
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
            if outcome.salvage?.isProgressKnown == true {
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
        var (files, model) = try await make(&generator, checkpoints: true)
        let message = try #require(model.waiting.first { $0.payload.count > 5_000 })
        let place = try #require(
            Data(files.database).range(of: Data(message.payload.prefix(12).utf8)))
        files.database[place.lowerBound] ^= 1
        try files.put(to: scratch.path)
        let buffer = try scratch.open(epoch: 8)
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
            let salvage = SalvageFiles(path: scratch.path)
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
            #expect(UInt64(lost.count) == whole.missing, "\(step)")
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
