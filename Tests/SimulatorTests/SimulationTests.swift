import Foundation
import Operations
import Testing

@testable import Simulator

/// Runs against Debian's Mosquitto, over plain TCP on the loopback interface.
@Suite(.timeLimit(.minutes(1))) struct SimulationTests {
    private static func plan(port: Int, folder: URL, quality: SimulationPlan.Quality, version: SimulationPlan.Version)
        -> SimulationPlan
    {
        var plan = SimulationPlan(
            host: "127.0.0.1", port: port, pki: nil, devices: SimulationPlan.deviceIDs(prefix: "sim", count: 4),
            rate: 50, quality: quality, version: version, seconds: 1, journal: folder.path + "/journal")
        plan.drainSeconds = 5
        return plan
    }

    private static func journal(_ folder: URL) throws -> [JournalLine] {
        let text = try String(contentsOf: folder.appendingPathComponent("journal"), encoding: .utf8)
        return try text.split(separator: "\n").map { try JSONDecoder().decode(JournalLine.self, from: Data($0.utf8)) }
    }

    @Test(arguments: SimulationPlan.Version.allCases, [SimulationPlan.Quality.one, .two])
    func everyPublishIsAcknowledged(version: SimulationPlan.Version, quality: SimulationPlan.Quality) async throws {
        let broker = try Broker()
        defer { broker.remove() }
        try await broker.start()
        let plan = Self.plan(port: broker.port, folder: broker.folder, quality: quality, version: version)
        let counts = try await Simulation(plan).run()
        #expect(counts.published > 50)
        #expect(counts.acknowledged == counts.published)
        #expect(counts.outstanding == 0 && counts.resent == 0 && counts.refused == 0)
        let lines = try Self.journal(broker.folder)
        #expect(lines.filter { $0.event == .publish }.count == counts.published)
        #expect(lines.filter { $0.event == .acknowledge }.count == counts.acknowledged)
        for device in plan.devices {
            let numbers = lines.filter { $0.device == device && $0.event == .publish }.map(\.n)
            #expect(numbers == numbers.sorted() && Set(numbers).count == numbers.count)
        }
    }

    @Test func aKilledServerLeadsToResendsAndReconnects() async throws {
        let broker = try Broker()
        defer { broker.remove() }
        try await broker.start()
        var plan = Self.plan(port: broker.port, folder: broker.folder, quality: .one, version: .v5)
        plan.rate = 200
        plan.seconds = 3
        let simulation = try Simulation(plan)
        async let result = simulation.run()
        while simulation.counts.acknowledged < 100 { try await Task.sleep(for: .milliseconds(10)) }
        // Stopped, it leaves messages unanswered; killed, it forgets them.
        broker.signal(SIGSTOP)
        while simulation.counts.outstanding < 4 * plan.inFlight { try await Task.sleep(for: .milliseconds(10)) }
        broker.signal(SIGKILL)
        try await broker.start()
        let counts = try await result
        #expect(counts.reconnects == 4)
        #expect(counts.resent == 4 * plan.inFlight)
        #expect(counts.outstanding == 0)
        #expect(counts.acknowledged == counts.published)

        let lines = try Self.journal(broker.folder)
        #expect(lines.filter { $0.event == .resend }.count == counts.resent)
        var seen: Set<String> = []
        for line in lines {
            let key = "\(line.device) \(line.n)"
            if line.event == .publish { seen.insert(key) } else { #expect(seen.contains(key)) }
        }
    }

    @Test func stoppingEndsInOrder() async throws {
        let broker = try Broker()
        defer { broker.remove() }
        try await broker.start()
        var plan = Self.plan(port: broker.port, folder: broker.folder, quality: .mixed, version: .v4)
        plan.seconds = 50
        let simulation = try Simulation(plan)
        async let result = simulation.run()
        while simulation.counts.acknowledged < 20 { try await Task.sleep(for: .milliseconds(10)) }
        simulation.stop()
        let counts = try await result
        #expect(counts.acknowledged == counts.published && counts.outstanding == 0)
    }

    @Test func nobodyListeningIsReported() async throws {
        let broker = try Broker()
        defer { broker.remove() }
        var plan = Self.plan(port: broker.port, folder: broker.folder, quality: .one, version: .v5)
        plan.seconds = 0.5
        let counts = try await Simulation(plan).run()
        #expect(counts.published == 0)
        #expect(counts.lastFailure?.contains("Connection refused") == true)
    }

    /// What an earlier process left knows its packet ids, which this one uses for other messages.
    @Test(arguments: SimulationPlan.Version.allCases)
    func theFirstConnectionOfAProcessStartsClean(version: SimulationPlan.Version) async throws {
        let broker = try Broker()
        defer { broker.remove() }
        try await broker.start()
        let plan = Self.plan(port: broker.port, folder: broker.folder, quality: .two, version: version)
        func connect(_ client: MosquittoClient) async throws -> MosquittoClient.Event? {
            try client.connect()
            for _ in 0..<1_000 {
                try client.read()
                if let event = client.takeEvents().first { return event }
                try await Task.sleep(for: .milliseconds(5))
            }
            return nil
        }
        for _ in 0..<2 {
            let client = try MosquittoClient(device: "sim-0001", plan: plan)
            #expect(try await connect(client) == .connected(reason: 0, isResumed: false))
            client.disconnect()
            #expect(try await connect(client) == .connected(reason: 0, isResumed: true), "later ones resume")
        }
    }

    @Test func aMissingCertificateIsNamed() async throws {
        let broker = try Broker()
        defer { broker.remove() }
        var plan = Self.plan(port: broker.port, folder: broker.folder, quality: .one, version: .v5)
        plan.pki = broker.folder.path
        let simulation = try Simulation(plan)
        await #expect(
            throws: SimulationError.credentials(
                device: "sim-0001", path: "\(broker.folder.path)/ca.crt", reason: "No such file or directory")
        ) { try await simulation.run() }
    }
}

