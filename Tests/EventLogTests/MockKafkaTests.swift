import EventLog
import Foundation
import NIOCore
import TestSupport
import Testing

/// The guard over librdkafka's mock cluster.
@Suite struct MockKafkaTests {
    private func append(mebibytes: Int, to mock: MockKafka) async throws {
        var configuration = mock.configuration()
        configuration.compression = .none
        let log = try KafkaEventLog.open(configuration, logger: quietLogger)
        for _ in 0..<mebibytes * 2 {
            try await log.append([LogRecord(key: "one", value: ByteBuffer(repeating: 7, count: 512 * 1024))])
        }
        await log.close()
    }

    @Test func aTestInWhichItForgetsFails() async throws {
        let mock = try MockKafka(partitions: 2)
        try await append(mebibytes: 7, to: mock)
        let error = #expect(throws: MockKafka.Forgotten.self) { try mock.end() }
        #expect(error?.first.count == 1 && error?.first.values.allSatisfy { (1...6).contains($0) } == true)
    }

    @Test func aTestInWhichItKeepsAllDoesNot() async throws {
        let mock = try MockKafka(partitions: 2)
        try await append(mebibytes: 4, to: mock)
        mock.setBroker(down: true)
        mock.delay(milliseconds: 200)
        try mock.end()
    }
}
