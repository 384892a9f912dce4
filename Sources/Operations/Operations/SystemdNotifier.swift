import Glibc
import ServiceLifecycle

/// Tells systemd how the service does (sd_notify(3)), by datagrams to the socket that it names in the environment.
package struct SystemdNotifier: Sendable, Equatable {
    /// A path, or a name in the abstract space that begins with `@`.
    package let socket: String
    /// Half of what systemd allows between two signs of life; `nil` where it watches nothing.
    package let watchdogInterval: Duration?

    package init(socket: String, watchdogInterval: Duration? = nil) {
        self.socket = socket
        self.watchdogInterval = watchdogInterval
    }

    /// `nil` where the process was not started by systemd with `Type=notify`.
    package init?(environment: [String: String], processID: Int32 = getpid()) {
        guard let socket = environment["NOTIFY_SOCKET"], socket.hasPrefix("/") || socket.hasPrefix("@"),
            (2...107).contains(socket.utf8.count)
        else { return nil }
        self.socket = socket
        let isOurs = environment["WATCHDOG_PID"].map { $0 == "\(processID)" } ?? true
        if isOurs, let microseconds = environment["WATCHDOG_USEC"].flatMap(Int64.init), microseconds > 0 {
            watchdogInterval = .microseconds(microseconds / 2)
        } else {
            watchdogInterval = nil
        }
    }

    /// Never waits: a full socket loses the message, and the next sign of life follows.
    ///
    /// - Returns: whether the datagram was taken.
    @discardableResult
    package func send(_ state: String) -> Bool {
        let descriptor = Glibc.socket(AF_UNIX, Int32(SOCK_DGRAM.rawValue) | Int32(SOCK_CLOEXEC.rawValue), 0)
        guard descriptor >= 0 else { return false }
        defer { close(descriptor) }
        var address = sockaddr_un()
        address.sun_family = sa_family_t(AF_UNIX)
        var name = Array(socket.utf8)
        if name.first == UInt8(ascii: "@") { name[0] = 0 }
        withUnsafeMutableBytes(of: &address.sun_path) { $0.copyBytes(from: name) }
        let offset = MemoryLayout<sockaddr_un>.offset(of: \.sun_path) ?? 2
        // An abstract name ends with its length, a path with its zero.
        let length = socklen_t(offset + name.count + (name.first == 0 ? 0 : 1))
        let message = Array(state.utf8)
        let sent = withUnsafePointer(to: &address) { pointer in
            pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) { generic in
                sendto(
                    descriptor, message, message.count, Int32(MSG_NOSIGNAL) | Int32(MSG_DONTWAIT),
                    generic, length)
            }
        }
        return sent == message.count
    }
}

/// READY once the service is ready, a sign of life while it makes progress, STOPPING when it begins to end.
package struct SystemdService: Service {
    private let notifier: SystemdNotifier
    private let isReady: @Sendable () async -> Bool
    private let isAlive: @Sendable () async -> Bool

    /// - Parameters:
    ///   - isReady: asked every 100 ms until it is true.
    ///   - isAlive: asked before each sign of life; while it is false, none is sent, and systemd restarts the service.
    package init(
        notifier: SystemdNotifier, isReady: @escaping @Sendable () async -> Bool = { true },
        isAlive: @escaping @Sendable () async -> Bool = { true }
    ) {
        self.notifier = notifier
        self.isReady = isReady
        self.isAlive = isAlive
    }

    package func run() async throws {
        await withGracefulShutdownHandler {
            await cancelWhenGracefulShutdown { await work() }
        } onGracefulShutdown: {
            notifier.send("STOPPING=1")
        }
    }

    private func work() async {
        do {
            while !(await isReady()) { try await Task.sleep(for: .milliseconds(100)) }
            notifier.send("READY=1")
            while true {
                try await Task.sleep(for: notifier.watchdogInterval ?? .seconds(3_600))
                if notifier.watchdogInterval != nil, await isAlive() { notifier.send("WATCHDOG=1") }
            }
        } catch {
            // Sleep throws when the service is told to end, and then there is nothing left to do.
        }
    }
}
