import Testing

/// The page of what went wrong elsewhere names tests that are there.
@Suite struct KnownFailureTests {
    @Test func everyRowNamesItsTests() throws {
        let tests = ConformanceTable.tests(in: try SourceTree.swift(below: "Tests"))
        let rows = try SourceTree.text("docs/known-failures.md").split(separator: "\n").filter {
            $0.contains("#") && $0.hasPrefix("| ")
        }
        #expect(rows.count >= 27)
        for row in rows {
            let names = row.matches(of: /`(\w+)\.(\w+)`/)
            #expect(!names.isEmpty, "\(row)")
            for name in names {
                let (suite, test) = (String(name.output.1), String(name.output.2))
                #expect(tests[suite]?.contains(test) == true, "there is no test \(suite).\(test)")
            }
        }
    }
}
