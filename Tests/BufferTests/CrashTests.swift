import Foundation
import MQTTSession
import NIOCore
import SyncModel
import Testing

@testable import Buffer

@Suite struct CrashTests {
    let scratch: Scratch

    init() throws { scratch = try Scratch() }

    /// What a killed process had said of itself.
    private struct Statements {
        var submitted: UInt64 = 0
        var committed: UInt64 = 0
        var answeredMessages: UInt64 = 0
        /// Answered or on the way to it.
        var sentMessages: UInt64 = 0
        var lines = 0

        init(_ text: String) {
            var sent: UInt64 = 0
            // The last line may be cut off by the kill.
            for line in text.split(separator: "\n", omittingEmptySubsequences: false).dropLast() {
                let words = line.split(separator: " ")
                lines += 1
                switch words[0] {
                case "submitted": submitted = UInt64(words[1])!
                case "committed": committed = UInt64(words[1])!
                case "sent":
                    sent = UInt64(words[2])!
                    sentMessages += sent
                case "answered": answeredMessages += sent
                default: Issue.record("the driver said: \(line)")
                }
            }
        }
    }

    /// Runs the driver and kills it after so many lines.
    private func runAndKill(epoch: UInt64, afterLines count: Int) throws -> Statements {
        let process = Process()
        let tests = try FileManager.default.destinationOfSymbolicLink(atPath: "/proc/self/exe")
        process.executableURL = URL(fileURLWithPath: tests).deletingLastPathComponent()
            .appendingPathComponent("buffer-driver")
        process.arguments = ["commit", scratch.path, "\(epoch)"]
        let pipe = Pipe()
        process.standardOutput = pipe
        try process.run()
        var said = Data()
        var lines = 0
        while lines < count {
            let chunk = pipe.fileHandleForReading.availableData
            if chunk.isEmpty { break }
            lines += chunk.count { $0 == UInt8(ascii: "\n") }
            said += chunk
        }
        kill(process.processIdentifier, SIGKILL)
        said += pipe.fileHandleForReading.readDataToEndOfFile()
        process.waitUntilExit()
        #expect(process.terminationReason == .uncaughtSignal, "it must not end by itself")
        return Statements(String(decoding: said, as: UTF8.self))
    }

    @Test(.timeLimit(.minutes(1))) func everyReceiptSurvivesAKill() async throws {
        for round in UInt64(1)...8 {
            let said = try runAndKill(epoch: round, afterLines: Int.random(in: 1...400))
            let (buffer, restored) = try Buffer.open(
                scratch.configuration(), epoch: Epoch(high: 9, low: round), logger: quiet)
            let name = Epoch(high: 0, low: round).hexadecimal
            let entry = try await buffer.accounting().epochs.first { $0.epoch == name }
            let last = entry?.lastSequence ?? 0
            #expect(said.committed <= last && last <= said.submitted)
            // The retained message of the last transaction names its last message: both or neither are there.
            if last > 0 {
                let retained = try #require(restored.retained.first)
                #expect(String(buffer: retained.payload) == "\(last)")
            }
            let frames = try await buffer.everything()
            let sequences = frames.flatMap { frame in
                frame.records.indices.map { frame.firstSequence + UInt64($0) }
            }
            let first = sequences.first ?? last + 1
            #expect(sequences == Array(first..<last + 1))
            #expect(said.answeredMessages < first && first <= said.sentMessages + 1)
            let payloads = frames.flatMap { $0.records.map { String(buffer: $0.payload).split(separator: " ")[0] } }
            #expect(payloads == sequences.map { Substring("\($0)") })
            await buffer.close()
        }
    }
}
