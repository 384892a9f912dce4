import Foundation
import Operations
import Testing

@testable import Simulator

@Suite struct JournalTests {
    @Test(arguments: [
        JournalLine(event: .publish, device: "sim-0001", n: 9_007_199_254_740_991, qos: 1, at: 1_763_900_000_123_456),
        JournalLine(event: .refuse, device: "a\"b\\c\u{1}é", n: 0, qos: 2, at: -1, reason: 0x97),
    ])
    func aLineReadsBackAsItWas(line: JournalLine) throws {
        var buffer: [UInt8] = []
        line.append(to: &buffer)
        #expect(buffer.last == UInt8(ascii: "\n"))
        #expect(try JSONDecoder().decode(JournalLine.self, from: Data(buffer)) == line)
    }

    @Test func linesAreAppendedToWhatIsThere() throws {
        let path = NSTemporaryDirectory() + "journal-\(UUID().uuidString)"
        defer { try? FileManager.default.removeItem(atPath: path) }
        for text in ["one\n", "two\n"] {
            let journal = try JournalWriter(path: path)
            try journal.append(Array(text.utf8))
            journal.close()
        }
        #expect(try String(contentsOfFile: path, encoding: .utf8) == "one\ntwo\n")
    }

    @Test func aFullDiskIsAnError() throws {
        let journal = try JournalWriter(path: "/dev/full")
        #expect(throws: SimulationError.journal(path: "/dev/full", reason: "No space left on device")) {
            try journal.append([1])
        }
    }

    @Test func aFolderThatIsMissingIsAnError() {
        #expect(throws: SimulationError.self) { try JournalWriter(path: "/nonexistent/journal") }
    }

    @Test func plansAreChecked() {
        let plan = SimulationPlan(
            host: "127.0.0.1", port: 1883, pki: nil, devices: ["a"], rate: 1, quality: .one, version: .v4, seconds: 1,
            journal: "/dev/null")
        #expect(throws: Never.self) { try Simulation.check(plan) }
        let breakages: [(inout SimulationPlan) -> Void] = [
            { $0.devices = [] }, { $0.devices = ["a", "a"] }, { $0.rate = 0 }, { $0.rate = .nan }, { $0.seconds = 0 },
            { $0.port = 0 }, { $0.inFlight = 0 }, { $0.drainSeconds = -1 }, { $0.keepAlive = 4 },
        ]
        for breakage in breakages {
            var broken = plan
            breakage(&broken)
            #expect(throws: SimulationError.self) { try Simulation.check(broken) }
        }
    }

    @Test func loopsShareTheDevices() {
        #expect(Simulation.split(120, by: 50) == [0..<50, 50..<100, 100..<120])
        #expect(Simulation.split(50, by: 50) == [0..<50])
    }
}
