import Glibc
import ServiceLifecycle

/// Tells systemd how the daemon fares (sd_notify(3)): a datagram to the socket that `NOTIFY_SOCKET` names.
package struct SystemdNotifier: Sendable {
    private let path: String

    /// - Parameter socket: a path, or an abstract name that begins with `@`; `nil` where systemd has not started us, or the
    ///   name does not fit into a socket's address (107 bytes).
    package init?(socket: String?) {
        guard let socket, let first = socket.first, first == "/" || first == "@", socket.utf8.count <= 107 else {
            return nil
        }
        path = socket
    }

    package static func fromEnvironment() -> SystemdNotifier? {
        SystemdNotifier(socket: getenv("NOTIFY_SOCKET").map { String(cString: $0) })
    }

    /// How often systemd wants to hear of us, in microseconds; `nil` without a watchdog.
    package static func watchdogInterval() -> Int64? {
        guard let text = getenv("WATCHDOG_USEC"), let value = Int64(String(cString: text)), value > 0 else {
            return nil
        }
        return value
    }

    /// `READY=1`, `STOPPING=1`, `WATCHDOG=1`, `STATUS=…`. Returns whether the message left; losing one is no error.
    @discardableResult
    package func send(_ state: String) -> Bool {
        let descriptor = socket(AF_UNIX, Int32(SOCK_DGRAM.rawValue) | Int32(SOCK_CLOEXEC.rawValue), 0)
        guard descriptor >= 0 else { return false }
        defer { close(descriptor) }
        var address = sockaddr_un()
        address.sun_family = sa_family_t(AF_UNIX)
        var name = Array(path.utf8)
        // An abstract name begins with a zero byte and is as long as the address says.
        if name.first == UInt8(ascii: "@") { name[0] = 0 }
        withUnsafeMutableBytes(of: &address.sun_path) { $0.copyBytes(from: name) }
        let length = socklen_t(MemoryLayout<sa_family_t>.size + name.count)
        return withUnsafePointer(to: &address) { pointer in
            pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) { generic in
                let bytes = Array(state.utf8)
                return sendto(descriptor, bytes, bytes.count, Int32(MSG_NOSIGNAL), generic, length)
                    == bytes.count
            }
        }
    }
}

/// Keeps systemd informed for as long as the daemon runs.
package struct SystemdService: Service {
    private let notifier: SystemdNotifier
    private let isReady: @Sendable () async -> Bool
    private let isAlive: @Sendable () async -> Bool

    /// - Parameters:
    ///   - isReady: asked until it is true once; then READY=1 is sent.
    ///   - isAlive: the watchdog is fed only while it is true.
    package init(
        notifier: SystemdNotifier, isReady: @escaping @Sendable () async -> Bool,
        isAlive: @escaping @Sendable () async -> Bool
    ) {
        self.notifier = notifier
        self.isReady = isReady
        self.isAlive = isAlive
    }

    package func run() async throws {
        await cancelWhenGracefulShutdown {
            while !Task.isCancelled, await !isReady() { try? await Task.sleep(for: .milliseconds(50)) }
            if !Task.isCancelled { notifier.send("READY=1") }
            // Half of the interval, as sd_watchdog_enabled(3) advises.
            let pause = Duration.microseconds((SystemdNotifier.watchdogInterval() ?? 20_000_000) / 2)
            while !Task.isCancelled {
                if SystemdNotifier.watchdogInterval() != nil, await isAlive() { notifier.send("WATCHDOG=1") }
                try? await Task.sleep(for: pause)
            }
        }
        notifier.send("STOPPING=1")
    }
}
