import Foundation
import Glibc
import Synchronization

/// A program that a test starts. Its output goes to a file; it is killed when the last reference to it goes.
///
/// Not Foundation's `Process`, which waits until every descendant has closed what it inherited.
final class ChildProcess: Sendable {
    struct Failure: Error, CustomStringConvertible {
        let description: String
    }

    let name: String
    let pid: pid_t
    let output: URL
    private let ended = Mutex<Int32?>(nil)

    /// - Parameters:
    ///   - input: what the program reads as its standard input; nothing by default.
    ///   - environment: variables beside those of the test.
    ///   - output: appended to, so that a restarted daemon keeps one log.
    init(
        _ program: String, _ arguments: [String], input: URL? = nil, environment: [String: String] = [:], output: URL
    ) throws(Failure) {
        name = (program as NSString).lastPathComponent
        self.output = output
        var actions = posix_spawn_file_actions_t()
        posix_spawn_file_actions_init(&actions)
        defer { posix_spawn_file_actions_destroy(&actions) }
        posix_spawn_file_actions_addopen(&actions, STDIN_FILENO, input?.path ?? "/dev/null", O_RDONLY, 0)
        posix_spawn_file_actions_addopen(
            &actions, STDOUT_FILENO, output.path, O_WRONLY | O_CREAT | O_APPEND, 0o644)
        posix_spawn_file_actions_adddup2(&actions, STDOUT_FILENO, STDERR_FILENO)
        let words: [UnsafeMutablePointer<CChar>?] = ([program] + arguments).map { strdup($0) } + [nil]
        let variables: [UnsafeMutablePointer<CChar>?] =
            Self.environment.merging(environment) { $1 }.map { strdup("\($0)=\($1)") } + [nil]
        defer { (words + variables).forEach { free($0) } }
        var pid = pid_t()
        let code = posix_spawnp(&pid, program, &actions, nil, words, variables)
        guard code == 0 else { throw Failure(description: "\(program): \(String(cString: strerror(code)))") }
        self.pid = pid
    }

    deinit { kill() }

    /// A program's coverage goes where `SLUICE_TEST_PROFILE` says; without it, where the test's own goes.
    private static let environment: [String: String] = {
        var variables = ProcessInfo.processInfo.environment
        if let profile = variables["SLUICE_TEST_PROFILE"] { variables["LLVM_PROFILE_FILE"] = profile }
        // sbin: Debian keeps Mosquitto there.
        variables["PATH"] = (variables["PATH"] ?? "/usr/bin:/bin") + ":/usr/sbin"
        return variables
    }()

    /// The exit code, 128 + n after signal n, nil while it runs.
    var status: Int32? {
        ended.withLock { ended in
            if let ended { return ended }
            var raw: Int32 = 0
            guard waitpid(pid, &raw, WNOHANG) == pid else { return nil }
            ended = raw & 0x7F == 0 ? (raw >> 8) & 0xFF : 128 + (raw & 0x7F)
            return ended
        }
    }

    func signal(_ number: Int32) {
        // Not after it was waited for: the id may be another's by then.
        if status == nil { _ = Glibc.kill(pid, number) }
    }

    /// SIGKILL, and the wait for its end.
    func kill() {
        ended.withLock { ended in
            guard ended == nil else { return }
            _ = Glibc.kill(pid, SIGKILL)
            var raw: Int32 = 0
            while waitpid(pid, &raw, 0) < 0, errno == EINTR {}
            ended = 128 + SIGKILL
        }
    }

    func wait(seconds: Double) async throws -> Int32 {
        try await eventually("\(name) ends", within: seconds) { self.status }
    }

    var log: String { (try? String(contentsOf: output, encoding: .utf8)) ?? "" }
}

/// Tries until there is a value, every 20 ms.
func eventually<Value: Sendable>(
    _ what: String, within seconds: Double, _ body: () async throws -> Value?
) async throws -> Value {
    let end = ContinuousClock.now + .seconds(seconds)
    while true {
        if let value = try await body() { return value }
        guard ContinuousClock.now < end else {
            throw ChildProcess.Failure(description: "not within \(seconds) s: \(what)")
        }
        try await Task.sleep(for: .milliseconds(20))
    }
}

/// A tool's exit code and everything it printed.
struct ToolResult: Sendable {
    let status: Int32
    let output: String
    let bytes: [UInt8]
}

/// Runs a program to its end, or kills it.
func run(
    _ program: String, _ arguments: [String], input: [UInt8]? = nil, within seconds: Double = 30
) async throws -> ToolResult {
    let base = FileManager.default.temporaryDirectory.appendingPathComponent("sluice-tool-\(UUID().uuidString)")
    let inputFile = base.appendingPathExtension("in")
    let outputFile = base.appendingPathExtension("out")
    defer {
        try? FileManager.default.removeItem(at: inputFile)
        try? FileManager.default.removeItem(at: outputFile)
    }
    if let input { try Data(input).write(to: inputFile) }
    let child = try ChildProcess(program, arguments, input: input == nil ? nil : inputFile, output: outputFile)
    let status = try await child.wait(seconds: seconds)
    let bytes = try Data(contentsOf: outputFile)
    return ToolResult(status: status, output: String(decoding: bytes, as: UTF8.self), bytes: Array(bytes))
}
