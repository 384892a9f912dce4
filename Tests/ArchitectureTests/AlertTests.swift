import Foundation
import Operations
import Testing

/// What is shipped for Prometheus and Grafana speaks of metrics that exist, and does what it says.
///
/// Debian's package prometheus has promtool.
@Suite(.enabled(if: FileManager.default.isExecutableFile(atPath: "/usr/bin/promtool"), "promtool is not installed"))
struct AlertTests {
    private static let rules = ["cloud/alerts/slo.rules.yaml", "cloud/alerts/sluice.rules.yaml"]

    private struct Output {
        var status: Int32
        var text: String
    }

    private func promtool(_ arguments: [String]) throws -> Output {
        let process = Process()
        process.executableURL = URL(fileURLWithPath: "/usr/bin/promtool")
        process.arguments = arguments
        process.currentDirectoryURL = SourceTree.root
        let output = Pipe()
        process.standardOutput = output
        process.standardError = output
        try process.run()
        let text = String(decoding: output.fileHandleForReading.readDataToEndOfFile(), as: UTF8.self)
        process.waitUntilExit()
        return Output(status: process.terminationStatus, text: text)
    }

    private func names(_ key: String) throws -> [String] {
        try Self.rules.flatMap { file in
            try SourceTree.text(file).split(separator: "\n").compactMap { line in
                let words = line.split(separator: " ")
                return words.count == 3 && words[0] == "-" && words[1] == "\(key):" ? String(words[2]) : nil
            }
        }
    }

    /// Prefixes of metrics and rules in an expression.
    static func metrics(in text: String) -> Set<String> {
        Set(text.matches(of: /\bsluice[_:][a-z0-9_:]+/).map { String($0.output) })
    }

    /// What of these nobody exports or records.
    private func unknown(_ names: Set<String>, records: [String]) -> [String] {
        let known = Set(MetricName.allCases.map(\.rawValue)).union(records)
        return names.filter { name in
            let family = ["_bucket", "_count", "_sum"].first { name.hasSuffix($0) }.map { name.dropLast($0.count) }
            return !known.contains(name) && !known.contains(family.map(String.init) ?? name)
        }.sorted()
    }

    @Test func rulesAreWellFormedAndFireWhenTheyShould() throws {
        let check = try promtool(["check", "rules"] + Self.rules)
        #expect(check.status == 0, "\(check.text)")
        let test = try promtool(["test", "rules", "cloud/alerts/alerts.test.yaml"])
        #expect(test.status == 0, "\(test.text)")
    }

    @Test func everyAlertIsTestedBothWaysAndExplained() throws {
        let alerts = try names("alert")
        #expect(alerts.count > 20 && Set(alerts).count == alerts.count)
        let tests = try SourceTree.text("cloud/alerts/alerts.test.yaml")
        let page = try SourceTree.text("docs/operations.md")
        let blocks = tests.components(separatedBy: "- eval_time:")
        for alert in alerts {
            let own = blocks.filter { $0.contains("alertname: \(alert)\n") }
            #expect(own.contains { $0.contains("exp_labels") }, "\(alert) never fires in a test")
            #expect(own.contains { $0.contains("exp_alerts: []") }, "\(alert) is never quiet in a test")
            #expect(page.contains("| `\(alert)` |"), "docs/operations.md has no entry of \(alert)")
        }
        for name in page.matches(of: /\| `(Sluice[A-Za-z]+)` \|/).map({ String($0.output.1) }) {
            #expect(alerts.contains(name), "docs/operations.md explains \(name), which is no alert")
        }
    }

    @Test func everyMetricOfARuleExists() throws {
        let records = try names("record")
        for file in Self.rules + ["cloud/alerts/alerts.test.yaml"] {
            let text = try SourceTree.text(file).split(separator: "\n").filter { !$0.contains("rule_files:") }
                .map { $0.contains("- name:") ? "" : $0 }.joined(separator: "\n")
            #expect(unknown(Self.metrics(in: text), records: records) == [], "\(file)")
        }
        #expect(
            unknown(["sluice_nonsense", "sluice_request_duration_seconds_bucket"], records: []) == ["sluice_nonsense"])
    }

    @Test func theBurnRatesAreThoseOfTheTable() throws {
        let text = try SourceTree.text("cloud/alerts/sluice.rules.yaml")
        // 14.4, 6 and 1 times the budget; of latency's 5% as well.
        let lines: [(slo: String, budget: Double)] = [
            ("availability", 0.001), ("processing", 0.005), ("latency", 0.05),
        ]
        for (slo, budget) in lines {
            for (long, short, factor) in [("1h", "5m", 14.4), ("6h", "30m", 6), ("3d", "6h", 1)] {
                for window in [long, short] {
                    let pattern = "sluice:slo_bad:ratio_\(window){slo=\"\(slo)\"} > "
                    let limits = text.components(separatedBy: pattern).dropFirst().compactMap {
                        Double($0.prefix { $0.isNumber || $0 == "." })
                    }
                    #expect(limits.contains { abs($0 - budget * factor) < 1e-9 }, "\(slo) \(window): \(limits)")
                }
            }
        }
    }

    private struct Dashboard: Decodable {
        struct Panel: Decodable {
            struct Target: Decodable { var expr: String }
            var id: Int
            var title: String
            var targets: [Target]
        }
        var uid: String
        var title: String
        var panels: [Panel]
    }

    @Test(arguments: ["sluice-overview", "sluice-ingest", "sluice-processor", "sluice-gateways"])
    func dashboardsShowWhatExists(name: String) throws {
        let data = Data(try SourceTree.text("cloud/dashboards/\(name).json").utf8)
        let dashboard = try JSONDecoder().decode(Dashboard.self, from: data)
        #expect(dashboard.uid == name && !dashboard.panels.isEmpty)
        #expect(Set(dashboard.panels.map(\.id)).count == dashboard.panels.count)
        let expressions = dashboard.panels.flatMap { $0.targets.map(\.expr) }
        let records = try names("record")
        for expression in expressions {
            let found = Self.metrics(in: expression)
            #expect(!found.isEmpty && unknown(found, records: records) == [], "\(expression)")
        }
        // An expression parses where promtool takes it as a rule.
        var rules = "groups:\n  - name: \(name)\n    rules:\n"
        for (index, expression) in expressions.enumerated() {
            rules += "      - record: dashboard:expression:\(index)\n        expr: |\n          \(expression)\n"
        }
        let file = NSTemporaryDirectory() + "sluice-\(name)-\(UUID().uuidString).yaml"
        try rules.write(toFile: file, atomically: true, encoding: .utf8)
        defer { try? FileManager.default.removeItem(atPath: file) }
        let check = try promtool(["check", "rules", file])
        #expect(check.status == 0, "\(check.text)")
    }
}
