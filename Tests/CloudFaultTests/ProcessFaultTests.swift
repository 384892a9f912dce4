import EventLog
import Foundation
import Glibc
import Logging
import NIOCore
import NIOPosix
import Processor
import TestSupport
import Testing

/// A real `sluice-cloud`.
final class CloudProcess: Sendable {
    private let folder: String
    private let arguments: [String]
    let output: String

    static let binaries: String = {
        if let given = ProcessInfo.processInfo.environment["SLUICE_TEST_BINARIES"] { return given }
        let own = (try? FileManager.default.destinationOfSymbolicLink(atPath: "/proc/self/exe")) ?? ""
        return (own as NSString).deletingLastPathComponent
    }()

    /// - Parameter configuration: beside the keys of status and log.
    init(_ configuration: String, role: String, name: String = "cloud", folder: String) async throws {
        self.folder = folder
        output = "\(folder)/\(name).log"
        let port = try await Self.freePort()
        let path = "\(folder)/\(name).yaml"
        try "\(configuration)\nstatus: { address: 127.0.0.1, port: \(port) }\n"
            .write(toFile: path, atomically: true, encoding: .utf8)
        arguments = ["--config", path, "--role", role]
    }

    func start() throws -> Process {
        if !FileManager.default.fileExists(atPath: output) {
            _ = FileManager.default.createFile(atPath: output, contents: nil)
        }
        let process = Process()
        process.executableURL = URL(fileURLWithPath: Self.binaries + "/sluice-cloud")
        process.arguments = arguments
        let file = try #require(FileHandle(forWritingAtPath: output))
        try file.seekToEnd()
        process.standardOutput = file
        process.standardError = file
        process.standardInput = FileHandle.nullDevice
        try process.run()
        return process
    }

    static func kill(_ process: Process) async throws {
        Glibc.kill(process.processIdentifier, SIGKILL)
        try await blocking { process.waitUntilExit() }
    }

    var lines: String { (try? String(contentsOfFile: output, encoding: .utf8)) ?? "" }

    static func freePort() async throws -> Int {
        let channel = try await ServerBootstrap(group: MultiThreadedEventLoopGroup.singleton)
            .bind(host: "127.0.0.1", port: 0).get()
        let port = channel.localAddress?.port
        try await channel.close()
        return try #require(port)
    }

    static func tool(_ arguments: String...) async throws {
        let status = try await blocking {
            let process = Process()
            process.executableURL = URL(fileURLWithPath: binaries + "/sluice")
            process.arguments = arguments
            process.standardOutput = FileHandle.nullDevice
            try process.run()
            process.waitUntilExit()
            return process.terminationStatus
        }
        #expect(status == 0)
    }
}

