import CRDKafka
import Foundation
import Operations
import TestSupport
import Testing

@testable import EventLog

/// How the configuration becomes librdkafka's properties; against brokers, it is tested end to end.
@Suite struct KafkaSecurityTests {
    private let folder: TemporaryFolder

    init() throws { folder = try TemporaryFolder() }

    private func file(_ text: String) throws -> String {
        let path = folder.file(UUID().uuidString)
        try text.write(toFile: path, atomically: true, encoding: .utf8)
        return path
    }

    private func properties(_ change: (inout KafkaConfiguration) throws -> Void) throws -> [String: String] {
        var configuration = KafkaConfiguration(brokers: "127.0.0.1:1")
        try change(&configuration)
        return Dictionary(uniqueKeysWithValues: try configuration.producer())
    }

    private func tls() -> CloudConfiguration.KafkaTLS {
        var tls = CloudConfiguration.KafkaTLS()
        (tls.ca, tls.certificate, tls.key) = ("/ca", "/crt", "/key")
        return tls
    }

    @Test func certificates() throws {
        let password = try file("open sesame\n")
        let found = try properties {
            $0.tls = tls()
            $0.tls?.keyPasswordFile = password
        }
        #expect(found["security.protocol"] == "ssl" && found["ssl.endpoint.identification.algorithm"] == "https")
        #expect(found["ssl.ca.location"] == "/ca" && found["ssl.certificate.location"] == "/crt")
        #expect(found["ssl.key.location"] == "/key" && found["ssl.key.password"] == "open sesame")
    }

    @Test func passwords() throws {
        let password = try file("hunter2\r\nsecond line")
        let found = try properties {
            $0.tls = CloudConfiguration.KafkaTLS()
            $0.sasl = .init(mechanism: .plain, user: "u", passwordFile: password)
        }
        #expect(found["security.protocol"] == "sasl_ssl" && found["sasl.mechanism"] == "PLAIN")
        #expect(found["sasl.username"] == "u" && found["sasl.password"] == "hunter2" && found["ssl.ca.location"] == nil)
        let plain = try properties { $0.sasl = .init(mechanism: .plain, user: "u", passwordFile: password) }
        #expect(plain["security.protocol"] == "sasl_plaintext")
    }

    @Test func mistakesSayWhat() throws {
        func reason(_ change: (inout KafkaConfiguration) throws -> Void) -> String {
            do {
                _ = try properties(change)
                return ""
            } catch { return "\(error)" }
        }
        let password = try file("hunter2")
        #expect(
            reason {
                $0.tls = tls()
                $0.properties["security.protocol"] = "ssl"
            }.contains("security.protocol is set by eventLog.kafka.tls or sasl"))
        let empty = try file("\nhunter2")
        #expect(
            reason { $0.sasl = .init(mechanism: .plain, user: "u", passwordFile: empty) }.contains("is empty"))
        #expect(
            reason { $0.sasl = .init(mechanism: .plain, user: "u", passwordFile: "/none") }.contains("cannot be read"))
        #expect(!reason { $0.sasl = .init(mechanism: .plain, user: "u", passwordFile: empty) }.contains("hunter2"))
        guard rd_kafka_version() >> 8 < 0x02_06_01 else { return }
        let scram = reason { $0.sasl = .init(mechanism: .scramSHA512, user: "u", passwordFile: password) }
        #expect(scram.contains("SCRAM-SHA-512 needs librdkafka 2.6.1") && !scram.contains("hunter2"))
        #expect(reason { $0.properties["sasl.mechanisms"] = "SCRAM-SHA-256" }.contains("needs librdkafka 2.6.1"))
    }

    @Test(arguments: [
        ("SCRAM-SHA-256", 0x0200_02ff, true), ("scram-sha-512", 0x0206_00ff, true),
        ("SCRAM-SHA-512", 0x0206_01ff, false),
        ("SCRAM-SHA-512", 0x020a_00ff, false), ("SCRAM-SHA-512", 0x0300_00ff, false), ("PLAIN", 0x0200_02ff, false),
    ])
    func scramNeedsALibraryThatCanDoIt(mechanism: String, version: Int32, isRefused: Bool) {
        do throws(EventLogError) {
            try KafkaConfiguration.refuseBrokenSCRAM(mechanism, version: version)
            #expect(!isRefused)
        } catch {
            #expect(isRefused)
        }
    }

    /// Whatever the library logs of a connection that fails, at its most talkative.
    @Test func noSecretReachesTheLog() async throws {
        let lines = LogLines()
        var configuration = KafkaConfiguration(brokers: "127.0.0.1:1")
        configuration.sasl = .init(mechanism: .plain, user: "u", passwordFile: try file("hunter2"))
        configuration.properties["debug"] = "all"
        configuration.messageTimeout = .milliseconds(300)
        let log = try KafkaEventLog.open(configuration, logger: lines.logger)
        let error = await eventLogError { try await log.append([record("one", "x")]) }
        await log.close()
        let all = lines.all.joined(separator: "\n")
        #expect(all.contains("127.0.0.1:1"))
        #expect(!all.contains("hunter2") && !"\(String(describing: error))".contains("hunter2"))
    }
}
