import Foundation
import Logging
import MQTTSession
import NIOCore
import SyncModel
import Testing

@testable import Buffer

/// A directory that is removed with the test.
final class Scratch: Sendable {
    let directory: String

    init() throws {
        directory = NSTemporaryDirectory() + "sluice-buffer-\(UUID().uuidString)"
        try FileManager.default.createDirectory(atPath: directory, withIntermediateDirectories: true)
    }

    deinit { try? FileManager.default.removeItem(atPath: directory) }

    var path: String { directory + "/buffer.db" }

    func configuration(_ change: (inout Buffer.Configuration) -> Void = { _ in }) -> Buffer.Configuration {
        var configuration = Buffer.Configuration(path: path, gatewayID: "plant-7")
        configuration.freeDiskFloor = 0
        change(&configuration)
        return configuration
    }

    func open(
        epoch: UInt64 = 1, _ change: (inout Buffer.Configuration) -> Void = { _ in }
    ) throws -> Buffer {
        try Buffer.open(configuration(change), epoch: Epoch(high: 0, low: epoch), logger: quiet).buffer
    }
}

let quiet = Logger(label: "buffer-tests") { _ in SwiftLogNoOpLogHandler() }

/// A group as the broker hands it over; a message is its device's handle.
func drafts(_ devices: [DeviceHandle], payload: Int = 100, wallTime: Int64 = 1_000_000) -> [FrameDraft] {
    var builder = FrameBuilder()
    let clock = FrameClock(
        wallTime: wallTime, monotonicTime: 5_000, bootHigh: 1, bootLow: 2, isSynchronised: true)
    for (index, device) in devices.enumerated() {
        builder.append(
            device: device, deviceID: "device-\(device)", qos: 1, retain: false, duplicate: false,
            topic: ByteBuffer(string: "t/\(index)"), payload: ByteBuffer(repeating: 0x61, count: payload),
            properties: ByteBuffer(), clock: clock)
    }
    return builder.take()
}

extension Buffer {
    /// As a full buffer would.
    func drop(_ frames: [Int64]) async throws {
        try await perform { store throws(SQLiteError) in
            var drops = store.drops
            try store.transaction { () throws(SQLiteError) in
                for frame in frames { _ = try store.drop(frame, reason: .bufferFull, &drops) }
                try store.saveDrops(drops)
            }
            store.adopt(drops)
        }
    }

    @discardableResult
    func commit(_ drafts: [FrameDraft], changes: [DurableChange] = []) async throws(BufferError) -> CommitReceipt {
        try await withCheckedContinuation { continuation in
            commit(drafts, changes: changes) { continuation.resume(returning: $0) }
        }.get()
    }
}
