import Foundation
import Testing

/// The conformance page and the tests it names stay together.
@Suite struct ConformanceTableTests {
    private func page() throws -> String {
        try String(
            contentsOf: SourceTree.root.appendingPathComponent("docs/mqtt-conformance.md"), encoding: .utf8)
    }

    private func testSources() throws -> [String] {
        let base = SourceTree.root.appendingPathComponent("Tests")
        return try FileManager.default.subpathsOfDirectory(atPath: base.path)
            // This target's own sources hold statements and tests as examples.
            .filter { $0.hasSuffix(".swift") && !$0.hasPrefix("ArchitectureTests/") }
            .map { try String(contentsOf: base.appendingPathComponent($0), encoding: .utf8) }
    }

    @Test func everyStatementIsProvedOrArgued() throws {
        let sources = try testSources()
        let flaws = ConformanceTable(try page()).flaws(
            statements: [
                "3.1.1": ConformanceTable.statements(ConformanceTable.version311),
                "5.0": ConformanceTable.statements(ConformanceTable.version5),
            ],
            tests: sources.reduce(into: []) { $0.formUnion(ConformanceTable.tests(in: $1)) },
            comments: sources.reduce(into: []) { $0.formUnion(ConformanceTable.statements(in: $1)) })
        #expect(flaws == [])
    }

    /// 141 and 251, as their appendices have them.
    @Test func theListsAreWhole() {
        #expect(ConformanceTable.statements(ConformanceTable.version311).count == 141)
        #expect(ConformanceTable.statements(ConformanceTable.version5).count == 251)
    }

    @Test(arguments: [
        ("| MQTT-1.0.0-1 | a | `S.t` |\n| MQTT-1.0.0-2 | b | binds clients only |", []),
        ("| MQTT-1.0.0-1 | a | `S.t` |", ["5.0: MQTT-1.0.0-2 is missing"]),
        (
            "| MQTT-1.0.0-1 | a | `S.t` |\n| MQTT-1.0.0-1 | a | `S.t` |\n| MQTT-1.0.0-2 | b | `S.t` |",
            ["5.0: MQTT-1.0.0-1 stands there twice"]
        ),
        (
            "| MQTT-1.0.0-1 | a | `S.renamed` |\n| MQTT-1.0.0-2 | b | pending: aliases |",
            ["5.0: MQTT-1.0.0-1: there is no test S.renamed", "5.0: MQTT-1.0.0-2 has neither a test nor a reason"]
        ),
        (
            "| MQTT-1.0.0-1 |  | `S.t` |\n| MQTT-1.0.0-2 | b | `S.t` |\n| MQTT-9.0.0-1 | c | `S.t` |",
            ["5.0: MQTT-9.0.0-1 is no statement", "5.0: MQTT-1.0.0-1 says nothing"]
        ),
    ])
    func whatIsWrongIsFound(rows: String, expected: [String]) {
        let flaws = ConformanceTable("# Page\n\n## MQTT 5.0\n\n" + rows).flaws(
            statements: ["5.0": ["MQTT-1.0.0-1", "MQTT-1.0.0-2"]], tests: ["S.t"], comments: [])
        #expect(flaws == expected)
    }

    @Test func aStatementThatDoesNotExistIsFoundInAComment() {
        let flaws = ConformanceTable("").flaws(statements: [:], tests: [], comments: ["MQTT-1.0.0-9"])
        #expect(flaws == ["a test's comment names MQTT-1.0.0-9, which is no statement"])
    }

    @Test func testsAreFoundInTheirSuites() {
        let source = """
            @Suite struct First {
                @Test(arguments: [1, 2])
                func one(n: Int) {}
                func helper() {}
                @Test func two() async throws {}
            }
            extension Second { @Test func three() {} }
            """
        #expect(ConformanceTable.tests(in: source) == ["First.one", "First.two", "Second.three"])
    }
}
