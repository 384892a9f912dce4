/// What a configuration that was read again means for a daemon that runs: some of it changes at once, the rest at the next
/// start.
package struct ConfigurationReload: Sendable, Equatable {
    /// What runs from now on: the old configuration with what can change taken from the new one.
    package let effective: EdgeConfiguration
    /// What changes at once, in the keys of the file.
    package let changed: [String]
    /// What differs and stays as it was.
    package let needRestart: [String]

    package init(from running: EdgeConfiguration, to new: EdgeConfiguration) {
        var effective = running
        var changed: [String] = []
        var needRestart: [String] = []
        for part in Self.parts where part.differs(effective, new) {
            if let take = part.take {
                take(&effective, new)
                changed.append(part.key)
            } else {
                needRestart.append(part.key)
            }
        }
        self.effective = effective
        self.changed = changed
        self.needRestart = needRestart
    }

    struct Part {
        var key: String
        /// Of `EdgeConfiguration`.
        var property: String
        var differs: (EdgeConfiguration, EdgeConfiguration) -> Bool
        /// `nil` for what cannot change while the daemon runs.
        var take: ((inout EdgeConfiguration, EdgeConfiguration) -> Void)?
    }

    /// In this order: what is live of `uplink` is taken before the rest of it is compared.
    static var parts: [Part] {
        [
            live("limits.device", "deviceLimits", \.deviceLimits), live("limits.global", "global", \.global),
            live("groups", "groups", \.groups), live("access", "access", \.access), live("log", "log", \.log),
            Part(
                key: "uplink.topics", property: "uplink",
                differs: { a, b in
                    guard let old = a.uplink, let new = b.uplink else { return false }
                    return old.topics != new.topics
                },
                take: { a, b in if let topics = b.uplink?.topics { a.uplink?.topics = topics } }),
            fixed("gateway", "gatewayID", \.gatewayID), fixed("listeners", "listeners", \.listeners),
            fixed("identity", "identity", \.identity), fixed("certificates", "certificates", \.certificates),
            fixed("mqtt", "mqtt", \.mqtt), fixed("buffer", "buffer", \.buffer), fixed("uplink", "uplink", \.uplink),
            fixed("local", "local", \.local),
            fixed("status", "status", \.status),
        ]
    }

    private static func live<Value: Equatable>(
        _ key: String, _ property: String, _ path: WritableKeyPath<EdgeConfiguration, Value>
    ) -> Part {
        Part(
            key: key, property: property, differs: { $0[keyPath: path] != $1[keyPath: path] },
            take: { $0[keyPath: path] = $1[keyPath: path] })
    }

    private static func fixed<Value: Equatable>(
        _ key: String, _ property: String, _ path: KeyPath<EdgeConfiguration, Value>
    ) -> Part {
        Part(key: key, property: property, differs: { $0[keyPath: path] != $1[keyPath: path] }, take: nil)
    }
}
