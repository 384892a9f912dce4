import Testing

/// The table as it is.
@Suite struct ConformanceTableTests {
    private let table: ConformanceTable
    private let files: [SourceTree.File]

    init() throws {
        table = ConformanceTable(try SourceTree.text("docs/mqtt-conformance.md"))
        files = try SourceTree.swift(below: "Tests")
        #expect(files.count > 60)
    }

    /// The standards' own counts.
    @Test func theListsAreWhole() {
        #expect(ConformanceTable.statements["3.1.1"]?.count == 141)
        #expect(ConformanceTable.statements["5.0"]?.count == 251)
    }

    @Test func everyStatementStandsOnce() {
        #expect(table.miscounted() == [])
    }

    @Test func everyStatementIsProvedOrExplained() {
        let tests = ConformanceTable.tests(in: files)
        #expect(tests.values.reduce(0) { $0 + $1.count } > 400)
        #expect(table.unproved(tests) == [])
    }

    @Test func whatTestsSpeakOfIsInTheTable() {
        #expect(table.unlisted(files) == [])
    }
}

/// The rules themselves, on tables that break them.
@Suite struct ConformanceRulesTests {
    private let numbers: [String: Set<String>] = ["3.1.1": ["1.0.0-1", "1.0.0-2"], "5.0": ["1.0.0-1"]]
    private let tests: [String: Set<String>] = ["ATests": ["works"]]

    private func page(_ old: String..., new: String = "| MQTT-1.0.0-1 | x | `ATests.works` |", clients: String = "")
        -> String
    {
        "## MQTT 3.1.1\n\(old.joined(separator: "\n"))\n## MQTT 5.0\n\(new)\n## Statements that bind clients only\n"
            + "### MQTT 3.1.1\n\(clients)\n"
    }

    private let first = "| MQTT-1.0.0-1 | in words | `ATests.works`, `ATests.works` |"
    private let second = "| MQTT-1.0.0-2 | in words | Not applicable: there is no such thing here. |"

    @Test func aWholeTableIsGood() {
        for page in [page(first, second), page(first, clients: "| MQTT-1.0.0-2 | Nothing |")] {
            let table = ConformanceTable(page)
            #expect(table.miscounted(numbers) == [] && table.unproved(tests) == [])
        }
        #expect(ConformanceTable(page(first, second)).rows.map(\.line) == [2, 3, 5])
    }

    @Test func numbersAreCounted() {
        #expect(ConformanceTable(page(first)).miscounted(numbers) == ["3.1.1: MQTT-1.0.0-2 is missing"])
        #expect(
            ConformanceTable(page(first, second, second)).miscounted(numbers)
                == ["3.1.1: MQTT-1.0.0-2 stands more than once"])
        #expect(
            ConformanceTable(page(first, second, clients: "| MQTT-1.0.0-1, MQTT-1.0.0-3 | Nothing |")).miscounted(
                numbers)
                == ["3.1.1: MQTT-1.0.0-1 stands more than once", "3.1.1: there is no MQTT-1.0.0-3"])
        #expect(ConformanceTable(first).miscounted(numbers).contains("line 1: of which standard?"))
    }

    @Test(arguments: [
        ("`ATests.renamed`", "line 3: there is no test ATests.renamed"),
        ("`ATests.works`, `BTests.works`", "line 3: there is no test BTests.works"),
        ("", "line 3: MQTT-1.0.0-2 names no test and no reason"),
        ("ATests.works", "line 3: MQTT-1.0.0-2 names no test and no reason"),
        ("Not applicable: no", "line 3: MQTT-1.0.0-2 names no test and no reason"),
        ("Not applicable: it is pending", "line 3: nothing may be pending"),
        ("pending: a test", "line 3: nothing may be pending"),
        ("Not applicable: see `ATests.gone`, which is none", "line 3: there is no test ATests.gone"),
    ])
    func proofsAreLookedAt(proof: String, complaint: String) {
        let table = ConformanceTable(page(first, "| MQTT-1.0.0-2 | in words | \(proof) |"))
        #expect(table.unproved(tests) == [complaint])
    }

    @Test func whatTheListForClientsNamesMustBeThere() {
        let table = ConformanceTable(page(first, clients: "| MQTT-1.0.0-2 | It ends: `ATests.gone` |"))
        #expect(table.unproved(tests) == ["line 7: there is no test ATests.gone"])
    }

    @Test func statementsInCommentsAreLookedAt() {
        // Put together, so that this file has no such comment of its own.
        let slashes = String(repeating: "/", count: 2)
        let text = "\(slashes)/ MQTT-1.0.0-1, MQTT-9.9.9-9\nlet a = \"MQTT-8.8.8-8\" \(slashes) MQTT-1.0.0-2"
        #expect(
            ConformanceTable(page(first, second)).unlisted([.init(path: "ATests/A.swift", text: text)])
                == ["ATests/A.swift:1: MQTT-9.9.9-9 is not in the table"])
    }

    @Test func testsAreFoundInTheirSuites() {
        let text = """
            @Suite(.serialized) struct ATests {
                struct Case { func notATest() {} }
                @Test func one() {}
                // @Test func no() {}
                func helper() {}
                @Test(arguments: [
                    1,
                ])
                func two(_ value: Int) {}
            }
            extension Outer {
                @Suite struct Inner {
                    @Test(arguments: [1]) func three(value: Int) async throws {}
                }
                @Test func four() {}
            }
            """
        #expect(
            ConformanceTable.tests(in: [.init(path: "A.swift", text: text)]) == [
                "ATests": ["one", "two"], "Inner": ["three"], "Outer": ["four"],
            ])
    }

    @Test func rangesAreSpelledOut() {
        #expect(ConformanceTable.numbers("1.0.0: 1-3, 10.2.3: 7") == ["1.0.0-1", "1.0.0-2", "1.0.0-3", "10.2.3-7"])
    }
}
