import Foundation

/// The table of `docs/mqtt-conformance.md`, and what keeps it and the tests together.
struct ConformanceTable {
    struct Row: Equatable {
        var standard: String
        var numbers: [String]
        /// The last column.
        var proof: String
        /// Of a statement that binds clients alone.
        var isForClients: Bool
        var line: Int
    }

    /// The numbers of each standard, without `MQTT-`, by section: `1.5.3: 1-3` are three.
    static let statements: [String: Set<String>] = [
        "3.1.1": numbers(
            """
            1.5.3: 1-3, 2.2.2: 1-2, 2.3.1: 1-7, 3.1.0: 1-2, 3.1.2: 1-24, 3.1.3: 1-11, 3.1.4: 1-5, 3.2.0: 1, 3.2.2: 1-6,
            3.3.1: 1-12, 3.3.2: 1-3, 3.3.4: 1, 3.3.5: 1-2, 3.6.1: 1, 3.8.1: 1, 3.8.3: 1-4, 3.8.4: 1-6, 3.9.3: 1-2,
            3.10.1: 1, 3.10.3: 1-2, 3.10.4: 1-6, 3.12.4: 1, 3.14.1: 1, 3.14.4: 1-3, 4.1.0: 1-2, 4.3.1: 1, 4.3.2: 1-2,
            4.3.3: 1-2, 4.4.0: 1, 4.5.0: 1-2, 4.6.0: 1-6, 4.7.1: 1-3, 4.7.2: 1, 4.7.3: 1-4, 4.8.0: 1-2, 6.0.0: 1-4,
            7.0.0: 1-2, 7.1.1: 1, 7.1.2: 1
            """),
        "5.0": numbers(
            """
            1.5.4: 1-3, 1.5.5: 1, 1.5.7: 1, 2.1.3: 1, 2.2.1: 2-6, 2.2.2: 1, 3.1.0: 1-2, 3.1.2: 1-30, 3.1.3: 1-12,
            3.1.4: 1-6, 3.2.0: 1-2, 3.2.2: 1-22, 3.3.1: 1-13, 3.3.2: 1-20, 3.3.4: 1-10, 3.4.2: 1-3, 3.5.2: 1-3, 3.6.1: 1,
            3.6.2: 1-3, 3.7.2: 1-3, 3.8.1: 1, 3.8.3: 1-5, 3.8.4: 1-8, 3.9.2: 1-2, 3.9.3: 1-2, 3.10.1: 1, 3.10.3: 1-2,
            3.10.4: 1-6, 3.11.2: 1-2, 3.11.3: 1-2, 3.12.4: 1, 3.14.0: 1, 3.14.1: 1, 3.14.2: 1-4, 3.14.4: 1-3, 3.15.1: 1,
            3.15.2: 1-3, 4.1.0: 1-2, 4.2.0: 1, 4.3.1: 1, 4.3.2: 1-5, 4.3.3: 1-13, 4.4.0: 1-2, 4.5.0: 1-2, 4.6.0: 1-6,
            4.7.0: 1, 4.7.1: 1-2, 4.7.2: 1, 4.7.3: 1-4, 4.8.2: 1-6, 4.9.0: 1-3, 4.12.0: 1-7, 4.12.1: 1-2, 4.13.1: 1,
            4.13.2: 1, 6.0.0: 1-4
            """),
    ]

    static func numbers(_ sections: String) -> Set<String> {
        sections.matches(of: /([\d.]+): (\d+)(?:-(\d+))?/).reduce(into: []) { all, match in
            let first = Int(match.output.2) ?? 0
            let last = match.output.3.flatMap { Int($0) } ?? first
            for number in first...max(first, last) { all.insert("\(match.output.1)-\(number)") }
        }
    }

    let rows: [Row]

