import LocalWork
import Operations

extension EdgeConfiguration {
    /// The broker and the buffer name rules by their places in this list.
    var enabledRules: [LocalRule] { local.rules.filter(\.isEnabled) }

    /// The rules in the buffer's terms.
    package var localWork: [LocalWork.LocalRule] {
        enabledRules.map { rule in
            LocalWork.LocalRule(
                name: rule.name, action: rule.action == .discard ? .discard : .aggregate(AggregationRule(rule)))
        }
    }
}

extension AggregationRule {
    fileprivate init(_ rule: EdgeConfiguration.LocalRule) {
        var values: AggregateValues = []
        for value in rule.values {
            switch value {
            case .last: values.insert(.last)
            case .mean: values.insert(.mean)
            case .min: values.insert(.minimum)
            case .max: values.insert(.maximum)
            case .count: values.insert(.count)
            }
        }
        self.init(
            window: Int64(rule.window) * 1_000_000, values: values, deadBand: rule.deadBand,
            maximumSilence: Int64(rule.maximumSilence) * 1_000_000, topicSuffix: rule.topicSuffix)
    }
}
