extension EdgeConfiguration {
    /// What holds where the file has no `listeners`.
    package static let defaultListeners = [Listener(endpoint: Endpoint(address: "127.0.0.1", port: 1883), tls: nil)]

    /// What holds where the file has no `access`: each device has a tree of its own, local clients have all.
    package static let defaultAccess = [
        AccessRule(verdict: .allow, action: .all, topic: "devices/%d/#"),
        AccessRule(verdict: .allow, action: .all, topic: "#", group: localGroup),
        AccessRule(verdict: .allow, action: .subscribe, topic: "$SYS/#", group: localGroup),
    ]

    /// The group of plaintext clients.
    package static let localGroup = "local"

    /// Reads, checks and completes a configuration file.
    ///
    /// - Parameter checkingFiles: whether the files that it names must be there.
    /// - Throws: all that is wrong, at once.
    package static func load(
        file: String, checkingFiles: Bool = true
    ) throws(ConfigurationProblems) -> EdgeConfiguration {
        let root = try ConfigurationSection.load(file: file)
        let reader = EdgeReader(root: root, checkingFiles: checkingFiles)
        let configuration = reader.read()
        try root.report.finish()
        return configuration
    }
}

/// One pass over the file; every problem goes to the report.
private struct EdgeReader {
    let root: ConfigurationSection
    let checkingFiles: Bool

    func read() -> EdgeConfiguration {
        var configuration = EdgeConfiguration(gatewayID: gateway())
        let listeners = root.sections("listeners")
        configuration.listeners = listeners?.compactMap(listener) ?? EdgeConfiguration.defaultListeners
        if listeners?.isEmpty == true {
            root.problem("listeners", found: "an empty list", allowed: "at least one listener")
        }
        if let identity = root.section("identity") {
            identity.read("from", into: &configuration.identity, .word)
            identity.finish()
        }
        if let certificates = root.section("certificates") {
            certificates.read("reloadInterval", into: &configuration.certificates.reloadInterval, .seconds(1...86_400))
            certificates.finish()
        }
        if let limits = root.section("limits") {
            if let device = limits.section("device") { rate(device, into: &configuration.deviceLimits) }
            if let global = limits.section("global") { self.global(global, into: &configuration.global) }
            limits.finish()
        }
        configuration.groups = groups(defaults: configuration.deviceLimits)
        let names = Set(configuration.groups.map(\.name) + [EdgeConfiguration.localGroup])
        configuration.access =
            root.sections("access")?.compactMap { rule($0, groups: names) } ?? EdgeConfiguration.defaultAccess
        mqtt(into: &configuration.mqtt)
        buffer(into: &configuration.buffer)
        configuration.uplink = root.section("uplink").flatMap(uplink)
        LocalReader(root: root).read(into: &configuration.local)
        if let status = root.section("status") {
            status.endpoint(into: &configuration.status)
            status.finish()
        }
        if let log = root.section("log") { configuration.log = log.log() }
        checkPorts(configuration)
        root.finish()
        return configuration
    }

    /// The second of two that share a port could not listen. Port 0 is any that is free.
    private func checkPorts(_ configuration: EdgeConfiguration) {
        func clash(_ a: EdgeConfiguration.Endpoint, _ b: EdgeConfiguration.Endpoint) -> Bool {
            a.port == b.port && a.port != 0
                && (a.address == b.address || [a.address, b.address].contains { $0 == "0.0.0.0" || $0 == "::" })
        }
        let endpoints = configuration.listeners.map(\.endpoint)
        for (index, endpoint) in endpoints.enumerated()
        where endpoints[..<index].contains(where: { clash($0, endpoint) }) {
            root.problem(
                "listeners[\(index)]", found: "port \(endpoint.port) a second time", allowed: "a port of its own")
        }
        if endpoints.contains(where: { clash($0, configuration.status) }) {
            root.problem(
                "status", found: "port \(configuration.status.port), which a listener has", allowed: "a port of its own"
            )
        }
    }

    private func gateway() -> String {
        guard let section = root.section("gateway") else {
            if !root.has("gateway") {
                root.problem("gateway.id", found: "nothing", allowed: ConfigurationType.identifier.allowed)
            }
            return ""
        }
        defer { section.finish() }
        return section.require("id", .identifier) ?? ""
    }

