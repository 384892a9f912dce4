import Foundation
import Glibc
import Operations
import Testing

extension EndToEnd {
    /// All devices come back at once.
    @Suite(.serialized) struct StormTests {
        /// `SLUICE_TEST_STORM` is the number of devices; 200 by default, so that it fits into every run.
        private static let devices =
            ProcessInfo.processInfo.environment["SLUICE_TEST_STORM"].flatMap { Int($0) } ?? 200

        /// Of which device is what in a journal.
        private struct Seen {
            var published: [String: Set<Int64>] = [:]
            var acknowledged: [String: Set<Int64>] = [:]
        }

        private static func read(_ journal: String, from offset: Int = 0) throws -> Seen {
            let data = try Data(contentsOf: URL(fileURLWithPath: journal)).dropFirst(offset)
            var seen = Seen()
            // What is being written now ends without a line's end.
            let whole = data.prefix(through: data.lastIndex(of: UInt8(ascii: "\n")) ?? data.startIndex)
            for line in whole.split(separator: UInt8(ascii: "\n")) {
                let line = try JSONDecoder().decode(JournalLine.self, from: Data(line))
                switch line.event {
                case .publish: seen.published[line.device, default: []].insert(line.n)
                case .acknowledge: seen.acknowledged[line.device, default: []].insert(line.n)
                case .resend, .refuse: break
                }
            }
            return seen
        }

        private static func size(_ path: String) -> Int {
            (try? FileManager.default.attributesOfItem(atPath: path)[.size] as? Int) ?? 0
        }

        private static func connected(_ cluster: Cluster) async -> Int {
            await Int((try? Metrics.edge(cluster)["sluice_connections"]) ?? 0)
        }

        /// The most memory that the daemon has had, in MiB.
        private static func peakMemory(of process: pid_t) -> Int {
            let status = (try? String(contentsOfFile: "/proc/\(process)/status", encoding: .utf8)) ?? ""
            let line = status.split(separator: "\n").first { $0.hasPrefix("VmHWM:") }
            return (line?.split(whereSeparator: { $0 == " " || $0 == "\t" }).dropFirst().first)
                .flatMap { Int($0) }.map { $0 / 1_024 } ?? 0
        }

        @Test func noDeviceIsLostWhenAllConnectAgain() async throws {
            let count = Self.devices
            let ids = (1...count).map { "storm-" + String(repeating: "0", count: 4 - String($0).count) + "\($0)" }
            var options = Cluster.Options(devices: ids)
            // The default of 50 connections a second.
            options.limits = options.limits.replacingOccurrences(of: "connectionsPerSecond: unlimited", with: "")
            try await withCluster(options) { cluster in
                try await cluster.startEdge()
                let simulator = try ChildProcess(
                    Binaries.path("sluice"),
                    [
                        "simulate", "--host", "localhost", "--port", String(cluster.mqttPort), "--pki", cluster.pki,
                        "--devices", String(count), "--prefix", "storm", "--rate", "0.5", "--seconds", "600",
                        "--journal", cluster.journal, "--json",
                    ], output: cluster.folder.appendingPathComponent("simulator.log"))
                let patience = 30 + Double(count) / 10
                _ = try await eventually("all are connected", within: patience) {
                    await Self.connected(cluster) == count ? true : nil
                }
                _ = try await eventually("all have published", within: 30) {
                    try Self.read(cluster.journal).acknowledged.count == count ? true : nil
                }

                await cluster.killEdge()
                let offset = Self.size(cluster.journal)
                let before = try Self.read(cluster.journal)
                let started = ContinuousClock.now
                try await cluster.startEdge()
                _ = try await eventually("all are connected again", within: patience) {
                    await Self.connected(cluster) == count ? true : nil
                }
                let settled = ContinuousClock.now - started
                _ = try await eventually("each has published and was answered after the storm", within: 30) {
                    let after = try Self.read(cluster.journal, from: offset)
                    let fresh = after.published.filter { device, numbers in
                        !numbers.intersection(after.acknowledged[device] ?? []).isEmpty
                    }
                    return fresh.count == count ? true : nil
                }
                let memory = await Self.peakMemory(of: cluster.edgeProcess ?? 0)
                let metrics = try await Metrics.edge(cluster)
                print("storm: \(count) devices settled in \(settled), peak memory \(memory) MiB")
                #expect(metrics["sluice_connections"] == Double(count))
                #expect(metrics["sluice_overloaded"] == 0)

                simulator.signal(SIGTERM)
                #expect(try await simulator.wait(seconds: 60) == 0, "\(simulator.log.suffix(500))")
                // What was acknowledged is in the buffer: the audit counts it, and knows the journal.
                let acknowledged = try Self.read(cluster.journal).acknowledged.values.reduce(0) { $0 + $1.count }
                let audit = try await cluster.audit()
                #expect(audit["lost"] == 0 && audit["duplicated"] == 0, "\(audit)")
                #expect(audit["acknowledged"] == acknowledged, "\(audit)")
                #expect(audit["buffered"] >= acknowledged, "\(audit)")
                #expect(before.acknowledged.count == count)
            }
        }
    }
}
