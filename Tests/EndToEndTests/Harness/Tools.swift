import Foundation
import Glibc
import TestSupport

/// The programs that this build made.
enum Binaries {
    /// `SLUICE_TEST_BINARIES`, or the folder of the test's own program.
    static let folder: String = {
        if let given = ProcessInfo.processInfo.environment["SLUICE_TEST_BINARIES"] { return given }
        let own = (try? FileManager.default.destinationOfSymbolicLink(atPath: "/proc/self/exe")) ?? ""
        return (own as NSString).deletingLastPathComponent
    }()

    static func path(_ name: String) -> String { "\(folder)/\(name)" }

    /// Runs the operator's tool, which must succeed.
    @discardableResult
    static func sluice(_ arguments: [String]) async throws -> String {
        let result = try await run(path("sluice"), arguments, within: 60)
        guard result.status == 0 else {
            throw ChildProcess.Failure(
                description: "sluice \(arguments.joined(separator: " ")) ended with \(result.status): \(result.output)")
        }
        return result.output
    }

    @discardableResult
    static func sluice(_ arguments: String...) async throws -> String { try await sluice(arguments) }
}

enum Repository {
    /// Of a file that is named from the checkout's root.
    static func path(_ name: String) -> String {
        (0..<4).reduce(URL(fileURLWithPath: #filePath)) { url, _ in url.deletingLastPathComponent() }
            .appendingPathComponent(name).path
    }
}

enum Postgres {
    /// A fresh database in the test process's own cluster.
    static func database() async throws -> String {
        try await withCheckedThrowingContinuation { continuation in
            // Starting PostgreSQL blocks.
            DispatchQueue.global().async {
                continuation.resume(with: Result { try PostgresCluster.shared().makeDatabase() })
            }
        }
    }

    @discardableResult
    static func script(_ command: String, _ folder: String) async throws -> String {
        let result = try await run(Repository.path("scripts/postgres.sh"), [command, folder], within: 90)
        guard result.status == 0 else {
            throw ChildProcess.Failure(description: "postgres.sh \(command): \(result.output)")
        }
        return result.output
    }
}

enum Ports {
    /// Ports of 127.0.0.1 that nothing listens on, below the range that the kernel gives to outgoing connections, so
    /// that a daemon that was killed finds its port free again.
    static func free(_ count: Int) throws -> [Int] {
        var found: Set<Int> = []
        for _ in 0..<10_000 where found.count < count {
            let port = Int.random(in: 20_000..<32_000)
            if isFree(port) { found.insert(port) }
        }
        guard found.count == count else { throw ChildProcess.Failure(description: "no free TCP ports") }
        return Array(found)
    }

    private static func isFree(_ port: Int) -> Bool {
        let descriptor = socket(AF_INET, Int32(SOCK_STREAM.rawValue) | Int32(SOCK_CLOEXEC.rawValue), 0)
        defer { close(descriptor) }
        return withSocketAddress(port: port) { bind(descriptor, $0, $1) } == 0
    }
}

func withSocketAddress<Result>(
    port: Int, _ body: (UnsafePointer<sockaddr>, socklen_t) -> Result
) -> Result {
    var address = sockaddr_in()
    address.sin_family = sa_family_t(AF_INET)
    address.sin_port = in_port_t(port).bigEndian
    address.sin_addr.s_addr = UInt32(0x7F00_0001).bigEndian
    return withUnsafePointer(to: &address) {
        $0.withMemoryRebound(to: sockaddr.self, capacity: 1) { body($0, socklen_t(MemoryLayout<sockaddr_in>.size)) }
    }
}

/// A TCP connection to 127.0.0.1 that sends whatever it is told to.
final class RawConnection: Sendable {
    private let descriptor: Int32

    init(port: Int) throws {
        descriptor = socket(AF_INET, Int32(SOCK_STREAM.rawValue) | Int32(SOCK_CLOEXEC.rawValue), 0)
        let result = withSocketAddress(port: port) { connect(descriptor, $0, $1) }
        guard result == 0 else {
            let reason = String(cString: strerror(errno))
            close(descriptor)
            throw ChildProcess.Failure(description: "port \(port): \(reason)")
        }
        _ = fcntl(descriptor, F_SETFL, O_NONBLOCK)
        var on: Int32 = 1
        setsockopt(descriptor, Int32(IPPROTO_TCP), TCP_NODELAY, &on, socklen_t(MemoryLayout<Int32>.size))
    }

    deinit { close(descriptor) }

    /// False when the other end does not take it.
    @discardableResult
    func send(_ bytes: [UInt8]) -> Bool {
        Glibc.send(descriptor, bytes, bytes.count, Int32(MSG_NOSIGNAL)) == bytes.count
    }

    enum Received: Sendable, Equatable {
        case bytes([UInt8])
        case end
    }

    /// What comes next.
    func receive(within seconds: Double = 5) async throws -> Received {
        try await eventually("bytes or the end of a connection", within: seconds) {
            var buffer = [UInt8](repeating: 0, count: 65_536)
            let count = recv(self.descriptor, &buffer, buffer.count, 0)
            if count > 0 { return .bytes(Array(buffer[..<count])) }
            return count == 0 || (errno != EAGAIN && errno != EINTR) ? .end : nil
        }
    }

    /// What has come by now, without waiting.
    func received() -> [UInt8] {
        var buffer = [UInt8](repeating: 0, count: 65_536)
        let count = recv(descriptor, &buffer, buffer.count, 0)
        return count > 0 ? Array(buffer[..<count]) : []
    }

    /// So many bytes, or what comes before the end.
    func receive(count: Int, within seconds: Double = 5) async throws -> [UInt8] {
        var all: [UInt8] = []
        while all.count < count, case .bytes(let bytes) = try await receive(within: seconds) { all += bytes }
        return all
    }

    /// Everything until the other end closes.
    func receiveAll(within seconds: Double = 5) async throws -> [UInt8] {
        var all: [UInt8] = []
        let end = ContinuousClock.now + .seconds(seconds)
        while ContinuousClock.now < end {
            switch try await receive(within: seconds) {
            case .bytes(let bytes): all += bytes
            case .end: return all
            }
        }
        throw ChildProcess.Failure(description: "the connection was not closed within \(seconds) s")
    }
}

/// MQTT packets by hand, so that the server's own codec does not test itself.
enum MQTTBytes {
    static func string(_ text: String) -> [UInt8] {
        [UInt8(text.utf8.count >> 8), UInt8(text.utf8.count & 0xFF)] + Array(text.utf8)
    }

    static func packet(_ first: UInt8, _ body: [UInt8]) -> [UInt8] {
        var length: [UInt8] = []
        var rest = body.count
        repeat {
            length.append(UInt8(rest & 0x7F) | (rest > 0x7F ? 0x80 : 0))
            rest >>= 7
        } while rest > 0
        return [first] + length + body
    }

    /// - Parameter level: 4 for 3.1.1, 5 for 5.0.
    static func connect(id: String, level: UInt8 = 4, keepAlive: UInt8 = 60, isClean: Bool = true) -> [UInt8] {
        packet(
            0x10,
            string("MQTT") + [level, isClean ? 0x02 : 0, 0, keepAlive] + (level == 5 ? [0] : []) + string(id))
    }

    static func publish(topic: String, payload: [UInt8], qos: UInt8, packetID: UInt8 = 1, level: UInt8 = 4) -> [UInt8] {
        packet(
            0x30 | qos << 1,
            string(topic) + (qos > 0 ? [0, packetID] : []) + (level == 5 ? [0] : []) + payload)
    }

    static let pingRequest: [UInt8] = [0xC0, 0]
    static let pingResponse: [UInt8] = [0xD0, 0]
    /// CONNACK of 3.1.1: accepted, no session.
    static let accepted: [UInt8] = [0x20, 2, 0, 0]
    /// CONNACK of 3.1.1: accepted, the session goes on.
    static let resumed: [UInt8] = [0x20, 2, 1, 0]
}

/// The same numbers from the same seed, so that a failed run can be repeated.
struct SeededGenerator: RandomNumberGenerator {
    private var state: UInt64

    init(seed: UInt64) { state = seed }

    /// SplitMix64.
    mutating func next() -> UInt64 {
        state &+= 0x9E37_79B9_7F4A_7C15
        var mixed = state
        mixed = (mixed ^ (mixed >> 30)) &* 0xBF58_476D_1CE4_E5B9
        mixed = (mixed ^ (mixed >> 27)) &* 0x94D0_49BB_1331_11EB
        return mixed ^ (mixed >> 31)
    }
}