    private func listener(_ section: ConfigurationSection) -> EdgeConfiguration.Listener? {
        let address = section.require("address", .address)
        let port = section.require("port", .integer(0...65_535))
        let isPlaintext = section.value("plaintext", .boolean) ?? false
        let tls = section.section("tls")
        let hasTLS = section.has("tls")
        section.finish()
        let read = tls?.tls(checkingFiles: checkingFiles)
        if isPlaintext == hasTLS {
            section.problem(
                hasTLS ? "tls" : "port", found: hasTLS ? "tls and plaintext: true" : "neither tls nor plaintext: true",
                allowed: "exactly one of them")
        }
        if isPlaintext, let address, !Address.isLoopback(address) {
            section.problem(
                "address", found: "\(address) with plaintext: true",
                allowed: "a loopback address (127.0.0.1, ::1, localhost), or tls")
        }
        guard let address, let port, !hasTLS || read != nil else { return nil }
        return EdgeConfiguration.Listener(endpoint: .init(address: address, port: port), tls: read)
    }

    private func rate(_ section: ConfigurationSection, into rate: inout EdgeConfiguration.RateLimit) {
        section.read(
            "messagesPerSecond", into: &rate.messagesPerSecond,
            ConfigurationType.number(0.001...1_000_000).orUnlimited())
        section.read("burst", into: &rate.burst, .integer(1...1_000_000))
        section.read("bytesPerSecond", into: &rate.bytesPerSecond, ConfigurationType.bytes(1...(1 << 40)).orUnlimited())
        section.read("overLimit", into: &rate.overLimit, .word)
        section.finish()
    }

    private func global(_ section: ConfigurationSection, into limits: inout EdgeConfiguration.GlobalLimits) {
        section.read(
            "messagesPerSecond", into: &limits.messagesPerSecond,
            ConfigurationType.number(1...100_000_000).orUnlimited())
        section.read(
            "connectionsPerSecond", into: &limits.connectionsPerSecond,
            ConfigurationType.number(0.1...1_000_000).orUnlimited())
        section.read("connections", into: &limits.connections, .integer(1...1_000_000))
        section.read(
            "eventLoopLag", into: &limits.eventLoopLag, ConfigurationType.milliseconds(100...60_000).orUnlimited())
        section.finish()
    }

    private func groups(defaults: EdgeConfiguration.RateLimit) -> [EdgeConfiguration.Group] {
        var groups: [EdgeConfiguration.Group] = []
        for section in root.sections("groups") ?? [] {
            let name = section.require("name", .identifier)
            let devices = section.list("devices", .text) ?? []
            var limits = defaults
            if let own = section.section("limits") { rate(own, into: &limits) }
            if let name, groups.contains(where: { $0.name == name }) {
                section.problem("name", found: "\(name) a second time", allowed: "a name that no other group has")
            }
            if let name, name != EdgeConfiguration.localGroup, !section.has("devices") {
                section.problem(
                    "devices", found: "nothing", allowed: "a list of patterns of device ids, as [\"vib-*\"]")
            }
            section.finish()
            if let name { groups.append(.init(name: name, devices: devices, limits: limits)) }
        }
        return groups
    }

    private func rule(_ section: ConfigurationSection, groups: Set<String>) -> EdgeConfiguration.AccessRule? {
        let allow: EdgeConfiguration.AccessRule.Action? = section.value("allow", .word)
        let deny: EdgeConfiguration.AccessRule.Action? = section.value("deny", .word)
        let topic = section.require("topic", .accessTopic)
        let group = section.value("group", .identifier)
        if section.has("allow") == section.has("deny") {
            section.problem(
                section.has("allow") ? "allow" : "topic",
                found: section.has("allow") ? "allow and deny" : "neither allow nor deny",
                allowed: "exactly one of them")
        }
        if let group, !groups.contains(group) {
            section.problem("group", found: group, allowed: groups.sorted().joined(separator: ", "))
        }
        section.finish()
        guard let topic, let action = allow ?? deny else { return nil }
        return .init(verdict: allow != nil ? .allow : .deny, action: action, topic: topic, group: group)
    }