/// A Mosquitto of the test's own.
private final class Broker {
    let folder: URL
    let port: Int
    private var process: Process?

    init() throws {
        folder = FileManager.default.temporaryDirectory.appendingPathComponent("simulator-\(UUID().uuidString)")
        try FileManager.default.createDirectory(at: folder, withIntermediateDirectories: true)
        port = try Self.freePort()
        try "listener \(port) 127.0.0.1\nallow_anonymous true\nmax_queued_messages 0\n"
            .write(to: folder.appendingPathComponent("mosquitto.conf"), atomically: true, encoding: .utf8)
    }

    func start() async throws {
        let process = Process()
        // Debian installs it where only root's path leads.
        process.executableURL = URL(fileURLWithPath: "/usr/sbin/mosquitto")
        process.arguments = ["-c", folder.path + "/mosquitto.conf"]
        process.standardOutput = FileHandle.nullDevice
        process.standardError = FileHandle.nullDevice
        try process.run()
        self.process = process
        for _ in 0..<500 where !Self.accepts(port) { try await Task.sleep(for: .milliseconds(10)) }
    }

    func signal(_ number: Int32) {
        guard let process else { return }
        kill(process.processIdentifier, number)
        if number == SIGKILL { process.waitUntilExit() }
    }

    func remove() {
        if process?.isRunning == true { signal(SIGKILL) }
        try? FileManager.default.removeItem(at: folder)
    }

    private static func address(_ port: Int) -> sockaddr_in {
        var address = sockaddr_in()
        address.sin_family = sa_family_t(AF_INET)
        address.sin_port = in_port_t(port).bigEndian
        address.sin_addr.s_addr = UInt32(0x7F00_0001).bigEndian
        return address
    }

    private static func freePort() throws -> Int {
        let descriptor = socket(AF_INET, Int32(SOCK_STREAM.rawValue), 0)
        defer { close(descriptor) }
        var address = address(0)
        var length = socklen_t(MemoryLayout<sockaddr_in>.size)
        let bound = withUnsafeMutablePointer(to: &address) {
            $0.withMemoryRebound(to: sockaddr.self, capacity: 1) {
                bind(descriptor, $0, length) == 0 && getsockname(descriptor, $0, &length) == 0
            }
        }
        try #require(bound)
        return Int(in_port_t(bigEndian: address.sin_port))
    }

    private static func accepts(_ port: Int) -> Bool {
        let descriptor = socket(AF_INET, Int32(SOCK_STREAM.rawValue), 0)
        defer { close(descriptor) }
        var address = address(port)
        return withUnsafePointer(to: &address) {
            $0.withMemoryRebound(to: sockaddr.self, capacity: 1) {
                connect(descriptor, $0, socklen_t(MemoryLayout<sockaddr_in>.size)) == 0
            }
        }
    }
}
