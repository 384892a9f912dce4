extension CloudConfiguration {
    /// Reads, checks and completes a configuration file.
    ///
    /// - Parameters:
    ///   - role: what is missing for it is a problem.
    ///   - checkingFiles: whether the files that it names must be there.
    /// - Throws: all that is wrong, at once.
    package static func load(
        file: String, role: CloudRole = .all, checkingFiles: Bool = true
    ) throws(ConfigurationProblems) -> CloudConfiguration {
        let root = try ConfigurationSection.load(file: file)
        let reader = CloudReader(root: root, role: role, checkingFiles: checkingFiles)
        let configuration = reader.read()
        try root.report.finish()
        return configuration
    }
}

private struct CloudReader {
    let root: ConfigurationSection
    let role: CloudRole
    let checkingFiles: Bool

    func read() -> CloudConfiguration {
        var configuration = CloudConfiguration()
        configuration.listener = listener()
        if let section = root.section("eventLog"), let log = eventLog(section) { configuration.eventLog = log }
        if case .embedded = configuration.eventLog, role != .all {
            root.problem(
                "eventLog", found: "an embedded log, where the part \(role.rawValue) needs one that processes share",
                allowed: "a kafka log; or all parts in one process (--role all)")
        }
        database(into: &configuration.database)
        processor(into: &configuration.processor)
        if let status = root.section("status") {
            status.endpoint(into: &configuration.status)
            status.finish()
        }
        limits(into: &configuration.limits)
        if let log = root.section("log") { configuration.log = log.log() }
        configuration.objects = ObjectsReader(root: root, checkingFiles: checkingFiles).objects()
        archive(into: &configuration)
        if let section = root.section("lifecycle") {
            section.read("rollupDays", into: &configuration.lifecycle.rollupDays, .integer(1...36_500))
            section.finish()
        }
        if configuration.processor.fallback == .deadLetter, !root.has("objects") {
            root.problem(
                "objects", found: "nothing",
                allowed: "a folder or s3, since processor.fallback is deadLetter")
        }
        shutdown(into: &configuration.shutdown)
        root.finish()
        return configuration
    }

    private func archive(into configuration: inout CloudConfiguration) {
        guard let section = root.section("archive") else { return }
        var archive = CloudConfiguration.Archive()
        section.read("after", into: &archive.after, .seconds(86_400...(3_650 * 86_400)))
        section.read("keep", into: &archive.keep, .seconds((2 * 86_400)...(36_500 * 86_400)))
        if archive.keep <= archive.after {
            section.problem(
                "keep", found: Quantity.time(milliseconds: archive.keep * 1_000),
                allowed: "more than after, \(Quantity.time(milliseconds: archive.after * 1_000))")
        }
        section.finish()
        if !root.has("objects") {
            root.problem(
                "objects", found: "nothing", allowed: "a folder or s3, since archive needs a place to keep days")
        }
        configuration.archive = archive
    }

    private func listener() -> CloudConfiguration.Listener? {
        guard let section = root.section("listener") else {
            if !root.has("listener") && role.ingests {
                root.problem(
                    "listener.tls", found: "nothing",
                    allowed: "a map of certificate, key, clientCA and crl, since --role \(role.rawValue) ingests")
            }
            return nil
        }
        var endpoint = EdgeConfiguration.Endpoint(address: "0.0.0.0", port: 8443)
        section.endpoint(into: &endpoint)
        let tls = section.section("tls")?.tls(checkingFiles: checkingFiles)
        if !section.has("tls") {
            section.problem("tls", found: "nothing", allowed: "a map of certificate, key, clientCA and crl")
        }
        section.finish()
        guard let tls else { return nil }
        var listener = CloudConfiguration.Listener(tls: tls)
        listener.endpoint = endpoint
        return listener
    }

    private func eventLog(_ section: ConfigurationSection) -> CloudConfiguration.EventLog? {
        let (embedded, kafka) = (section.section("embedded"), section.section("kafka"))
        defer { section.finish() }
        if section.has("embedded") == section.has("kafka") {
            section.problem(
                "embedded", found: section.has("kafka") ? "embedded and kafka" : "neither embedded nor kafka",
                allowed: "exactly one of them")
            return nil
        }
        if let kafka { return self.kafka(kafka).map { .kafka($0) } }
        guard let embedded else { return nil }
        var log = CloudConfiguration.Embedded()
        if let path = embedded.path("path") { log.path = path }
        embedded.read("partitions", into: &log.partitions, .integer(1...1_024))
        embedded.read("retention", into: &log.retention, .seconds((72 * 3_600)...(3_650 * 86_400)))
        embedded.finish()
        return .embedded(log)
    }

