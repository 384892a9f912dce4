import EventLog
import Foundation
import Logging
import NIOCore
import Testing

/// A folder that goes with the test.
final class TemporaryFolder: Sendable {
    let path: String

    init() throws {
        path = NSTemporaryDirectory() + "sluice-log-" + UUID().uuidString
        try FileManager.default.createDirectory(atPath: path, withIntermediateDirectories: true)
    }

    deinit { try? FileManager.default.removeItem(atPath: path) }

    func file(_ name: String) -> String { path + "/" + name }
}

let quietLogger = Logger(label: "test") { _ in SwiftLogNoOpLogHandler() }

func record(_ key: String, _ text: String, headers: [LogRecord.Header] = []) -> LogRecord {
    LogRecord(key: key, value: ByteBuffer(string: text), headers: headers)
}

extension StoredLogRecord {
    var text: String { String(buffer: record.value) }
}

struct TimedOut: Error, CustomStringConvertible {
    var description: String
}

/// Reads until `count` records came, answering each assignment with seeks to `positions`, else to 0.
func collect(
    _ reader: any EventLogReader, _ count: Int, from positions: [Int32: Int64] = [:],
    within time: Duration = .seconds(20),
    maximumRecords: Int = 1000, maximumBytes: Int = 1 << 20
) async throws -> [StoredLogRecord] {
    let deadline = ContinuousClock.now + time
    var records: [StoredLogRecord] = []
    while records.count < count {
        guard ContinuousClock.now < deadline else {
            throw TimedOut(description: "\(records.count) of \(count) records came")
        }
        let event = try await reader.next(
            maximumRecords: maximumRecords, maximumBytes: maximumBytes, timeout: .milliseconds(500))
        switch event {
        case .assigned(let partitions):
            for partition in partitions { try await reader.seek(partition: partition, to: positions[partition] ?? 0) }
        case .records(let more):
            #expect(more.count <= maximumRecords)
            records += more
        case .revoked, .idle: break
        }
    }
    return records
}

/// Waits for the assignment and seeks every partition to its end.
func followFromEnd(_ reader: any EventLogReader, of log: any EventLog) async throws {
    let ends = Dictionary(uniqueKeysWithValues: try await log.bounds().map { ($0.partition, $0.next) })
    for _ in 0..<100 {
        let event = try await reader.next(maximumRecords: 10, maximumBytes: 1 << 20, timeout: .milliseconds(500))
        guard case .assigned(let partitions) = event else { continue }
        for partition in partitions { try await reader.seek(partition: partition, to: ends[partition] ?? 0) }
        return
    }
    throw TimedOut(description: "no assignment came")
}

func eventLogError(_ body: () async throws -> Void) async -> EventLogError? {
    do {
        try await body()
        return nil
    } catch { return error as? EventLogError }
}