    /// Rows are lines that begin with `| MQTT-`, under a heading that ends with the standard's name.
    init(_ page: String) {
        var rows: [Row] = []
        var standard = ""
        var isForClients = false
        for (index, line) in page.components(separatedBy: "\n").enumerated() {
            if line.hasPrefix("#") {
                if line.hasPrefix("## ") { isForClients = line.contains("clients only") }
                if let name = line.firstMatch(of: /MQTT ([\d.]+)$/) { standard = String(name.output.1) }
            } else if line.hasPrefix("| MQTT-") {
                let cells = line.split(separator: "|").map { $0.trimmingCharacters(in: .whitespaces) }.filter {
                    $0 != ""
                }
                rows.append(
                    Row(
                        standard: standard, numbers: Self.statements(in: cells[0]), proof: cells.last ?? "",
                        isForClients: isForClients, line: index + 1))
            }
        }
        self.rows = rows
    }

    private static func statements(in text: some StringProtocol) -> [String] {
        String(text).matches(of: /MQTT-(\d+\.\d+\.\d+-\d+)/).map { String($0.output.1) }
    }

    // MARK: rules

    /// Statements that are missing, stand twice, or are none.
    func miscounted(_ expected: [String: Set<String>] = statements) -> [String] {
        expected.sorted { $0.key < $1.key }.flatMap { standard, wanted in
            var counts: [String: Int] = [:]
            for row in rows where row.standard == standard {
                for number in row.numbers { counts[number, default: 0] += 1 }
            }
            return wanted.subtracting(counts.keys).sorted().map { "\(standard): MQTT-\($0) is missing" }
                + counts.filter { $0.value > 1 }.keys.sorted().map { "\(standard): MQTT-\($0) stands more than once" }
                + Set(counts.keys).subtracting(wanted).sorted().map { "\(standard): there is no MQTT-\($0)" }
        }
            + rows.filter { expected[$0.standard] == nil }.map { "line \($0.line): of which standard?" }
    }

    /// Rows with neither a test nor a reason, or with a test that is not there.
    func unproved(_ tests: [String: Set<String>]) -> [String] {
        rows.flatMap { row in
            let names = row.proof.matches(of: /`(\w+)\.(\w+)`/)
            let unknown = names.filter { tests[String($0.output.1)]?.contains(String($0.output.2)) != true }
                .map { "line \(row.line): there is no test \($0.output.1).\($0.output.2)" }
            let isReason = row.proof.firstMatch(of: /^Not applicable: .{10,}/) != nil
            if row.proof.lowercased().contains("pending") {
                return unknown + ["line \(row.line): nothing may be pending"]
            }
            if names.isEmpty, !isReason, !row.isForClients || row.proof.isEmpty {
                return ["line \(row.line): MQTT-\(row.numbers.first ?? "?") names no test and no reason"]
            }
            return unknown
        }
    }

    /// Statements that comments of tests name and the table does not know.
    func unlisted(_ files: [SourceTree.File]) -> [String] {
        let known = Set(rows.flatMap(\.numbers))
        return files.flatMap { file in
            file.lines.enumerated().flatMap { index, line -> [String] in
                guard let comment = line.range(of: "//") else { return [] }
                return Self.statements(in: line[comment.lowerBound...]).filter { !known.contains($0) }
                    .map { "\(file.path):\(index + 1): MQTT-\($0) is not in the table" }
            }
        }
    }

    /// The functions marked `@Test` of each suite, by the type whose body they stand in.
    static func tests(in files: [SourceTree.File]) -> [String: Set<String>] {
        let type =
            /^( *)(?:@\w+(?:\(.*?\))? +)*(?:(?:package|private|final) +)*(?:struct|class|enum|actor|extension) +(\w+)/
        let function = /^( *).*\bfunc (\w+)\(/
        var suites: [String: Set<String>] = [:]
        for file in files {
            var open: [(indent: Int, name: String)] = []
            var isTest = false
            for index in file.lines.indices {
                let line = String(file.code(index))
                if let match = line.firstMatch(of: type) {
                    open.removeAll { $0.indent >= match.output.1.count }
                    open.append((match.output.1.count, String(match.output.2)))
                }
                if line.contains("@Test") { isTest = true }
                guard isTest, let match = line.firstMatch(of: function) else { continue }
                isTest = false
                if let suite = open.last(where: { $0.indent < match.output.1.count }) {
                    suites[suite.name, default: []].insert(String(match.output.2))
                }
            }
        }
        return suites
    }
}