    private func mqtt(into mqtt: inout EdgeConfiguration.MQTT) {
        guard let section = root.section("mqtt") else { return }
        // A batch has at most 8 MiB as it is sent: a larger message that does not compress would never leave.
        section.read("maximumPacketSize", into: &mqtt.maximumPacketSize, .bytes(1_024...(4 << 20)))
        section.read("receiveMaximum", into: &mqtt.receiveMaximum, .integer(1...65_535))
        section.read("keepAliveMaximum", into: &mqtt.keepAliveMaximum, .seconds(1...65_535))
        section.read("sessionExpiryMaximum", into: &mqtt.sessionExpiryMaximum, .seconds(0...4_294_967_294))
        section.read("topicAliasMaximum", into: &mqtt.topicAliasMaximum, .integer(0...65_535))
        section.read("connectTimeout", into: &mqtt.connectTimeout, .seconds(1...300))
        section.read("discloseReasons", into: &mqtt.discloseReasons, .boolean)
        section.read("systemTopicsInterval", into: &mqtt.systemTopicsInterval, .seconds(0...86_400))
        section.read("queuedMessagesMaximum", into: &mqtt.queuedMessagesMaximum, .integer(1...1_000_000))
        section.read("queuedBytesMaximum", into: &mqtt.queuedBytesMaximum, .bytes(1_024...(1 << 30)))
        section.read("slowReaderBytes", into: &mqtt.slowReaderBytes, .bytes((1 << 20)...(1 << 30)))
        section.read("slowReaderTimeout", into: &mqtt.slowReaderTimeout, .seconds(1...3_600))
        section.finish()
    }

    private func buffer(into buffer: inout EdgeConfiguration.Buffer) {
        guard let section = root.section("buffer") else { return }
        if let path = section.path("path") {
            buffer.path = path
            if checkingFiles { section.checkMayHold("path", path) }
        }
        section.read("maximumBytes", into: &buffer.maximumBytes, .bytes((1 << 20)...(16 << 40)))
        section.read(
            "maximumAge", into: &buffer.maximumAge, ConfigurationType.seconds(1...(3_650 * 86_400)).orUnlimited())
        section.read("freeDiskFloor", into: &buffer.freeDiskFloor, .percent(0...90))
        section.read("whenFull", into: &buffer.whenFull, .word)
        section.read("commitDelay", into: &buffer.commitDelay, .milliseconds(0...1_000))
        buffer.priorities = section.sections("priorities")?.compactMap(priority) ?? []
        for (index, priority) in buffer.priorities.enumerated()
        where buffer.priorities[..<index].contains(where: { $0.topic == priority.topic }) {
            section.problem(
                "priorities[\(index)].topic", found: "\(priority.topic.shown) a second time",
                allowed: "a filter that no other has")
        }
        if !buffer.priorities.isEmpty, buffer.whenFull != .dropOldest {
            section.problem(
                "priorities", found: "priorities with whenFull: \(buffer.whenFull.rawValue), which drops nothing",
                allowed: "whenFull: dropOldest, or no priorities")
        }
        section.finish()
    }

    private func priority(_ section: ConfigurationSection) -> EdgeConfiguration.Priority? {
        let topic = section.require("topic", .topicFilter)
        let priority = section.require("priority", .integer(0...9))
        if topic?.hasPrefix("$share/") == true {
            section.problem(
                "topic", found: "a shared subscription", allowed: "the filter alone, without $share and its name")
        }
        section.finish()
        guard let topic, let priority else { return nil }
        return .init(topic: topic, priority: priority)
    }

    private func uplink(_ section: ConfigurationSection) -> EdgeConfiguration.Uplink? {
        let url = section.require("url", .httpsURL)
        let certificate = section.requirePath("certificate", checking: checkingFiles ? .certificate : nil)
        let key = section.requirePath("key", checking: checkingFiles ? .privateKey : nil)
        let authority = section.requirePath("ca", checking: checkingFiles ? .certificate : nil)
        let topics = section.list("topics", .topicFilter)
        var linger = 1_000
        section.read("linger", into: &linger, .milliseconds(0...60_000))
        var longestPause = 120
        section.read("longestPause", into: &longestPause, .seconds(1...3_600))
        var share = 50.0
        section.read("backlogShare", into: &share, .percent(1...99))
        var bandwidth: Int?
        section.read("bandwidth", into: &bandwidth, ConfigurationType.bytes(1_024...(1 << 30)).orUnlimited())
        var bytesPerHour: Int?
        section.read("bytesPerHour", into: &bytesPerHour, ConfigurationType.bytes((1 << 20)...(1 << 40)).orUnlimited())
        section.finish()
        guard let url, let certificate, let key, let authority else { return nil }
        var uplink = EdgeConfiguration.Uplink(url: url, certificate: certificate, key: key, ca: authority)
        if let topics { uplink.topics = topics }
        uplink.linger = linger
        uplink.longestPause = longestPause
        uplink.backlogShare = Int(share)
        uplink.bandwidth = bandwidth
        uplink.bytesPerHour = bytesPerHour
        return uplink
    }
}
