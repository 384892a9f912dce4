import Operations
import Testing

/// The tree as it is.
@Suite struct ArchitectureTests {
    private let files: [SourceTree.File]

    init() throws {
        files = try SourceTree.sources()
        #expect(files.count > 20)
    }

    @Test func coreIsPure() {
        #expect(Rules.impureCore(files) == [])
    }

    @Test func arrowsAreThoseOfTheDesign() throws {
        #expect(Rules.brokenArrows(files) == [])
        #expect(Rules.brokenArrows(manifest: try SourceTree.manifest()) == [])
    }

    @Test func theTreeHasTheDesignsRooms() {
        let modules = Rules.modules(files)
        #expect(Set(modules.keys) == ["Core", "Operations", "Edge", "Cloud", "Programs"])
        #expect(modules["Core"]?.isSuperset(of: ["MQTTWire", "MQTTSession", "Flow", "SyncModel"]) == true)
        #expect(modules["Edge"]?.isSuperset(of: ["Buffer", "Gateway", "Uplink"]) == true)
        #expect(modules["Cloud"]?.isSuperset(of: ["EventLog", "Database", "Ingest", "Processor"]) == true)
        #expect(modules["Programs"] == ["sluice", "sluice-edge", "sluice-cloud"])
    }

    @Test func dangerIsExplained() {
        #expect(Rules.unexplained(files) == [])
    }

    @Test func programsOnlyWire() {
        #expect(Rules.longPrograms(files) == [])
    }

    @Test func nothingIsLeftForLater() {
        #expect(Rules.unfinished(files) == [])
    }

    @Test func metricNamesAreWellFormed() {
        #expect(MetricName.allCases.map(\.rawValue).filter { !Rules.isMetricName($0) } == [])
        #expect(Set(MetricName.allCases.map(\.rawValue)).count == MetricName.allCases.count)
    }

    @Test func logKeysAreWellFormed() {
        #expect(LogKey.allCases.map(\.rawValue).filter { $0.wholeMatch(of: /[a-z][a-zA-Z0-9]*/) == nil } == [])
        #expect(Set(LogKey.allCases.map(\.rawValue)).count == LogKey.allCases.count)
    }
}

/// The rules themselves, on sources that break them.
@Suite struct RulesTests {
    private func file(_ path: String, _ text: String) -> SourceTree.File { .init(path: path, text: text) }

    @Test(arguments: [
        "import Foundation", "@preconcurrency import Dispatch", "internal import struct Glibc.timespec",
        "  import Logging", "let clock = ContinuousClock()", "let n = Int.random(in: 0..<3)",
        "@_spi(Testing) import NIOPosix",
    ])
    func impureCoreIsFound(text: String) {
        #expect(Rules.impureCore([file("Core/Flow/A.swift", text)]).count == 1)
        #expect(Rules.impureCore([file("Edge/Gateway/A.swift", text)]).isEmpty)
    }

    @Test(arguments: [
        "import NIOCore", "import Flow", "// import Foundation", "let n = Int.random(in: 0..<3, using: &generator)",
    ])
    func pureCoreIsNot(text: String) {
        #expect(Rules.impureCore([file("Core/Flow/A.swift", text)]).isEmpty)
    }

    @Test(arguments: [
        ("Edge/Gateway", "Uplink", false), ("Edge/Uplink", "Gateway", false), ("Edge/Gateway", "Buffer", true),
        ("Edge/Buffer", "EventLog", false), ("Cloud/EventLog", "Buffer", false), ("Cloud/EventLog", "Flow", true),
        ("Operations/PKI", "Gateway", false), ("Core/Flow", "PKI", false), ("Programs/sluice", "Gateway", true),
        ("Operations/PKI", "EventLog", false),
    ])
    func arrows(from: String, to: String, isAllowed: Bool) {
        let tree =
            ["Core/Flow", "Edge/Gateway", "Edge/Uplink", "Edge/Buffer", "Cloud/EventLog", "Operations/PKI"]
            .map { file($0 + "/A.swift", "") }
        #expect(Rules.brokenArrows(tree + [file(from + "/B.swift", "import " + to)]).isEmpty == isAllowed)
    }

    @Test func manifestArrows() {
        let manifest = """
            room("Core", "Flow"),
            room("Edge", "Gateway", ["Flow", nio]),
            room(
                "Edge", "Uplink",
                [
                    "Gateway", nio,
                ]),
            room("Cloud", "Ingest", ["Flow"]),
            program("sluice-edge", ["Gateway", "Uplink", arguments]),
            """
        #expect(Rules.brokenArrows(manifest: manifest) == ["Package.swift: Edge/Uplink depends on Edge/Gateway"])
    }

    @Test func dangerWithoutAReasonIsFound() {
        let text = """
            let a = try! f()
            let b = try! f()  // f throws for negative numbers alone
            // A class of that name is registered above.
            let c = x as! C
            let d = "say fatalError( in a comment" // fatalError(

            final class E: @unchecked Sendable {}
            """
        let found = Rules.unexplained([file("Edge/Gateway/A.swift", text)])
        #expect(found.map { $0.prefix(23) } == ["Edge/Gateway/A.swift:1:", "Edge/Gateway/A.swift:7:"])
    }

    @Test func longProgramsAreFound() {
        let long = String(repeating: "\n", count: 300)
        #expect(Rules.longPrograms([file("Programs/sluice/A.swift", long)]).count == 1)
        #expect(Rules.longPrograms([file("Edge/Gateway/A.swift", long)]).isEmpty)
    }

    @Test(arguments: [
        ("sluice_connections", true), ("sluice_http_requests_total", true), ("connections", false), ("sluice_", false),
        ("sluice_Commits", false), ("sluice_commit_milliseconds", false), ("sluice__x", false),
    ])
    func metricNames(name: String, isGood: Bool) {
        #expect(Rules.isMetricName(name) == isGood)
    }
}
