import Foundation
import NIOCore
import SyncModel
import TestSupport
import Testing

@testable import Buffer

/// A real file system without a free byte. Nothing is acknowledged that is not stored, what makes room goes on, and all is
/// well again when there is room.
@Suite(.serialized, .enabled(if: SmallDisk.isPossible, "mounting needs root or sudo"))
struct FullDiskTests {
    let disk: SmallDisk

    init() throws { disk = try SmallDisk(bytes: 16 << 20) }

    private func open(epoch: UInt64 = 1, _ change: (inout Buffer.Configuration) -> Void = { _ in }) throws -> Buffer {
        var configuration = Buffer.Configuration(path: disk.path + "/buffer.db", gatewayID: "plant-7")
        configuration.freeDiskFloor = 0
        configuration.reserveBytes = 4 << 20
        configuration.keptFreeBytes = 1 << 20
        change(&configuration)
        return try Buffer.open(configuration, epoch: Epoch(high: 0, low: epoch), logger: quiet).buffer
    }

    /// Commits until the disk takes no more.
    private func fillUp(_ buffer: Buffer) async throws -> Int {
        var stored = 0
        while stored < 1_000 {
            do {
                try await buffer.commit(drafts([0, 1], payload: 20_000))
                stored += 2
            } catch {
                #expect(error == .full)
                break
            }
        }
        return stored
    }

    @Test func answersMakeRoomThoughNoByteIsFree() async throws {
        let buffer = try open()
        _ = try await fillUp(buffer)
        try disk.fill()
        await #expect(throws: BufferError.full) { try await buffer.commit(drafts([0, 1], payload: 20_000)) }
        var answered = 0
        for _ in 0..<4 {
            let cut = try #require(try await buffer.nextCut(maximumBytes: 1 << 20, maximumMessages: 100))
            try await buffer.acknowledge(cut)
            answered += cut.messageCount
        }
        #expect(answered > 50)
        let receipt = try await eventually { try? await buffer.commit(drafts([0, 1], payload: 20_000)) }
        #expect(receipt.messageCount == 2, "into the pages of what was answered")
        await buffer.close()
    }

    /// A start below the floor takes none, but there may be one.
    @Test func theReserveOfAnEarlierProcessIsKnown() throws {
        let path = disk.path + "/buffer.db"
        var first = Reserve(ofBuffer: path, bytes: 4 << 20, on: .ofSystem)
        #expect(!first.isHeld)
        first.hold()
        try disk.fill()
        var second = Reserve(ofBuffer: path, bytes: 4 << 20, on: .ofSystem)
        #expect(second.isHeld)
        second.release()
        #expect(!second.isHeld && !Reserve(ofBuffer: path, bytes: 4 << 20, on: .ofSystem).isHeld)
        try disk.fill()
        second.hold()
        #expect(!second.isHeld, "there is no room for it")
    }

    @Test func aRestartOnAFullDiskGoesOn() async throws {
        let buffer = try open()
        let stored = try await fillUp(buffer)
        try disk.fill()
        await buffer.close()
        // The log that the close has emptied is space again.
        try disk.fill()
        let again = try open(epoch: 2)
        #expect(again.fill().messages == stored)
        try disk.free()
        let receipt = try await eventually { try? await again.commit(drafts([0])) }
        #expect(receipt.epoch == Epoch(high: 0, low: 2))
        #expect(try await again.everything().reduce(0) { $0 + $1.records.count } == stored + 1)
        await again.close()
    }

    @Test func whatIsDroppedForRoomIsInTheLedger() async throws {
        let buffer = try open { $0.dropsOldest = true }
        var committed = 0
        for turn in 0..<400 {
            if turn == 150 { try disk.fill() }
            let receipt = try await eventually { try? await buffer.commit(drafts([0, 1], payload: 40_000)) }
            committed += receipt.messageCount
        }
        #expect(!buffer.fill().isFull)
        let outcome = try await buffer.outcome()
        try outcome.check(Epoch(high: 0, low: 1), count: committed)
        #expect(!outcome.ledger.isEmpty)
        await buffer.close()
    }

    @Test func spaceIsGivenBack() async throws {
        let buffer = try open()
        let stored = try await fillUp(buffer)
        #expect(try await buffer.everything().reduce(0) { $0 + $1.records.count } == stored)
        _ = try await eventually { size(of: "/buffer.db") < 3 << 20 ? true : nil }
        await buffer.close()
    }

    /// The kernel does so by itself when an ext4 file system has errors.
    @Test func afterARemountReadOnlyTheSameFileGoesOn() async throws {
        let buffer = try open()
        try await buffer.commit(drafts([0, 1]))
        // A file that is open for writing keeps a file system from being made read-only; the kernel's own way does not
        // ask. So the fault is made between two lives of the file.
        await buffer.close()
        #expect(disk.remount(readOnly: true))
        #expect(throws: BufferError.self) { try open(epoch: 2) }
        #expect(disk.remount(readOnly: false))
        let again = try open(epoch: 3)
        #expect(again.fill().messages == 2)
        await again.close()
    }

    private func size(of name: String) -> Int {
        ((try? FileManager.default.attributesOfItem(atPath: disk.path + name))?[.size] as? Int) ?? 0
    }

    private func eventually<Value>(_ body: () async throws -> Value?) async throws -> Value {
        for _ in 0..<100 {
            if let value = try await body() { return value }
            try await Task.sleep(for: .milliseconds(100))
        }
        throw CocoaError(.fileWriteOutOfSpace)
    }
}
