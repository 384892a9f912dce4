import MQTTSession
import NIOCore
import SyncModel
import Testing

@testable import Buffer

/// Numbers of more devices than are remembered.
@Suite struct DeviceNumberTests {
    private static let round = 2_500

    private func store(_ scratch: Scratch, epoch: UInt64 = 1) throws -> BufferStore {
        try Buffer.prepare(scratch.configuration(), epoch: Epoch(high: 0, low: epoch), shared: BufferShared()).0
    }

    /// A message each of so many devices. Handles are few, so they pass from one device to the next.
    private func drafts(_ ids: Range<Int>, handled: Bool = true) -> [FrameDraft] {
        var builder = FrameBuilder()
        let clock = FrameClock(wallTime: 1, monotonicTime: 1, bootHigh: 1, bootLow: 1, isSynchronised: true)
        for id in ids {
            builder.append(
                device: DeviceHandle(id % Self.round), deviceID: "made-up-\(id)", qos: 1, retain: false,
                duplicate: false, topic: ByteBuffer(string: "t"), payload: ByteBuffer(string: "\(id)"),
                properties: ByteBuffer(), clock: clock)
        }
        return builder.take().map { draft in
            var draft = draft
            if !handled {
                for index in draft.devices.indices { draft.devices[index].handle = FrameDraft.Device.noHandle }
            }
            return draft
        }
    }

    /// Of each device, in the order of its messages.
    private func numbers(_ store: BufferStore) throws -> [String: [UInt64]] {
        var numbers: [String: [UInt64]] = [:]
        var next: Int64 = 1
        while next <= store.last.frame {
            let (frames, last) = try store.frames(from: next, through: store.last.frame, maximumBytes: 1 << 20)
            for stored in frames {
                var bytes = stored.header
                bytes.writeImmutableBuffer(stored.records)
                for run in try Frame.decode(bytes).deviceRuns {
                    numbers[run.device, default: []] += Array(run.numbers)
                }
            }
            next = last + 1
        }
        return numbers
    }

    @Test func numbersStayDenseWhenMoreDevicesComeThanAreRemembered() throws {
        let scratch = try Scratch()
        var store = try store(scratch)
        let rounds = 8
        let total = rounds * Self.round
        for pass in 0..<3 {
            for round in 0..<rounds {
                let ids = round * Self.round..<(round + 1) * Self.round
                // Every third time as the buffer's own messages come.
                _ = try store.commit(drafts(ids, handled: (pass + round) % 3 != 0), changes: []).get()
                store.maintain()
                #expect(store.numbers.otherCount <= DeviceNumbers.maximumOthers)
                // What was written down outlives a file that is opened anew.
                if round == 5 {
                    store.abandon()
                    store = try Writer.open(insteadOf: store)
                }
            }
        }
        #expect(try store.connection.integer("SELECT count(*) FROM device_number") ?? 0 >= total / 4)
        let numbers = try numbers(store)
        #expect(numbers.count == total)
        #expect(numbers.values.allSatisfy { $0 == [1, 2, 3] })
        store.close()
    }

    /// The group whose commit failed gets the numbers that it had, those that were read back too.
    @Test func aFailedCommitGivesItsNumbersBackToDevicesThatWereForgotten() throws {
        let scratch = try Scratch()
        let store = try store(scratch)
        for round in 0..<6 {
            _ = try store.commit(drafts(round * Self.round..<(round + 1) * Self.round), changes: []).get()
            store.maintain()
        }
        let forgotten = (0..<3 * Self.round).filter { store.numbers.isForgotten("made-up-\($0)") }
        let id = try #require(forgotten.first)
        let drafts = drafts(id..<id + 1)
        try store.connection.execute("PRAGMA query_only = ON")
        #expect(throws: BufferError.self) { try store.commit(drafts, changes: []).get() }
        try store.connection.execute("PRAGMA query_only = OFF")
        store.abandon()
        let fresh = try Writer.open(insteadOf: store)
        _ = try fresh.commit(drafts, changes: []).get()
        #expect(try numbers(fresh)["made-up-\(id)"] == [1, 2])
        fresh.close()
    }

    @Test func aWrongNumberInTheFileIsNotGiven() throws {
        let scratch = try Scratch()
        let store = try store(scratch)
        for round in 0..<6 {
            _ = try store.commit(drafts(round * Self.round..<(round + 1) * Self.round), changes: []).get()
            store.maintain()
        }
        let id = try #require((0..<3 * Self.round).first { store.numbers.isForgotten("made-up-\($0)") })
        try store.connection.execute("UPDATE device_number SET last = last + 1 WHERE device = 'made-up-\(id)'")
        #expect(throws: BufferError.self) { try store.commit(drafts(id..<id + 1), changes: []).get() }
        store.abandon()
    }

    @Test func anEpochBeginsWithoutTheNumbersOfTheLast() throws {
        let scratch = try Scratch()
        let first = try store(scratch)
        for round in 0..<6 {
            _ = try first.commit(drafts(round * Self.round..<(round + 1) * Self.round), changes: []).get()
            first.maintain()
        }
        #expect(try first.connection.integer("SELECT count(*) FROM device_number") ?? 0 > 0)
        first.close()
        let second = try store(scratch, epoch: 2)
        #expect(try second.connection.integer("SELECT count(*) FROM device_number") == 0)
        second.close()
    }

    /// A first number that was taken back is none: written down, it would be damage.
    @Test func whatWasTakenBackIsNotRemembered() {
        var numbers = DeviceNumbers()
        let device = FrameDraft.Device(handle: FrameDraft.Device.noHandle, id: "d", count: 2)
        #expect(numbers.give(device) == 1)
        numbers.takeBack(device)
        #expect(numbers.otherCount == 0 && numbers.give(device) == 1)
    }
}
