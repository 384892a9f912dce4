import ArgumentParser
import Buffer
import Foundation
import Glibc
import NIOCore
import Operations

/// `sluice buffer`.
struct BufferCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "buffer", abstract: "Look into a gateway's buffer: what waits for the cloud.",
        discussion: """
            Asks the gateway's daemon through its local socket, beside the buffer's file; where no daemon runs, the file \
            itself is read under its lock. Run it as the daemon's user or as root. Nothing is changed.
            """,
        subcommands: [
            BufferStatsCommand.self, BufferTailCommand.self, BufferExportCommand.self, DeadLettersCommand.self,
        ])
}

struct BufferOptions: ParsableArguments {
    @Option(help: ArgumentHelp("The buffer's file: buffer.path of the gateway's configuration.", valueName: "file"))
    var buffer = "/var/lib/sluice/buffer.db"
}

struct BufferStatsCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "stats", abstract: "How many messages and bytes wait, and how large the file is.")

    @OptionGroup var options: BufferOptions

    @Flag(help: "Print JSON.")
    var json = false

    func run() async throws {
        let stats = try await ControlClient.stats(ofBuffer: options.buffer)
        print(json ? try jsonText(stats) : BufferTable.text(stats))
    }
}

struct BufferTailCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "tail", abstract: "The newest messages that wait, oldest first.")

    @OptionGroup var options: BufferOptions

    @Option(name: [.customShort("n"), .long], help: ArgumentHelp("How many, from 1 to 10000.", valueName: "count"))
    var lines = 10

    @Flag(help: "Print them as export does: a line of JSON each.")
    var json = false

    func validate() throws {
        guard (1...10_000).contains(lines) else { throw ValidationError("--lines is \(lines); allowed are 1 to 10000") }
    }

    func run() async throws {
        let asJSON = json
        _ = try await ControlClient.export(.messages(newest: lines), ofBuffer: options.buffer) { part in
            try StandardOutput.write(asJSON ? part : BufferTable.messages(part))
        }
    }
}

struct BufferExportCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "export", abstract: "All messages that wait, oldest first, a line of JSON each.",
        discussion: """
            A line has epoch, sequence, device, number, time, synchronised, topic, qos, retain, duplicate, will, and either \
            payload (UTF-8) or payloadBase64. The daemon goes on meanwhile: what it takes belongs to the export, what the \
            cloud answers for may be missing.
            """)

    @OptionGroup var options: BufferOptions

    func run() async throws {
        let count = try await ControlClient.export(.messages(newest: nil), ofBuffer: options.buffer) { part in
            try StandardOutput.write(part)
        }
        FileHandle.standardError.write(Data("\(count) messages\n".utf8))
    }
}

struct DeadLettersCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "dead-letters", abstract: "Messages that the cloud refuses, oldest first, and why.",
        discussion: """
            Each has its line in the ledger (reason malformed), and the rest of its batch went up. The newest 10000 are kept, of \
            16 MiB together.
            """)

    @OptionGroup var options: BufferOptions

    @Flag(help: "Print a line of JSON each, with the payload's bytes.")
    var json = false

    func run() async throws {
        let asJSON = json
        let count = try await ControlClient.export(.deadLetters, ofBuffer: options.buffer) { part in
            try StandardOutput.write(asJSON ? part : BufferTable.deadLetters(part))
        }
        FileHandle.standardError.write(Data("\(count) dead letters\n".utf8))
    }
}

/// What does not go through `print`, because a reader that went away has to end the work.
enum StandardOutput {
    static func write(_ bytes: ByteBuffer) throws {
        var rest = bytes.readableBytesView[...]
        while !rest.isEmpty {
            let written = rest.withUnsafeBytes { Glibc.write(STDOUT_FILENO, $0.baseAddress, $0.count) }
            if written >= 0 {
                rest = rest.dropFirst(written)
            } else if errno == EPIPE {
                endAsByPipe()
            } else if errno != EINTR {
                throw POSIXError(POSIXErrorCode(rawValue: errno) ?? .EIO)
            }
        }
    }

    /// By the signal, without a word, as every tool ends whose reader (`head`) has enough. Libraries ignore it.
    private static func endAsByPipe() -> Never {
        signal(SIGPIPE, SIG_DFL)
        var signals = sigset_t()
        sigemptyset(&signals)
        sigaddset(&signals, SIGPIPE)
        pthread_sigmask(SIG_UNBLOCK, &signals, nil)
        raise(SIGPIPE)
        _exit(128 + SIGPIPE)
    }
}

enum BufferTable {
    static func text(_ stats: BufferStats) -> String {
        var lines: [(String, String)] = [
            ("gateway", stats.gateway),
            ("messages", Shown.count(stats.messages)),
            (
                "bytes",
                "\(Shown.bytes(Double(stats.bytes))) of \(Shown.bytes(Double(stats.maximumBytes)))"
                    + (stats.isFull ? ", full" : "")
            ),
            ("held", "\(Shown.count(stats.heldMessages)) of the messages, for the ends of their windows"),
            ("oldest", stats.oldest.map { RFC3339.text(secondsSince1970: $0 / 1_000_000) } ?? "nothing waits"),
            ("frames", Shown.count(Int(stats.frames))), ("ledger lines", Shown.count(Int(stats.ledgerLines))),
            ("dead letters", Shown.count(Int(stats.deadLetters))),
            ("epochs", Shown.count(Int(stats.epochs))), ("sessions", Shown.count(Int(stats.sessions))),
            ("retained", Shown.count(Int(stats.retained))),
            (
                "file",
                "\(Shown.bytes(Double(stats.fileBytes))), of which \(Shown.bytes(Double(stats.freeBytes))) can be used again"
            ),
            ("log", Shown.bytes(Double(stats.logBytes))),
        ]
        if let free = stats.diskFreePercent { lines.append(("disk", "\(Int(free)) % free")) }
        return lines.map { $0.0.padding(toLength: 14, withPad: " ", startingAt: 0) + $0.1 }.joined(separator: "\n")
    }

    private struct Line: Decodable {
        var sequence: UInt64
        var device: String
        var time: String
        var topic: String
        var qos: Int
        var payload: String?
        var payloadBase64: String?
    }

    private struct DeadLetterLine: Decodable {
        var sequence: UInt64
        var device: String
        var buried: String
        var topic: String
        var status: Int
        var reason: String
    }

    static func messages(_ part: ByteBuffer) throws -> ByteBuffer {
        try lines(part) { (line: Line) in
            let payload = line.payload?.shown ?? "base64 \((line.payloadBase64 ?? "").shown)"
            return
                "\(line.time)  \(line.sequence)  \(line.device.shown)  \(line.topic.shown)  qos \(line.qos)  \(payload)"
        }
    }

    static func deadLetters(_ part: ByteBuffer) throws -> ByteBuffer {
        try lines(part) { (line: DeadLetterLine) in
            "\(line.buried)  \(line.sequence)  \(line.device.shown)  \(line.topic.shown)  \(line.status)  \(line.reason.shown)"
        }
    }

    /// Lines of JSON as lines for a person; nothing in them moves a terminal's cursor.
    private static func lines<Line: Decodable>(
        _ part: ByteBuffer, _ show: (Line) -> String
    ) throws -> ByteBuffer {
        var text = ByteBuffer()
        for bytes in Data(part.readableBytesView).split(separator: UInt8(ascii: "\n")) {
            text.writeString(show(try JSONDecoder().decode(Line.self, from: Data(bytes))) + "\n")
        }
        return text
    }
}
