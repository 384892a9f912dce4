import NIOCore

/// The access rules of one client: its group's, with its device id filled in. The first rule that matches decides.
struct AccessView: Sendable {
    private struct Rule: Sendable {
        let isAllowed: Bool
        let filter: FilterPattern
    }

    private var publish: [Rule] = []
    private var subscribe: [Rule] = []

    /// Rules whose filter is invalid once the device id is in it match nothing; `AccessRule.isValid` finds them earlier.
    init(_ rules: [AccessRule], group: String?, deviceID: String) {
        for rule in rules where rule.group == nil || rule.group == group {
            guard let filter = FilterPattern(Self.fill(rule.topic, with: deviceID)) else { continue }
            let compiled = Rule(isAllowed: rule.verdict == .allow, filter: filter)
            if rule.action != .subscribe { publish.append(compiled) }
            if rule.action != .publish { subscribe.append(compiled) }
        }
    }

    func mayPublish(_ topic: [BytewiseString]) -> Bool {
        for rule in publish where rule.filter.matches(topic) { return rule.isAllowed }
        return false
    }

    /// The answer to a subscription.
    enum SubscribeVerdict: Sendable {
        case refused
        case allowed
        /// It reaches topics that are denied: each message is judged by `mayReceive`.
        case guarded
    }

    /// The whole filter has to lie inside one allowed filter. Of what is denied before that, it brings nothing.
    func verdict(onSubscribing filter: FilterPattern) -> SubscribeVerdict {
        var isGuarded = false
        for rule in subscribe {
            if rule.filter.covers(filter) { return !rule.isAllowed ? .refused : isGuarded ? .guarded : .allowed }
            if !rule.isAllowed, rule.filter.overlaps(filter) { isGuarded = true }
        }
        return .refused
    }

    func mayReceive(_ topic: [BytewiseString]) -> Bool {
        for rule in subscribe where rule.filter.matches(topic) { return rule.isAllowed }
        return false
    }

    static func fill(_ topic: String, with deviceID: String) -> String {
        var bytes: [UInt8] = []
        var rest = Substring(topic).utf8
        while let byte = rest.popFirst() {
            if byte == UInt8(ascii: "%"), rest.first == UInt8(ascii: "d") {
                rest.removeFirst()
                bytes.append(contentsOf: deviceID.utf8)
            } else {
                bytes.append(byte)
            }
        }
        return String(decoding: bytes, as: UTF8.self)
    }
}

/// Glob patterns of device ids: `*` is any run of bytes, `?` one character.
enum Glob {
    static func matches(_ pattern: String, _ text: String) -> Bool {
        let pattern = Array(pattern.unicodeScalars)
        let text = Array(text.unicodeScalars)
        var p = 0
        var t = 0
        var star: Int?
        var mark = 0
        while t < text.count {
            if p < pattern.count, pattern[p] == "*" {
                star = p
                mark = t
                p += 1
            } else if p < pattern.count, pattern[p] == "?" || pattern[p] == text[t] {
                p += 1
                t += 1
            } else if let last = star {
                p = last + 1
                mark += 1
                t = mark
            } else {
                return false
            }
        }
        return pattern[p...].allSatisfy { $0 == "*" }
    }
}

extension AccessRule {
    /// The topic is a filter, also with a device id in it.
    package var isValid: Bool {
        FilterPattern(AccessView.fill(topic, with: "d")) != nil
    }
}
