import Logging
import Testing

@testable import Operations

/// What of a new configuration a running daemon takes.
@Suite struct ConfigurationReloadTests {
    private func reload(_ old: String, _ new: String) throws -> ConfigurationReload {
        ConfigurationReload(from: try edge(old), to: try edge(new))
    }

    @Test func limitsGroupsAccessTopicsAndLogChangeAtOnce() throws {
        let uplink = "uplink: { url: \"https://a\", certificate: /a, key: /b, ca: /c, topics: "
        let reload = try reload(
            "gateway: { id: a }\n\(uplink)[\"#\"] }",
            """
            gateway: { id: a }
            \(uplink)["a/#"] }
            limits: { device: { messagesPerSecond: 3 }, global: { connections: 7 } }
            groups: [{ name: g, devices: ["x*"] }]
            access: [{ allow: all, topic: "#" }]
            log: { level: debug }
            """)
        #expect(reload.changed == ["limits.device", "limits.global", "groups", "access", "log", "uplink.topics"])
        #expect(reload.needRestart == [])
        #expect(reload.effective.deviceLimits.messagesPerSecond == 3 && reload.effective.global.connections == 7)
        #expect(reload.effective.uplink?.topics == ["a/#"] && reload.effective.log.level == .debug)
    }

    @Test func theRestIsNamedAndStays() throws {
        let reload = try reload(
            "gateway: { id: a }",
            """
            gateway: { id: b }
            listeners: [{ address: "::1", port: 1883, plaintext: true }]
            identity: { from: commonName }
            certificates: { reloadInterval: 1m }
            mqtt: { receiveMaximum: 5 }
            buffer: { maximumBytes: 5GiB }
            uplink: { url: "https://a", certificate: /a, key: /b, ca: /c }
            local: { rules: [{ name: r, filter: a, action: discard }] }
            status: { port: 1 }
            limits: { device: { burst: 3 } }
            """)
        #expect(
            reload.needRestart == [
                "gateway", "listeners", "identity", "certificates", "mqtt", "buffer", "uplink", "local", "status",
            ])
        #expect(reload.changed == ["limits.device"])
        var expected = try edge("gateway: { id: a }")
        expected.deviceLimits.burst = 3
        #expect(reload.effective == expected)
    }

    @Test func theSameFileChangesNothing() throws {
        let reload = try reload("gateway: { id: a }", "gateway: { id: a }")
        #expect(reload.changed == [] && reload.needRestart == [])
    }

    /// A property that no part names would change silently or never.
    @Test func everyPropertyOfTheConfigurationHasItsPart() throws {
        let properties = Mirror(reflecting: EdgeConfiguration(gatewayID: "a")).children.compactMap(\.label)
        let parts = Set(ConfigurationReload.parts.map(\.property))
        #expect(Set(properties).subtracting(parts) == [] && !properties.isEmpty)
    }

    @Test func theThresholdHoldsForLoggersThatAreInUse() {
        let threshold = LogThreshold(.info)
        let logger = Logger(label: "t") { JSONLogHandler(label: $0, threshold: threshold) }
        var own = logger
        own.logLevel = .error
        #expect(logger.logLevel == .info)
        threshold.level = .debug
        #expect(logger.logLevel == .debug && own.logLevel == .error)
        for level in Logger.Level.allCases {
            threshold.level = level
            #expect(logger.logLevel == level)
        }
    }
}
