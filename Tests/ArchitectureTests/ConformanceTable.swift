import Foundation

/// The tables of `docs/mqtt-conformance.md`, and what is wrong with them.
struct ConformanceTable {
    struct Row {
        var statement: String
        var meaning: String
        var proof: String
    }

    /// Under the headings "MQTT 3.1.1" and "MQTT 5.0".
    private(set) var rows: [String: [Row]] = [:]

    init(_ page: String) {
        var standard: String?
        for line in page.components(separatedBy: "\n") {
            if line.hasPrefix("## MQTT ") { standard = String(line.dropFirst(8)) }
            guard let standard, line.hasPrefix("| MQTT-") else { continue }
            let cells = line.split(separator: "|", omittingEmptySubsequences: false).dropFirst().dropLast()
                .map { $0.trimmingCharacters(in: .whitespaces) }
            rows[standard, default: []].append(
                Row(
                    statement: cells[0], meaning: cells.count > 1 ? cells[1] : "",
                    proof: cells.count == 3 ? cells[2] : ""))
        }
    }

    /// - Parameters:
    ///   - tests: as `Suite.function`.
    ///   - comments: statements that the tests' comments name.
    func flaws(statements: [String: [String]], tests: Set<String>, comments: Set<String>) -> [String] {
        var flaws: [String] = []
        for (standard, expected) in statements.sorted(by: { $0.key < $1.key }) {
            let found = rows[standard, default: []].map(\.statement)
            let counts = Dictionary(found.map { ($0, 1) }, uniquingKeysWith: +)
            flaws += expected.filter { counts[$0] == nil }.map { "\(standard): \($0) is missing" }
            flaws += counts.filter { $0.value > 1 }.keys.sorted().map { "\(standard): \($0) stands there twice" }
            flaws += Set(found).subtracting(expected).sorted().map { "\(standard): \($0) is no statement" }
            flaws += rows[standard, default: []].flatMap { Self.flaws(of: $0, standard, tests) }
        }
        let known = Set(statements.values.joined())
        flaws += comments.subtracting(known).sorted().map { "a test's comment names \($0), which is no statement" }
        return flaws
    }

    private static func flaws(of row: Row, _ standard: String, _ tests: Set<String>) -> [String] {
        let place = "\(standard): \(row.statement)"
        guard !row.meaning.isEmpty else { return ["\(place) says nothing"] }
        let named = row.proof.matches(of: /`([A-Za-z0-9]+\.[A-Za-z0-9]+)`/).map { String($0.output.1) }
        if named.isEmpty {
            let isReason = row.proof.count >= 10 && !row.proof.contains("pending")
            return isReason ? [] : ["\(place) has neither a test nor a reason"]
        }
        return named.filter { !tests.contains($0) }.map { "\(place): there is no test \($0)" }
    }

    /// The test functions of a source, as `Suite.function`.
    static func tests(in source: String) -> Set<String> {
        var suite = ""
        var isTest = false
        var found: Set<String> = []
        for line in source.components(separatedBy: "\n") {
            let code = line.trimmingCharacters(in: .whitespaces)
            // A suite is marked, or stands by itself; other types inside it are not.
            let mayBeSuite = line.hasPrefix("@") || line.first?.isLetter == true || code.contains("@Suite")
            if mayBeSuite, let match = try? /\b(?:struct|class|extension|enum)\s+(\w+)/.firstMatch(in: code) {
                suite = String(match.output.1)
            }
            if code.contains("@Test") { isTest = true }
            guard isTest, let match = try? /\bfunc\s+(\w+)\s*\(/.firstMatch(in: code) else { continue }
            found.insert("\(suite).\(match.output.1)")
            isTest = false
        }
        return found
    }

    /// The statements that a source names in full.
    static func statements(in source: String) -> Set<String> {
        Set(source.matches(of: /MQTT-\d+(?:\.\d+)+-\d+/).map { String($0.output) })
    }

    /// As (section, first and last number of its statements).
    static func statements(_ sections: [(String, ClosedRange<Int>)]) -> [String] {
        sections.flatMap { section, numbers in numbers.map { "MQTT-\(section)-\($0)" } }
    }

    /// Appendix B of MQTT 3.1.1.
    static let version311: [(String, ClosedRange<Int>)] = [
        ("1.5.3", 1...3), ("2.2.2", 1...2), ("2.3.1", 1...7), ("3.1.0", 1...2), ("3.1.2", 1...24), ("3.1.3", 1...11),
        ("3.1.4", 1...5), ("3.2.0", 1...1), ("3.2.2", 1...6), ("3.3.1", 1...12), ("3.3.2", 1...3), ("3.3.4", 1...1),
        ("3.3.5", 1...2), ("3.6.1", 1...1), ("3.8.1", 1...1), ("3.8.3", 1...4), ("3.8.4", 1...6), ("3.9.3", 1...2),
        ("3.10.1", 1...1), ("3.10.3", 1...2), ("3.10.4", 1...6), ("3.12.4", 1...1), ("3.14.1", 1...1),
        ("3.14.4", 1...3), ("4.1.0", 1...2), ("4.3.1", 1...1), ("4.3.2", 1...2), ("4.3.3", 1...2), ("4.4.0", 1...1),
        ("4.5.0", 1...2), ("4.6.0", 1...6), ("4.7.1", 1...3), ("4.7.2", 1...1), ("4.7.3", 1...4), ("4.8.0", 1...2),
        ("6.0.0", 1...4), ("7.0.0", 1...2), ("7.1.1", 1...1), ("7.1.2", 1...1),
    ]

    /// Appendix B of MQTT 5.0; its numbering of 2.2.1 begins with 2.
    static let version5: [(String, ClosedRange<Int>)] = [
        ("1.5.4", 1...3), ("1.5.5", 1...1), ("1.5.7", 1...1), ("2.1.3", 1...1), ("2.2.1", 2...6), ("2.2.2", 1...1),
        ("3.1.0", 1...2), ("3.1.2", 1...30), ("3.1.3", 1...12), ("3.1.4", 1...6), ("3.2.0", 1...2), ("3.2.2", 1...22),
        ("3.3.1", 1...13), ("3.3.2", 1...20), ("3.3.4", 1...10), ("3.4.2", 1...3), ("3.5.2", 1...3), ("3.6.1", 1...1),
        ("3.6.2", 1...3), ("3.7.2", 1...3), ("3.8.1", 1...1), ("3.8.3", 1...5), ("3.8.4", 1...8), ("3.9.2", 1...2),
        ("3.9.3", 1...2), ("3.10.1", 1...1), ("3.10.3", 1...2), ("3.10.4", 1...6), ("3.11.2", 1...2),
        ("3.11.3", 1...2), ("3.12.4", 1...1), ("3.14.0", 1...1), ("3.14.1", 1...1), ("3.14.2", 1...4),
        ("3.14.4", 1...3), ("3.15.1", 1...1), ("3.15.2", 1...3), ("4.1.0", 1...2), ("4.2.0", 1...1), ("4.3.1", 1...1),
        ("4.3.2", 1...5), ("4.3.3", 1...13), ("4.4.0", 1...2), ("4.5.0", 1...2), ("4.6.0", 1...6), ("4.7.0", 1...1),
        ("4.7.1", 1...2), ("4.7.2", 1...1), ("4.7.3", 1...4), ("4.8.2", 1...6), ("4.9.0", 1...3), ("4.12.0", 1...7),
        ("4.12.1", 1...2), ("4.13.1", 1...1), ("4.13.2", 1...1), ("6.0.0", 1...4),
    ]
}