extension CloudFaults {
    @Suite(.serialized) struct ProcessFaultTests {
        /// The log is full of work; the process dies five times on the way through it.
        @Test func theCloudIsKilledAtRandomMoments() async throws {
            let file = try EmbeddedFile()
            let pki = file.folder + "/pki"
            try await CloudProcess.tool("pki", "init", "--directory", pki)
            try await CloudProcess.tool("pki", "server", "cloud", "--dns", "localhost", "--directory", pki)
            let url = try await Bench.database(on: try PostgresCluster.shared())
            var traffic = Traffic(seed: 41)
            let log = try file.open(partitions: 32)
            for _ in 0..<60 { try await log.append(traffic.next(250)) }
            try await log.append(traffic.rest())
            await log.close()
            let cloud = try await CloudProcess(
                """
                listener:
                  address: 127.0.0.1
                  port: \(try await CloudProcess.freePort())
                  tls: { certificate: \(pki)/servers/cloud.crt, key: \(pki)/servers/cloud.key, clientCA: \(pki)/ca.crt }
                eventLog: { embedded: { path: \(file.path), partitions: 32 } }
                database: { url: "\(url)" }
                """, role: "all", folder: file.folder)
            var random = Traffic.Seeded(42)
            var stored: [Int64] = []
            for _ in 0..<5 {
                let process = try cloud.start()
                try await Task.sleep(for: .milliseconds(.random(in: 500..<1_100, using: &random)))
                #expect(process.isRunning, "\(cloud.lines.suffix(2_000))")
                try await CloudProcess.kill(process)
                stored.append(
                    Int64(try await Bench.rows("SELECT coalesce(sum(next_offset), 0) FROM ingest_offset", url)[0][0])
                        ?? 0)
            }
            let last = try cloud.start()
            try await eventually("the rest is processed", within: 60) {
                try await Bench.rows("SELECT coalesce(sum(next_offset), 0) FROM ingest_offset", url)[0][0]
                    == "\(traffic.recordCount)"
            }
            // One that had nothing left to do may not be ready to be told yet.
            let starts = stored.count + 1
            try await eventually("the last one is up", within: 20) {
                cloud.lines.split(separator: "\n").count { $0.contains("The sync endpoint is open") } == starts
            }
            kill(last.processIdentifier, SIGTERM)
            try await blocking { last.waitUntilExit() }
            #expect(last.terminationStatus == 0)
            print("SIGKILL: records stored when it died: \(stored), of \(traffic.recordCount)")
            let bench = Bench(database: url, log: try file.open(partitions: 32))
            try await bench.expectExactlyOnce(traffic)
            await bench.log.close()
        }

        /// It stops in the middle of a transaction, its partitions move, and it wakes up with a batch in its hands.
        @Test func aZombiesWriteIsRefused() async throws {
            let kafka = try FaultyKafka(brokers: 1)
            let log = try kafka.open()
            let file = try EmbeddedFile()
            let bench = Bench(database: try await Bench.database(on: try PostgresCluster.shared()), log: log)
            let zombie = try await CloudProcess(
                """
                eventLog: { kafka: { brokers: ["\(kafka.brokers)"], topic: \(FaultyKafka.topic) } }
                database: { url: "\(bench.database)" }
                # To its breaker the time in which it was stopped is that of a call that failed.
                processor: { breaker: { openFor: 1s } }
                """, role: "process", folder: file.folder)
            let process = try zombie.start()
            let load = Load(Traffic(seed: 43), into: log, pause: .milliseconds(30))
            let running = Task { try await load.run() }
            try await eventually("it stores") {
                Int(try await bench.one("SELECT count(*) FROM measurement")) ?? 0 > 200
            }
            let holder = try await Holder(bench.database, "LOCK TABLE measurement IN ACCESS EXCLUSIVE MODE")
            try await eventually("it waits in its transaction") {
                try await bench.one(
                    "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() "
                        + "AND application_name = 'sluice-processor' AND wait_event_type = 'Lock'") == "1"
            }
            kill(process.processIdentifier, SIGSTOP)
            await holder.release()
            // The mock cluster's group waits for its stopped member for ever, so the heir is of another group; what fences is the
            // database alone.
            let heir = Worker(bench.configuration("heir") { $0.group = "heirs" }, log: log)
            let start = ContinuousClock.now
            try await eventually("its partitions move", within: 40) { heir.status.state.offsets.count == 8 }
            print("zombie: its partitions were claimed after \(ContinuousClock.now - start)")
            try await eventually("they are served") { heir.status.state.messages > 0 }
            kill(process.processIdentifier, SIGCONT)
            try await eventually("its write is refused") {
                zombie.lines.contains("Another processor has taken partitions")
            }
            await load.stop()
            try await running.value
            try await bench.drained()
            kill(process.processIdentifier, SIGTERM)
            try await blocking { process.waitUntilExit() }
            await heir.stop()
            try await bench.expectExactlyOnce(await load.traffic)
            try await FaultyKafka.expectNothingForgotten(log)
            await log.close()
        }
    }
}