    /// Values of these are secrets.
    private static let secrets: Set<String> = [
        "sasl.password", "ssl.key.password", "ssl.keystore.password", "ssl.key.pem", "sasl.oauthbearer.client.secret",
        "sasl.oauthbearer.config",
    ]

    private func kafka(_ section: ConfigurationSection) -> CloudConfiguration.Kafka? {
        let problemsBefore = root.report.problems.count
        let brokers = section.list("brokers", .hostAndPort)
        // What is no list, or has bad elements, has been reported already.
        if brokers?.isEmpty ?? true, root.report.problems.count == problemsBefore {
            section.problem("brokers", found: "nothing", allowed: "a list of at least one host:port")
        }
        var log = CloudConfiguration.Kafka(brokers: brokers ?? [])
        section.read(
            "topic", into: &log.topic,
            ConfigurationType(allowed: "1 to 249 characters of A-Z a-z 0-9 . _ -") { text in
                !text.contains(":") && text.utf8.count <= 249 && ConfigurationType.identifier.parse(text) != nil
                    ? text : nil
            })
        if let properties = section.section("properties") {
            for key in properties.keys {
                if Self.secrets.contains(key) {
                    _ = properties.has(key)
                    properties.problem(
                        key, found: "a secret", allowed: "it in propertiesFile, readable by the daemon alone")
                } else if let value = properties.value(key, .text) {
                    log.properties[key] = value
                }
            }
            properties.finish()
        }
        log.propertiesFile = section.path("propertiesFile")
        if let file = log.propertiesFile { checkReadable(section, "propertiesFile", file) }
        section.kafkaSecurity(of: &log, checkingFiles: checkingFiles)
        section.read("sessionTimeout", into: &log.sessionTimeout, .seconds(1...10))
        section.finish()
        return brokers == nil ? nil : log
    }

    private func database(into database: inout CloudConfiguration.Database) {
        guard let section = root.section("database") else { return }
        if let url = section.value("url", .text) {
            switch DatabaseURL.check(url) {
            case .good: database.url = root.report.resolveCredentials(in: url)
            case .notOne:
                section.problem(
                    "url", found: "something else", allowed: "a URL as postgresql://user@host:port/database")
            case .password:
                // The value is not shown: problems end in logs.
                section.problem(
                    "url", found: "a password in it",
                    allowed: "a URL without one, and passwordFile (or systemd's credentials)")
            }
        }
        database.passwordFile = section.path("passwordFile")
        if let file = database.passwordFile { checkReadable(section, "passwordFile", file) }
        section.finish()
    }

    private func processor(into processor: inout CloudConfiguration.Processor) {
        guard let section = root.section("processor") else { return }
        section.read("timeField", into: &processor.timeField, ConfigurationType.text.optional())
        section.read("hotDays", into: &processor.hotDays, .integer(1...36_500))
        section.read("metricsPerMessage", into: &processor.metricsPerMessage, .integer(1...10_000))
        section.read("metricsPerDevice", into: &processor.metricsPerDevice, .integer(1...100_000))
        section.read("member", into: &processor.member, ConfigurationType.identifier.optional())
        section.read("leavesGroup", into: &processor.leavesGroup, .boolean)
        section.read(
            "fallback", into: &processor.fallback,
            ConfigurationType(allowed: "pause, deadLetter or sample") { CloudConfiguration.Fallback(rawValue: $0) })
        if let breaker = section.section("breaker") {
            breaker.read("window", into: &processor.breaker.window, .seconds(1...600))
            breaker.read("minimumCalls", into: &processor.breaker.minimumCalls, .integer(1...1_000))
            breaker.read("failureRate", into: &processor.breaker.failureRate, .integer(1...100))
            breaker.read("openFor", into: &processor.breaker.openFor, .seconds(1...3_600))
            breaker.read("probes", into: &processor.breaker.probes, .integer(1...100))
            breaker.read("slowCall", into: &processor.breaker.slowCall, .seconds(1...600))
            breaker.finish()
        }
        section.finish()
    }

