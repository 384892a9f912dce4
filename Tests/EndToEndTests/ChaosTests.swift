import Foundation
import Glibc
import Operations
import Testing

extension EndToEnd {
    /// The promise under kill -9: acknowledged ⊆ stored ⊆ published, nothing twice.
    @Suite(.serialized) struct ChaosTests {
        /// What happens, and how often. `SLUICE_TEST_CHAOS=full` is the long run.
        struct Scale {
            var edgeKills = 2
            var cloudKills = 2
            var databaseStop = 3.0
            var seconds = 14.0
            var devices = 6
            var rate = 15

            static func ofEnvironment() -> Scale {
                guard ProcessInfo.processInfo.environment["SLUICE_TEST_CHAOS"] == "full" else { return Scale() }
                return Scale(edgeKills: 10, cloudKills: 10, databaseStop: 15, seconds: 90, devices: 20, rate: 20)
            }
        }

        enum Event: String { case killEdge, killCloud, stopDatabase, startDatabase }

        /// Moments in seconds from the start, ascending.
        static func schedule(_ scale: Scale, seed: UInt64) -> [(at: Double, event: Event)] {
            var generator = SeededGenerator(seed: seed)
            var events: [(at: Double, event: Event)] = []
            // The first second lets the devices connect; the last two let what was broken be noticed under load.
            let window = 1.0...(scale.seconds - 2)
            for _ in 0..<scale.edgeKills { events.append((.random(in: window, using: &generator), .killEdge)) }
            for _ in 0..<scale.cloudKills { events.append((.random(in: window, using: &generator), .killCloud)) }
            let stop = Double.random(in: 1...(scale.seconds - 2 - scale.databaseStop), using: &generator)
            events.append((stop, .stopDatabase))
            events.append((stop + scale.databaseStop, .startDatabase))
            return events.sorted { $0.at < $1.at }
        }

        @Test func aScheduleIsItsSeeds() {
            func moments(_ seed: UInt64) -> [Double] { Self.schedule(Scale(), seed: seed).map(\.at) }
            #expect(moments(1) == moments(1))
            #expect(moments(1) != moments(2))
            #expect(moments(3).count == 6)
        }

        @Test func nothingIsLostOrDoubledUnderKills() async throws {
            let scale = Scale.ofEnvironment()
            let environment = ProcessInfo.processInfo.environment
            let seed = environment["SLUICE_TEST_SEED"].flatMap { UInt64($0) } ?? UInt64.random(in: 0...999_999)
            print("chaos: SLUICE_TEST_SEED=\(seed)")
            let prefixes = ["three", "five"]
            let ids = prefixes.flatMap { prefix in
                (1...scale.devices).map { "\(prefix)-" + String(repeating: "0", count: 4 - String($0).count) + "\($0)" }
            }
            try await withCluster(.init(devices: ids, ownsPostgres: true)) { cluster in
                try await cluster.startCloud()
                try await cluster.startEdge()
                let simulators = try zip(prefixes, ["4", "5"]).map { prefix, version in
                    try ChildProcess(
                        Binaries.path("sluice"),
                        [
                            "simulate", "--host", "localhost", "--port", String(cluster.mqttPort), "--pki", cluster.pki,
                            "--devices", String(scale.devices), "--prefix", prefix, "--rate", String(scale.rate),
                            "--qos", "mixed", "--version", version, "--seconds", String(scale.seconds),
                            "--drain-seconds", "60", "--journal", cluster.journal, "--json",
                        ], output: cluster.folder.appendingPathComponent("\(prefix).log"))
                }
                try await Self.perform(Self.schedule(scale, seed: seed), on: cluster)
                for simulator in simulators {
                    #expect(try await simulator.wait(seconds: scale.seconds + 90) == 0, "\(simulator.log)")
                }
                let audit = try await cluster.settledAudit(within: 90)
                #expect(audit.status == 0, "seed \(seed): \(audit)")
                #expect(audit["buffered"] == 0 && audit["inLog"] == 0, "seed \(seed): \(audit)")
                #expect(audit["acknowledged"] > scale.devices * scale.rate, "seed \(seed): \(audit)")
                try await Self.judge(cluster, seed: seed)
            }
        }

        private static func perform(_ schedule: [(at: Double, event: Event)], on cluster: Cluster) async throws {
            let start = ContinuousClock.now
            var hasStopped = false
            for (at, event) in schedule {
                try await Task.sleep(until: start + .seconds(at))
                switch event {
                case .killEdge:
                    if !hasStopped {
                        // Once, so that in every run some messages are in flight when the edge dies: what the devices send
                        // while it is stopped waits in its sockets.
                        hasStopped = true
                        await cluster.signalEdge(SIGSTOP)
                        try await Task.sleep(for: .milliseconds(500))
                    }
                    await cluster.killEdge()
                    try await cluster.startEdge(waiting: false)
                case .killCloud:
                    await cluster.killCloud()
                    try await cluster.startCloud(waiting: false)
                case .stopDatabase:
                    try await Postgres.script("kill", cluster.postgres)
                case .startDatabase:
                    try await Postgres.script("start", cluster.postgres)
                }
            }
            // A daemon that is down now has ended by itself: nobody but this test restarts it.
            try await Task.sleep(for: .seconds(1))
            #expect(await cluster.edgeIsRunning, "the edge ended by itself")
            #expect(await cluster.cloudIsRunning, "the cloud ended by itself")
        }

        /// The journal against the tables, without the audit's help.
        private static func judge(_ cluster: Cluster, seed: UInt64) async throws {
            struct Message: Hashable {
                let device: String
                let n: Int64
            }
            var published: [Message: UInt8] = [:]
            var acknowledged: Set<Message> = []
            var resent: Set<Message> = []
            let text = try String(contentsOfFile: cluster.journal, encoding: .utf8)
            for line in text.split(separator: "\n") {
                let line = try JSONDecoder().decode(JournalLine.self, from: Data(line.utf8))
                let message = Message(device: line.device, n: line.n)
                switch line.event {
                case .publish: published[message] = line.qos
                case .resend: resent.insert(message)
                case .acknowledge: acknowledged.insert(message)
                case .refuse: break
                }
            }
            let rows = try await cluster.query(
                """
                SELECT d.name, r.value::bigint, count(DISTINCT (r.source, r.sequence)), count(*)
                FROM measurement r JOIN metric m ON m.id = r.metric_id JOIN device d ON d.id = r.device_id
                WHERE m.path = 'n' GROUP BY 1, 2
                """)
            var stored: Set<Message> = []
            var doubled: [String] = []
            for row in rows {
                let message = Message(device: row[0], n: Int64(row[1]) ?? -1)
                stored.insert(message)
                if row[2] != row[3] { doubled.append("\(message): one sequence in \(row[3]) rows") }
                if row[2] != "1", !(published[message] == 1 && resent.contains(message)) {
                    doubled.append("\(message): stored as \(row[2]) messages, QoS \(published[message] ?? 9)")
                }
            }
            let lost = acknowledged.subtracting(stored)
            let strange = stored.subtracting(published.keys)
            #expect(lost.isEmpty, "seed \(seed): acknowledged but not stored: \(lost.prefix(10))")
            #expect(strange.isEmpty, "seed \(seed): stored but not published: \(strange.prefix(10))")
            #expect(doubled.isEmpty, "seed \(seed): \(doubled.prefix(10))")
            #expect(!resent.isEmpty, "seed \(seed): no connection broke with messages in flight, so this proved little")
        }
    }
}
