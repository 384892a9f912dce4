/// Reads `local`.
struct LocalReader {
    let root: ConfigurationSection

    func read(into local: inout EdgeConfiguration.Local) {
        guard let section = root.section("local") else { return }
        for rule in section.sections("rules") ?? [] {
            guard let read = self.rule(rule) else { continue }
            if local.rules.contains(where: { $0.name == read.name }) {
                rule.problem("name", found: "\(read.name) a second time", allowed: "a name that no other rule has")
            }
            local.rules.append(read)
        }
        let maximum = EdgeConfiguration.Local.maximumRules
        if local.rules.count > maximum {
            section.problem("rules", found: "\(local.rules.count) rules", allowed: "at most \(maximum)")
        }
        if !local.rules.isEmpty, !root.has("uplink") {
            section.problem(
                "rules", found: "rules without an uplink", allowed: "rules only where uplink says what is synced")
        }
        section.finish()
    }

    private func rule(_ section: ConfigurationSection) -> EdgeConfiguration.LocalRule? {
        let name = section.require("name", .identifier)
        let filter = section.require("filter", .topicFilter)
        let action: EdgeConfiguration.LocalRule.Action? = section.require("action", .word)
        var rule = EdgeConfiguration.LocalRule(name: name ?? "", filter: filter ?? "", action: action ?? .discard)
        section.read("enabled", into: &rule.isEnabled, .boolean)
        if action == .aggregate { aggregation(section, into: &rule) }
        if action != nil { section.finish() }
        return name == nil || filter == nil || action == nil ? nil : rule
    }

    private func aggregation(_ section: ConfigurationSection, into rule: inout EdgeConfiguration.LocalRule) {
        if let window = section.require("window", .seconds(1...86_400)) { rule.window = window }
        rule.values = section.list("values", .word) ?? []
        if rule.values.isEmpty {
            section.problem(
                "values", found: "none", allowed: "a list of at least one of last, mean, min, max, count")
        }
        if Set(rule.values).count < rule.values.count {
            section.problem("values", found: "a value twice", allowed: "each at most once")
        }
        section.read("deadBand", into: &rule.deadBand, ConfigurationType.number(0...1e290).optional())
        section.read("maximumSilence", into: &rule.maximumSilence, .seconds(1...604_800))
        section.read("topicSuffix", into: &rule.topicSuffix, .topicSuffix)
        if rule.deadBand != nil, rule.values == [.count] {
            section.problem(
                "deadBand", found: "a dead band of counts alone", allowed: "it with last, mean, min or max in values")
        }
        if rule.deadBand == nil, section.has("maximumSilence") {
            section.problem("maximumSilence", found: "it without deadBand", allowed: "it where deadBand is given")
        }
    }
}

extension ConfigurationType<String> {
    /// What stands at the end of a topic name.
    fileprivate static var topicSuffix: Self {
        Self(allowed: "up to 128 bytes without + and #, as /minute") { text in
            guard text.utf8.count <= 128, !text.utf8.contains(0), !text.contains("+"), !text.contains("#") else {
                return nil
            }
            return text
        }
    }
}
