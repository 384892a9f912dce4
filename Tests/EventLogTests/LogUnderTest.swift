import EventLog
import Foundation
import Logging
import TestSupport
import Testing

/// The implementations that the shared suite runs on.
enum LogKind: String, Sendable, CustomTestStringConvertible {
    case embedded
    case mockKafka
    case kafka

    static let available: [LogKind] =
        RealKafka.brokers == nil ? [.embedded, .mockKafka] : [.embedded, .mockKafka, .kafka]

    var testDescription: String { rawValue }

    static let partitions: Int32 = 8

    func make() async throws -> LogUnderTest {
        switch self {
        case .embedded:
            let folder = try TemporaryFolder()
            var options = EmbeddedEventLog.Options()
            options.partitions = Self.partitions
            options.maximumRecordBytes = 1_000_000
            let path = folder.file("events.db")
            let settled = options
            return try await LogUnderTest(settle: { _ in withExtendedLifetime(folder) {} }) {
                try EmbeddedEventLog.open(path: path, options: settled, logger: quietLogger)
            }
        case .mockKafka:
            let mock = try MockKafka(partitions: Self.partitions)
            let configuration = mock.configuration()
            return try await LogUnderTest(settle: { _ in try mock.end() }) {
                try KafkaEventLog.open(configuration, logger: quietLogger)
            }
        case .kafka:
            let configuration = try RealKafka.configuration(partitions: Self.partitions)
            return try await LogUnderTest(settle: { _ in }) {
                try KafkaEventLog.open(configuration, logger: quietLogger)
            }
        }
    }
}

/// A log, how to open it anew, and what to check when a test is done with it.
final class LogUnderTest {
    private(set) var log: any EventLog
    private let open: @Sendable () async throws -> any EventLog
    private let settle: (any EventLog) async throws -> Void

    init(
        settle: @escaping (any EventLog) async throws -> Void, open: @escaping @Sendable () async throws -> any EventLog
    ) async throws {
        self.open = open
        self.settle = settle
        log = try await open()
    }

    /// As after a restart of the program.
    func reopen() async throws {
        await log.close()
        log = try await open()
    }

    func end() async throws {
        await log.close()
        try await settle(log)
    }
}

/// Runs a test's body and then closes what it used, also when the body throws.
func withLog(_ kind: LogKind, _ body: (LogUnderTest) async throws -> Void) async throws {
    let test = try await kind.make()
    do {
        try await body(test)
    } catch {
        await test.log.close()
        throw error
    }
    try await test.end()
}
