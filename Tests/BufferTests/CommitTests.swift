import Foundation
import MQTTSession
import NIOCore
import SyncModel
import Testing

@testable import Buffer

@Suite struct CommitTests {
    let scratch: Scratch

    init() throws { scratch = try Scratch() }

    @Test func storedFramesDecodeWithTheirNumbers() async throws {
        let buffer = try scratch.open(epoch: 9)
        try await buffer.commit(drafts([0, 1, 0], wallTime: 77))
        try await buffer.commit(drafts([1, 1, 2, 0]))
        let frames = try await buffer.everything()
        #expect(frames.map(\.firstSequence) == [1, 4])
        #expect(frames.allSatisfy { $0.epoch == Epoch(high: 0, low: 9) })
        #expect(frames[0].clock.wallTime == 77)
        #expect(frames[0].devices == [.init(id: "device-0", firstNumber: 1), .init(id: "device-1", firstNumber: 1)])
        #expect(
            frames[1].devices == [
                .init(id: "device-1", firstNumber: 2), .init(id: "device-2", firstNumber: 1),
                .init(id: "device-0", firstNumber: 3),
            ])
        #expect(frames[1].records.map(\.device) == [0, 0, 1, 2])
        #expect(frames[1].records[3].topic == ByteBuffer(string: "t/3"))
        await buffer.close()
    }

    /// A group with several frames, then one without room: nothing of it stays, and no number is lost.
    @Test func aFullDiskConsumesNoNumbers() async throws {
        let buffer = try scratch.open {
            $0.maximumPages = 400
            $0.deletionSlice = (bytes: 1 << 20, frames: 64)
        }
        let large = drafts([0, 1, 2], payload: 120_000) + drafts([1], payload: 120_000)
        try await buffer.commit(large, changes: [.packetIDReceived(1, 1)])
        let before = try await buffer.commit(drafts([0]))
        #expect(before.lastSequence == 5)
        for _ in 0..<3 {
            await #expect(throws: BufferError.full) {
                try await buffer.commit(large + large + large, changes: [.sessionRemoved(4)])
            }
        }
        #expect(buffer.fill().messages == 5)
        let cut = try #require(try await buffer.nextCut(maximumBytes: 1 << 20, maximumMessages: 4))
        try await buffer.acknowledge(cut)
        let after = try await buffer.commit(drafts([0, 1, 2]))
        #expect(after.firstSequence == 6 && after.lastSequence == 8)
        let frames = try await buffer.everything()
        #expect(frames.map(\.firstSequence) == [5, 6])
        #expect(frames[1].devices.map(\.firstNumber) == [3, 3, 2])
        await buffer.close()
    }

    @Test func aGroupWithoutMessagesHasNoSequence() async throws {
        let buffer = try scratch.open()
        let changed = try await buffer.commit([], changes: [.packetIDReceived(1, 7)])
        #expect(changed.firstSequence == 0 && changed.lastSequence == 0 && changed.messageCount == 0)
        #expect(buffer.fill().lastCommit != nil)
        let empty = try await buffer.commit([])
        #expect(empty.messageCount == 0 && empty.duration == 0)
        #expect(try await buffer.nextCut(maximumBytes: 100, maximumMessages: 1) == nil)
        await buffer.close()
    }

    @Test func afterCloseNothingIsTaken() async throws {
        let buffer = try scratch.open()
        await buffer.close()
        await #expect(throws: BufferError.closed) { try await buffer.commit(drafts([0])) }
        await #expect(throws: BufferError.closed) { try await buffer.accounting() }
        await buffer.close()
        for await _ in buffer.dataAvailable() { Issue.record("a closed buffer has no data to announce") }
    }

    @Test func fillFollowsCommitsAndAnswers() async throws {
        let buffer = try scratch.open { $0.maximumBytes = 2_000 }
        #expect(buffer.fill() == BufferFill(maximumBytes: 2_000))
        try await buffer.commit(drafts([0], wallTime: 11))
        try await buffer.commit(drafts([0], payload: 3_000, wallTime: 22))
        let full = buffer.fill()
        #expect(full.isFull && full.messages == 2 && full.bytes > 3_000 && full.oldestFrame == 11)
        let cut = try #require(try await buffer.nextCut(maximumBytes: 1, maximumMessages: 1))
        try await buffer.acknowledge(cut)
        #expect(buffer.fill().oldestFrame == 22 && buffer.fill().bytes == full.bytes - cut.byteCount)
        #expect(await buffer.waiting().live == LaneFill(messages: 1, bytes: full.bytes - cut.byteCount))
        await buffer.close()
    }

    @Test func theDiskFloorMakesItFull() async throws {
        let buffer = try scratch.open { $0.freeDiskFloor = 101 }
        #expect(buffer.fill().isFull)
        await buffer.close()
    }

    @Test func dataIsAnnounced() async throws {
        let buffer = try scratch.open()
        var announcements = buffer.dataAvailable().makeAsyncIterator()
        #expect(await announcements.next() != nil)
        for _ in 0..<3 { try await buffer.commit(drafts([0])) }
        #expect(await announcements.next() != nil)
        await buffer.close()
        while await announcements.next() != nil {}
    }

    /// With only small commits and no idle time the log is copied by and by, and its file does not grow.
    @Test func theLogStaysBoundedUnderLoad() async throws {
        let buffer = try scratch.open {
            $0.checkpointPages = 64
            $0.idleTime = 60
        }
        for _ in 0..<100 { try await buffer.commit(drafts([0, 1], payload: 10_000)) }
        let size = try FileManager.default.attributesOfItem(atPath: scratch.path + "-wal")[.size] as? Int
        #expect(try #require(size) < 100 * 4_120)
        await buffer.close()
    }

    @Test func answeredFramesMakeRoomForNewOnes() async throws {
        let buffer = try scratch.open()
        for _ in 0..<60 {
            try await buffer.commit(drafts([0, 1], payload: 100_000))
            let cut = try #require(try await buffer.nextCut(maximumBytes: 1 << 20, maximumMessages: 100))
            try await buffer.acknowledge(cut)
        }
        await buffer.close()
        let size = try FileManager.default.attributesOfItem(atPath: scratch.path)[.size] as? Int
        #expect(try #require(size) < 3_000_000, "12 MB went through")
        #expect(try SQLiteConnection(path: scratch.path).integer("SELECT count(*) FROM frame") ?? 9 <= 1)
    }
}

extension Buffer {
    /// What a cloud would have received by now, decoded; answers for it.
    func everything() async throws -> [Frame] {
        var frames: [Frame] = []
        while let cut = try await nextCut(maximumBytes: 1 << 20, maximumMessages: 10_000) {
            for stored in try await contents(of: cut).frames {
                var bytes = stored.header
                bytes.writeImmutableBuffer(stored.records)
                let frame = try Frame.decode(bytes)
                #expect(frame.records.count == stored.count)
                frames.append(frame)
            }
            try await acknowledge(cut)
        }
        return frames
    }
}
