import Foundation
import Operations
import Testing

@Suite struct EdgeConfigurationTests {
    @Test func theDocumentedDefaultsAreTheRealOnes() throws {
        let documented = try EdgeConfiguration.load(
            file: repository + "/edge-config/sluice-edge.yaml", checkingFiles: false)
        var expected = EdgeConfiguration(gatewayID: "plant-7")
        expected.listeners = EdgeConfiguration.defaultListeners
        expected.access = EdgeConfiguration.defaultAccess
        #expect(documented == expected)
        #expect(try EdgeConfiguration.load(file: repository + "/edge-config/minimal.yaml") == expected)
    }

    /// Uncommented, the examples of the documented file are good as well.
    @Test func theExamplesAreGood() throws {
        let text = try String(contentsOfFile: repository + "/edge-config/sluice-edge.yaml", encoding: .utf8)
        var uncommented = text.replacingOccurrences(of: "groups: []", with: "groups:")
        let examples = [
            "  # - address: 0.0.0.0", "  #   port: 8883", "  #   tls:", "  #     certificate: /etc/sluice/edge.crt",
            "  #     key: /etc/sluice/edge.key", "  #     clientCA: /etc/sluice/ca.crt",
            "  #     crl: /etc/sluice/crl.pem", "  # - { name: vibration", "  # - { name: local", "# uplink:",
            "#   url: https://cloud.example:8443", "#   certificate: /etc/sluice/plant-7.crt",
            "#   key: /etc/sluice/plant-7.key", "#   ca: /etc/sluice/ca.crt", "#   topics: [\"#\"]", "#   linger: 1s",
            "#   longestPause: 2m", "#   backlogShare: 50%",
            "#                                            # while live",
            "#   bandwidth: unlimited",
            "#   bytesPerHour: unlimited", "#                                            # it, and when",
        ]
        for example in examples {
            #expect(uncommented.contains(example), "\(example)")
            uncommented = uncommented.replacingOccurrences(
                of: example, with: example.replacing("# ", with: "", maxReplacements: 1))
        }
        let configuration = try edge(uncommented)
        #expect(configuration.listeners.count == 2)
        #expect(configuration.listeners[1].tls?.crl == "/etc/sluice/crl.pem")
        #expect(configuration.groups.map(\.name) == ["vibration", "local"])
        #expect(configuration.groups[0].limits.messagesPerSecond == 200)
        #expect(configuration.groups[0].limits.bytesPerSecond == 256 * 1024)
        #expect(configuration.groups[1].limits.messagesPerSecond == nil)
        #expect(configuration.uplink?.url == "https://cloud.example:8443")
        #expect(configuration.uplink?.linger == 1_000)
        #expect(configuration.uplink?.backlogShare == 50 && configuration.uplink?.bandwidth == nil)
        #expect(configuration.uplink?.bytesPerHour == nil && configuration.uplink?.longestPause == 120)
    }

    @Test(arguments: [
        (
            "listeners: [{ address: 127.0.0.1, port: 1883, plaintext: true }, { address: 127.0.0.1, port: 1883, plaintext: true }]",
            "listeners[1]: found port 1883 a second time"
        ),
        ("status: { address: 0.0.0.0, port: 1883 }", "status: found port 1883, which a listener has"),
        (
            "buffer: { whenFull: dropOldest, priorities: [{ topic: a, priority: 1 }, { topic: a, priority: 2 }] }",
            "buffer.priorities[1].topic: found a a second time"
        ),
        (
            "buffer: { whenFull: dropOldest, priorities: [{ topic: $share/g/a, priority: 1 }] }",
            "buffer.priorities[0].topic: found a shared subscription"
        ),
        (
            "buffer: { priorities: [{ topic: a, priority: 1 }] }",
            "buffer.priorities: found priorities with whenFull: refuse, which drops nothing"
        ),
        ("buffer: { path: /proc }", "buffer.path: found /proc, which is no regular file"),
    ]) func whatCannotWorkIsTold(text: String, expected: String) throws {
        let found = try edgeProblems("gateway: { id: g }\n" + text, checkingFiles: true)
        #expect(found.count == 1 && found[0].contains(expected), "\(found)")
    }