    private func limits(into limits: inout CloudConfiguration.Limits) {
        guard let section = root.section("limits") else { return }
        section.read("batchBytes", into: &limits.batchBytes, .bytes((1 << 20)...(8 << 20)))
        section.read("unpackedBytes", into: &limits.unpackedBytes, .bytes((1 << 20)...(64 << 20)))
        section.read("connections", into: &limits.connections, .integer(1...100_000))
        section.read("requestTimeout", into: &limits.requestTimeout, .seconds(1...600))
        section.read("batchesInFlight", into: &limits.batchesInFlight, .integer(1...1_000))
        section.read("backlogBatchesInFlight", into: &limits.backlogBatchesInFlight, .integer(1...1_000))
        section.read(
            "backlogMessagesPerSecond", into: &limits.backlogMessagesPerSecond,
            ConfigurationType.integer(1...100_000_000).orUnlimited())
        rates(section, into: &limits)
        section.finish()
    }

    private func rates(_ section: ConfigurationSection, into limits: inout CloudConfiguration.Limits) {
        let rate = ConfigurationType.integer(1...100_000_000).orUnlimited()
        section.read("messagesPerSecond", into: &limits.messagesPerSecond, rate)
        section.read("gatewayMessagesPerSecond", into: &limits.gatewayMessagesPerSecond, rate)
        section.read("gatewayBacklogMessagesPerSecond", into: &limits.gatewayBacklogMessagesPerSecond, rate)
        section.read("gatewayBatchesInFlight", into: &limits.gatewayBatchesInFlight, .integer(1...1_000))
        section.read("gatewayBacklogBatchesInFlight", into: &limits.gatewayBacklogBatchesInFlight, .integer(1...1_000))
        section.read("expectedDeviceMessagesPerSecond", into: &limits.expectedDeviceMessagesPerSecond, rate)
    }

    private func shutdown(into shutdown: inout CloudConfiguration.Shutdown) {
        guard let section = root.section("shutdown") else { return }
        section.read("within", into: &shutdown.within, .seconds(2...600))
        if let file = section.path("stateFile") { shutdown.stateFile = file }
        section.finish()
    }

    private func checkReadable(_ section: ConfigurationSection, _ key: String, _ file: String) {
        guard checkingFiles else { return }
        do {
            _ = try AtomicFile.read(file, maximumBytes: 1 << 20)
        } catch {
            section.problem(key, found: error.description, allowed: "a readable file")
        }
    }
}

package enum DatabaseURL {
    enum Verdict { case good, notOne, password }

    /// Of a URL or another connection string of libpq: a password that is not for this machine alone.
    package static func hasExposedPassword(_ text: String) -> Bool {
        switch check(text) {
        case .good: false
        case .password: true
        case .notOne: text.contains("password")
        }
    }

    /// Of either form: a password that a list of processes would show.
    package static func hasPassword(_ text: String) -> Bool {
        if text.contains("password") { return true }
        guard let start = text.firstRange(of: "://") else { return false }
        let authority = text[start.upperBound...].prefix { $0 != "/" && $0 != "?" }
        return authority.split(separator: "@", omittingEmptySubsequences: false).dropLast().contains {
            $0.contains(":")
        }
    }

    static func check(_ url: String) -> Verdict {
        guard let scheme = ["postgresql://", "postgres://"].first(where: url.hasPrefix) else { return .notOne }
        let rest = url.dropFirst(scheme.count)
        let authority = rest.prefix { $0 != "/" && $0 != "?" }
        let parts = authority.split(separator: "@", omittingEmptySubsequences: false)
        let user = parts.count > 1 ? parts.dropLast().joined(separator: "@") : ""
        let hosts = (parts.last ?? "").split(separator: ",")
        let parameters = rest.dropFirst(authority.count)
        guard user.contains(":") || parameters.contains("password=") else { return .good }
        // `?host=` names another machine than the authority does.
        let isLocal =
            !parameters.contains("host=") && !parameters.contains("hostaddr=")
            && hosts.allSatisfy { HostAndPort($0).map { Address.isLoopback(String($0.host)) } ?? false }
        return isLocal ? .good : .password
    }
}
