import Foundation
import Glibc
import Logging
import Operations
import ServiceLifecycle
import SyncModel
import Testing

/// A datagram socket as systemd has it.
private final class NotifySocket: Sendable {
    let descriptor: Int32

    /// - Parameter name: a path, or `@name`.
    init(_ name: String) throws {
        descriptor = socket(AF_UNIX, Int32(SOCK_DGRAM.rawValue), 0)
        var limit = timeval(tv_sec: 60, tv_usec: 0)
        setsockopt(descriptor, SOL_SOCKET, SO_RCVTIMEO, &limit, socklen_t(MemoryLayout<timeval>.size))
        var address = sockaddr_un()
        address.sun_family = sa_family_t(AF_UNIX)
        var bytes = Array(name.utf8)
        if bytes[0] == UInt8(ascii: "@") { bytes[0] = 0 }
        withUnsafeMutableBytes(of: &address.sun_path) { $0.copyBytes(from: bytes) }
        let length = socklen_t(2 + bytes.count + (bytes[0] == 0 ? 0 : 1))
        let bound = withUnsafePointer(to: &address) { pointer in
            pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) { bind(descriptor, $0, length) }
        }
        try #require(bound == 0)
    }

    deinit { close(descriptor) }

    func next() async -> String {
        await withCheckedContinuation { continuation in
            DispatchQueue.global().async { [descriptor] in
                var buffer = [UInt8](repeating: 0, count: 512)
                let count = recv(descriptor, &buffer, buffer.count, 0)
                continuation.resume(returning: String(decoding: buffer[..<max(0, count)], as: UTF8.self))
            }
        }
    }
}

@Suite struct SystemdTests {
    @Test func theEnvironmentDecides() {
        #expect(SystemdNotifier(environment: [:]) == nil)
        #expect(SystemdNotifier(environment: ["NOTIFY_SOCKET": "relative"]) == nil)
        #expect(SystemdNotifier(environment: ["NOTIFY_SOCKET": "/" + String(repeating: "x", count: 107)]) == nil)
        let watched = SystemdNotifier(
            environment: ["NOTIFY_SOCKET": "/run/n", "WATCHDOG_USEC": "3000000", "WATCHDOG_PID": "7"], processID: 7)
        #expect(watched?.watchdogInterval == .milliseconds(1_500))
        let another = SystemdNotifier(
            environment: ["NOTIFY_SOCKET": "/run/n", "WATCHDOG_USEC": "3000000", "WATCHDOG_PID": "8"], processID: 7)
        #expect(another != nil && another?.watchdogInterval == nil)
    }

    @Test(arguments: [false, true])
    func aServiceTellsItsLife(isAbstract: Bool) async throws {
        let folder = try TemporaryFile("")
        let name = isAbstract ? "@sluice-\(UUID().uuidString)" : folder.folder + "/notify"
        let socket = try NotifySocket(name)
        let notifier = SystemdNotifier(socket: name, watchdogInterval: .milliseconds(20))
        let service = SystemdService(notifier: notifier)
        let group = ServiceGroup(
            configuration: .init(services: [.init(service: service)], logger: .init(label: "t")))
        let running = Task { try await group.run() }
        #expect(await socket.next() == "READY=1")
        #expect(await socket.next() == "WATCHDOG=1")
        await group.triggerGracefulShutdown()
        var last = ""
        for _ in 0..<100 where last != "STOPPING=1" { last = await socket.next() }
        #expect(last == "STOPPING=1")
        try await running.value
    }

    @Test func withoutASocketNothingHangs() {
        #expect(!SystemdNotifier(socket: "/nowhere/at/all").send("READY=1"))
    }
}

@Suite struct ClockTests {
    @Test func theClockAgreesWithTheSystem() throws {
        let clock = try SystemClock()
        let first = clock.now()
        let second = clock.now()
        #expect(abs(first.wallTime - Int64(Date().timeIntervalSince1970 * 1_000_000)) < 5_000_000)
        #expect(second.monotonicTime >= first.monotonicTime)
        let file = try String(contentsOfFile: "/proc/sys/kernel/random/boot_id", encoding: .utf8)
        let id = String(format: "%016lx%016lx", clock.bootHigh, clock.bootLow)
        #expect(file.replacingOccurrences(of: "-", with: "").hasPrefix(id))
        #expect(first.bootHigh == second.bootHigh && first.bootLow == second.bootLow)
    }

    @Test func aStrangeBootIDIsAnError() throws {
        let file = try TemporaryFile("not-an-id\n")
        #expect(throws: ClockError.noBootID(file: file.path)) { try SystemClock(bootIDFile: file.path) }
        #expect(throws: ClockError.self) { try SystemClock(bootIDFile: "/nowhere") }
    }
}

@Suite struct DaemonStartTests {
    @Test func mistakesEndWithTheStatusOfConfigurations() throws {
        let file = try TemporaryFile("gateway: { id: a }\nx: 1\ny: 2\n")
        let start = DaemonStart(program: "sluice-edge", file: file.path, checkOnly: false) {
            () throws(ConfigurationProblems) in try EdgeConfiguration.load(file: file.path)
        }
        guard case .end(let status, let text) = start else {
            Issue.record("it went on")
            return
        }
        #expect(status == 78)
        #expect(text.contains("\(file.path):2: x: found an unknown key") && text.contains(":3: y: "))
        #expect(text.hasSuffix("sluice-edge: 2 mistakes in \(file.path)\n"))
    }

    @Test func aCheckEndsWithZeroAndAStartGoesOn() throws {
        let file = try TemporaryFile("gateway: { id: a }\n")
        let load = { () throws(ConfigurationProblems) in try EdgeConfiguration.load(file: file.path) }
        guard case .end(0, let text) = DaemonStart(program: "p", file: file.path, checkOnly: true, load: load) else {
            Issue.record("the check did not end well")
            return
        }
        #expect(text == "\(file.path): good\n")
        let start = DaemonStart(program: "p", file: file.path, checkOnly: false, load: load)
        #expect(start.configurationOrExit().gatewayID == "a")
    }
}

@Suite struct AtomicFileTests {
    @Test func nothingIsReplacedUnlessAsked() throws {
        let file = try TemporaryFile("old")
        #expect(throws: FileError(path: file.path, operation: "create", code: EEXIST)) {
            try AtomicFile.write([1], to: file.path, mode: 0o600, replacing: false)
        }
        #expect(try AtomicFile.read(file.path, maximumBytes: 3) == Array("old".utf8))
        try AtomicFile.write([1, 2], to: file.path, mode: 0o600, replacing: true)
        #expect(try AtomicFile.read(file.path, maximumBytes: 3) == [1, 2])
        #expect(throws: FileError.self) { try AtomicFile.read(file.path, maximumBytes: 1) }
        #expect(throws: FileError.self) {
            try AtomicFile.write([1], to: file.folder + "/no/where", mode: 0o600, replacing: false)
        }
        #expect(try FileManager.default.contentsOfDirectory(atPath: file.folder) == ["c.yaml"])
    }
}