    @Test func theUplinksBoundsAreRead() throws {
        let paths = "url: https://cloud.example:8443, certificate: /a, key: /b, ca: /c"
        let bounds = "longestPause: 5s, backlogShare: 20%, bandwidth: 64KiB, bytesPerHour: 10MiB"
        let text = "gateway: { id: g }\nuplink: { \(paths), \(bounds) }"
        let uplink = try edge(text).uplink
        #expect(uplink?.backlogShare == 20 && uplink?.bandwidth == 65_536 && uplink?.bytesPerHour == 10 << 20)
        #expect(uplink?.longestPause == 5)
        for bad in [
            "longestPause: 0s", "longestPause: 2h", "backlogShare: 0%", "backlogShare: 100%", "bandwidth: 1B",
            "bytesPerHour: 1KiB",
        ] {
            #expect(throws: ConfigurationProblems.self) {
                try edge("gateway: { id: g }\nuplink: { \(paths), \(bad) }")
            }
        }
    }

    private static let uplink =
        "gateway: { id: g }\nuplink: { url: https://cloud.example:8443, certificate: /a, key: /b, ca: /c }\n"

    @Test func localRulesAreReadAsTheirExamplesSay() throws {
        let text = try String(contentsOfFile: repository + "/edge-config/sluice-edge.yaml", encoding: .utf8)
        let lines = text.split(separator: "\n")
        let begin = try #require(lines.firstIndex(of: "# local:"))
        let example = lines[begin...].prefix { $0.hasPrefix("# ") && !$0.hasPrefix("# The") }.map { $0.dropFirst(2) }
        let rules = try edge(Self.uplink + example.joined(separator: "\n")).local.rules
        var expected = EdgeConfiguration.LocalRule(
            name: "temperatures", filter: "plant/+/temperature", action: .aggregate)
        expected.window = 60
        expected.values = [.last, .mean, .min, .max]
        expected.deadBand = 0.5
        expected.topicSuffix = "/minute"
        #expect(rules == [expected, .init(name: "debugging", filter: "debug/#", action: .discard)])
        #expect(try edge(Self.uplink).local.rules.isEmpty)
    }

    @Test(arguments: [
        ("action: aggregate, values: [last]", "rules[0].window: found nothing, allowed a time"),
        ("action: aggregate, window: 0s, values: [last]", "rules[0].window: found 0s"),
        ("action: aggregate, window: 25h, values: [last]", "rules[0].window: found 25h"),
        ("action: aggregate, window: 1s", "rules[0].values: found none, allowed a list of at least one of last"),
        ("action: aggregate, window: 1s, values: [median]", "rules[0].values[0]: found median"),
        ("action: aggregate, window: 1s, values: [min, min]", "rules[0].values: found a value twice"),
        (
            "action: aggregate, window: 1s, values: [count], deadBand: 1",
            "rules[0].deadBand: found a dead band of counts"
        ),
        ("action: aggregate, window: 1s, values: [min], deadBand: -1", "rules[0].deadBand: found -1"),
        (
            "action: aggregate, window: 1s, values: [min], maximumSilence: 1h",
            "rules[0].maximumSilence: found it without"
        ),
        ("action: aggregate, window: 1s, values: [min], topicSuffix: /#", "rules[0].topicSuffix: found /#"),
        ("action: discard, window: 1s", "rules[0].window: found an unknown key, allowed name, filter, action, enabled"),
        ("action: drop", "rules[0].action: found drop, allowed discard or aggregate"),
        ("enabled: true", "rules[0].action: found nothing"),
    ]) func badLocalRulesAreTold(rule: String, expected: String) throws {
        let found = try edgeProblems(Self.uplink + "local: { rules: [{ name: r, filter: \"a/#\", \(rule) }] }")
        #expect(found.contains { $0.contains("local.\(expected)") }, "\(found)")
    }

    @Test func localRulesHaveNamesOfTheirOwnABoundAndAnUplink() throws {
        func rules(_ names: [String]) -> String {
            "local: { rules: ["
                + names.map { "{ name: \($0), filter: a, action: discard }" }.joined(separator: ", ") + "] }"
        }
        let twice = try edgeProblems(Self.uplink + rules(["a", "a"]))
        #expect(twice.count == 1 && twice[0].contains("local.rules[1].name: found a a second time"), "\(twice)")
        let maximum = EdgeConfiguration.Local.maximumRules
        #expect(try edge(Self.uplink + rules((1...maximum).map { "r\($0)" })).local.rules.count == maximum)
        let many = try edgeProblems(Self.uplink + rules((0...maximum).map { "r\($0)" }))
        #expect(many.count == 1 && many[0].contains("allowed at most \(maximum)"), "\(many)")
        let alone = try edgeProblems("gateway: { id: g }\n" + rules(["a"]))
        #expect(alone.count == 1 && alone[0].contains("rules without an uplink"), "\(alone)")
    }

    @Test func theContractOfTheDesignIsRead() throws {
        let configuration = try edge(
            """
            gateway: { id: plant-7 }
            identity: { from: commonName }
            certificates: { reloadInterval: 90s }
            access:
              - { deny: subscribe, topic: "plant/secrets/#" }
              - { allow: all, topic: "devices/%d/#" }
            limits:
              device: { messagesPerSecond: 0.5, burst: 3, bytesPerSecond: 1MB, overLimit: slow }
              global: { messagesPerSecond: unlimited, connectionsPerSecond: 7, connections: 8, eventLoopLag: 250ms }
            mqtt: { maximumPacketSize: 64KiB, receiveMaximum: 9, keepAliveMaximum: 2m, sessionExpiryMaximum: 3d, slowReaderBytes: 2MiB, slowReaderTimeout: 1m }
            buffer: { path: b.db, maximumBytes: 2GiB, maximumAge: 2h, freeDiskFloor: 2.5%, whenFull: dropOldest, commitDelay: 2ms,
              priorities: [{ topic: "alarms/#", priority: 9 }] }
            status: { address: "::1", port: 0 }
            log: { level: debug }
            """)
        #expect(configuration.identity == .commonName)
        #expect(configuration.certificates.reloadInterval == 90 && configuration.global.eventLoopLag == 250)
        #expect(configuration.mqtt.slowReaderBytes == 2 << 20 && configuration.mqtt.slowReaderTimeout == 60)
        #expect(configuration.access[0] == .init(verdict: .deny, action: .subscribe, topic: "plant/secrets/#"))
        #expect(configuration.deviceLimits.messagesPerSecond == 0.5)
        #expect(configuration.deviceLimits.bytesPerSecond == 1_000_000)
        #expect(configuration.deviceLimits.overLimit == .slow)
        #expect(configuration.global.messagesPerSecond == nil && configuration.global.connections == 8)
        #expect(configuration.mqtt.maximumPacketSize == 65_536 && configuration.mqtt.keepAliveMaximum == 120)
        #expect(configuration.mqtt.sessionExpiryMaximum == 259_200)
        #expect(configuration.buffer.path.hasSuffix("/b.db") && configuration.buffer.path.hasPrefix("/"))
        #expect(configuration.buffer.maximumAge == 7_200 && configuration.buffer.freeDiskFloor == 2.5)
        #expect(configuration.buffer.whenFull == .dropOldest && configuration.buffer.commitDelay == 2)
        #expect(configuration.buffer.priorities == [.init(topic: "alarms/#", priority: 9)])
        #expect(configuration.status == .init(address: "::1", port: 0))
        #expect(configuration.log.level == .debug)
    }

    @Test func everyMistakeIsToldAtOnceInTheOrderOfTheLines() throws {
        let found = try edgeProblems(
            """
            gateway: { id: "plant 7" }
            listeners:
              - { address: 0.0.0.0, port: 1883, plaintext: true }
              - { address: 0.0.0.0, port: 99999 }
            identiti: { from: uri }
            limits:
              device: { messagesPerSecond: -1, overLimit: explode }
            mqtt:
              keepAliveMaximum: 300
              maximumPacketSize: [1]
            buffer:
              whenFull:
            access:
              - { topic: "a/#/b" }
              - { allow: all, topic: "#", group: nobody }
            """)
        #expect(
            found == [
                "1: gateway.id: found plant 7, allowed 1 to 128 characters of A-Z a-z 0-9 . _ : -",
                "3: listeners[0].address: found 0.0.0.0 with plaintext: true, allowed a loopback address (127.0.0.1, ::1, localhost), or tls",
                "4: listeners[1].port: found 99999, allowed a whole number from 0 to 65535",
                "4: listeners[1].port: found neither tls nor plaintext: true, allowed exactly one of them",
                "5: identiti: found an unknown key, allowed gateway, listeners, identity, certificates, limits, groups, access, mqtt, buffer, uplink, local, status, log",
                "7: limits.device.messagesPerSecond: found -1, allowed a number from 0.001 to 1000000.0, or unlimited",
                "7: limits.device.overLimit: found explode, allowed refuse or slow",
                "9: mqtt.keepAliveMaximum: found 300, allowed a time in whole seconds from 1s to 65535s, as 300s, 5m, 2h or 7d",
                "10: mqtt.maximumPacketSize: found a list, allowed a size from 1KiB to 4MiB",
                "12: buffer.whenFull: found nothing, allowed refuse, slow or dropOldest",
                "14: access[0].topic: found a/#/b, allowed a topic filter (+ and # fill a whole level, # is the last); %d is the device id",
                "14: access[0].topic: found neither allow nor deny, allowed exactly one of them",
                "15: access[1].group: found nobody, allowed local",
            ], "\(found.joined(separator: "\n"))")
    }

    @Test(arguments: [
        ("{}", "gateway.id: found nothing"),
        ("", "gateway.id: found nothing"),
        ("gateway: 7", "1: gateway: found 7, allowed a map of keys"),
        ("gateway: {}", "1: gateway.id: found nothing"),
        ("- a", "1: found a list, allowed a map of keys at the root"),
        ("gateway: { id: a }\ngateway: { id: b }", "gateway: found the key more than once"),
        ("gateway: { id: a\n", "found a mistake in the YAML"),
        ("gateway: { id: a }\nlisteners: []", "2: listeners: found an empty list"),
        ("gateway: { id: a }\nlisteners: {}", "2: listeners: found a map, allowed a list of maps"),
        ("gateway: { id: a }\nlisteners: [x]", "2: listeners[0]: found x, allowed a map of keys"),
        (
            "gateway: { id: a }\nlisteners: [{ address: \"::1\", port: 1, plaintext: true, tls: {} }]",
            "2: listeners[0].tls: found tls and plaintext: true"
        ),
        ("gateway: { id: a }\ngroups: [{ name: x }]", "2: groups[0].devices: found nothing"),
        (
            "gateway: { id: a }\ngroups: [{ name: x, devices: [a] }, { name: x, devices: [b] }]",
            "2: groups[1].name: found x a second time"
        ),
        ("gateway: { id: a }\nbuffer: { freeDiskFloor: 10 }", "found 10, allowed a percentage from 0% to 90%"),
        ("gateway: { id: a }\nbuffer: { maximumBytes: 1PiB }", "found 1PiB, allowed a size from 1MiB to 16TiB"),
        ("gateway: { id: a }\nbuffer: { maximumBytes: 99999999999TiB }", "found 99999999999TiB, allowed a size"),
        ("gateway: { id: a }\nmqtt: { keepAliveMaximum: 1500ms }", "found 1500ms, allowed a time in whole seconds"),
        (
            "gateway: { id: a }\ncertificates: { reloadInterval: 0s }",
            "found 0s, allowed a time in whole seconds from 1s to 1d"
        ),
        ("gateway: { id: a }\nlimits: { global: { eventLoopLag: 5ms } }", "found 5ms, allowed a time from 100ms to 1m"),
        ("gateway: { id: a }\nmqtt: { slowReaderBytes: 1kB }", "found 1kB, allowed a size from 1MiB to 1GiB"),
        (
            "gateway: { id: a }\nmqtt: { slowReaderTimeout: 2h }",
            "found 2h, allowed a time in whole seconds from 1s to 1h"
        ),
        ("gateway: { id: a }\nuplink: { url: http://x }", "2: uplink.url: found http://x, allowed a URL as https://"),
        ("gateway: { id: a }\nuplink: { url: https://x:0 }", "2: uplink.url: found https://x:0"),
        ("gateway: { id: a }\nuplink: { url: https://u@x }", "2: uplink.url: found https://u@x"),
        ("gateway: { id: a }\nuplink: { url: https://x/path }", "2: uplink.url: found https://x/path"),
        ("gateway: { id: a }\nuplink: { url: https://x, topics: [a#] }", "2: uplink.topics[0]: found a#"),
        ("gateway: { id: a }\nuplink: {}", "2: uplink.certificate: found nothing"),
        ("gateway: { id: a }\nstatus: { address: example.com }", "found example.com, allowed an IPv4 or IPv6 address"),
        ("gateway: { id: a }\naccess: [{ allow: all, deny: all, topic: a }]", "found allow and deny"),
        ("gateway: { id: a }\naccess: [{ allow: read, topic: a }]", "found read, allowed publish, subscribe or all"),
        ("gateway: { id: a }\n? [x]\n: 1", "found a list as a key, allowed a word"),
        ("gateway: { id: null }", "gateway.id: found nothing"),
    ])
    func mistakes(text: String, expected: String) throws {
        let found = try edgeProblems(text)
        #expect(found.contains { $0.contains(expected) }, "\(found)")
    }

    @Test(arguments: ["https://[::1]:8443", "https://cloud.example", "https://cloud.example:8443/"])
    func goodURLs(url: String) throws {
        let configuration = try edge(
            "gateway: { id: a }\nuplink: { url: \"\(url)\", certificate: c, key: k, ca: a }")
        #expect(configuration.uplink?.url == (url.hasSuffix("/") ? String(url.dropLast()) : url))
    }

    @Test(arguments: ["127.0.0.1", "127.9.9.9", "::1", "localhost", "::ffff:127.0.0.1"])
    func plaintextIsAllowedOnLoopback(address: String) throws {
        let found = try edgeProblems(
            "gateway: { id: a }\nlisteners: [{ address: \"\(address)\", port: 1, plaintext: true }]")
        #expect(found.isEmpty)
    }

    @Test(arguments: ["0.0.0.0", "::", "192.168.1.1", "::2", "::ffff:10.0.0.1"])
    func plaintextIsRefusedElsewhere(address: String) throws {
        let found = try edgeProblems(
            "gateway: { id: a }\nlisteners: [{ address: \"\(address)\", port: 1, plaintext: true }]")
        #expect(found.count == 1 && found[0].contains("allowed a loopback address"))
    }

    @Test func filesMustBeThereAndBeWhatTheyShouldBe() throws {
        let file = try TemporaryFile(
            """
            gateway: { id: a }
            listeners:
              - address: 0.0.0.0
                port: 8883
                tls: { certificate: empty.crt, key: locked.key, clientCA: missing.crt, crl: empty.crt }
            """)
        try file.add("hello", name: "empty.crt")
        try file.add("-----BEGIN ENCRYPTED PRIVATE KEY-----\n", name: "locked.key")
        let found = problems { _ = try EdgeConfiguration.load(file: file.path) }
        #expect(found.count == 4)
        #expect(found[0].contains("tls.certificate: found \(file.folder)/empty.crt, no PEM in it"), "\(found)")
        #expect(found[1].contains("an encrypted key in it, allowed a readable PEM file with a private key"))
        #expect(found[2].contains("missing.crt (No such file or directory)"))
        #expect(found[3].contains("5: listeners[0].tls.crl"))
    }

    @Test func filesMayBeCredentialsThatSystemdPasses() throws {
        let file = try TemporaryFile(
            """
            gateway: { id: a }
            uplink: { url: "https://cloud", certificate: a.crt, key: "${CREDENTIALS_DIRECTORY}/keys_a.key", ca: a.crt }
            """)
        try file.add("-----BEGIN CERTIFICATE-----\n", name: "a.crt")
        try file.add("-----BEGIN PRIVATE KEY-----\n", name: "keys_a.key")
        let found = problems { _ = try EdgeConfiguration.load(file: file.path) }
        #expect(found.count == 1)
        #expect(
            found.first?.hasPrefix(
                "2: uplink.key: found ${CREDENTIALS_DIRECTORY}/keys_a.key, but systemd has passed no credentials")
                == true,
            "\(found)")
        setenv("CREDENTIALS_DIRECTORY", file.folder, 1)
        defer { unsetenv("CREDENTIALS_DIRECTORY") }
        let configuration = try EdgeConfiguration.load(file: file.path)
        #expect(configuration.uplink?.key == file.folder + "/keys_a.key")
    }

    @Test func aFileThatCannotBeReadIsNamed() {
        let error = #expect(throws: ConfigurationProblems.self) { try EdgeConfiguration.load(file: "/nowhere.yaml") }
        #expect(
            error?.description
                == "/nowhere.yaml: found no readable file (No such file or directory), allowed a YAML file")
    }

    @Test func bytesThatAreNoTextAreRefused() throws {
        let file = try TemporaryFile("")
        try Data([0x67, 0xFF, 0xFE]).write(to: URL(fileURLWithPath: file.path))
        #expect(problems { _ = try EdgeConfiguration.load(file: file.path) }[0].contains("no UTF-8"))
        try Data("a: \u{7}".utf8).write(to: URL(fileURLWithPath: file.path))
        #expect(problems { _ = try EdgeConfiguration.load(file: file.path) }[0].contains("YAML"))
        try Data(repeating: 0x20, count: ConfigurationSection.maximumBytes + 1).write(
            to: URL(fileURLWithPath: file.path))
        #expect(problems { _ = try EdgeConfiguration.load(file: file.path) }[0].contains("more than 1MiB"))
    }
}
