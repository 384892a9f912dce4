import Foundation
import Operations
import Testing

@Suite struct CloudConfigurationTests {
    private static let listener =
        "listener: { tls: { certificate: c, key: k, clientCA: a } }\n"

    private func cloud(_ text: String, role: CloudRole = .all) throws -> CloudConfiguration {
        let file = try TemporaryFile(text)
        return try CloudConfiguration.load(file: file.path, role: role, checkingFiles: false)
    }

    @Test func theDocumentedDefaultsAreTheRealOnes() throws {
        let documented = try CloudConfiguration.load(
            file: repository + "/cloud/config/sluice-cloud.yaml", checkingFiles: false)
        var expected = CloudConfiguration()
        expected.listener = CloudConfiguration.Listener(
            tls: .init(
                certificate: "/etc/sluice/cloud.crt", key: "/etc/sluice/cloud.key", clientCA: "/etc/sluice/ca.crt"))
        #expect(documented == expected)
    }

    @Test(arguments: ["s3cret", "s3cret\n", "s3cret\r\n", "s3cret\nno part of it\n"])
    func aPasswordIsTheFirstLineOfItsFile(text: String) throws {
        let file = try TemporaryFile(text)
        var database = CloudConfiguration.Database()
        #expect(try database.password() == nil)
        database.passwordFile = file.path
        #expect(try database.password() == "s3cret")
        database.passwordFile = file.path + ".none"
        #expect(throws: FileError.self) { try database.password() }
    }

    @Test func everyKeyIsRead() throws {
        let configuration = try cloud(
            """
            listener: { address: 10.0.0.1, port: 443, tls: { certificate: /c, key: /k, clientCA: /a, crl: /r } }
            eventLog:
              kafka:
                brokers: [a:9092, "[::1]:9093"]
                topic: t
                properties: { security.protocol: ssl }
                propertiesFile: /p
            database: { url: postgresql://u@h/d, passwordFile: /w }
            processor:
              timeField: meta.at
              hotDays: 5
              metricsPerMessage: 6
              metricsPerDevice: 7
              fallback: deadLetter
              breaker: { window: 1s, minimumCalls: 2, failureRate: 3, openFor: 4s, probes: 5, slowCall: 6s }
            status: { port: 1 }
            limits: { batchBytes: 1MiB, unpackedBytes: 2MiB, connections: 3, requestTimeout: 4s, batchesInFlight: 5 }
            log: { level: error }
            lifecycle: { rollupDays: 9 }
            objects: { folder: { path: /o } }
            """, role: .ingest)
        #expect(configuration.lifecycle.rollupDays == 9)
        #expect(configuration.listener?.endpoint == .init(address: "10.0.0.1", port: 443))
        #expect(configuration.listener?.tls.crl == "/r")
        guard case .kafka(let kafka) = configuration.eventLog else {
            Issue.record("no Kafka")
            return
        }
        #expect(kafka.brokers == ["a:9092", "[::1]:9093"] && kafka.topic == "t" && kafka.propertiesFile == "/p")
        #expect(kafka.properties == ["security.protocol": "ssl"])
        #expect(configuration.database.url == "postgresql://u@h/d" && configuration.database.passwordFile == "/w")
        #expect(configuration.processor.timeField == "meta.at" && configuration.processor.metricsPerDevice == 7)
        var breaker = CloudConfiguration.Breaker()
        breaker.window = 1
        breaker.minimumCalls = 2
        breaker.failureRate = 3
        breaker.openFor = 4
        breaker.probes = 5
        breaker.slowCall = 6
        #expect(configuration.processor.breaker == breaker && configuration.processor.fallback == .deadLetter)
        #expect(configuration.limits.batchBytes == 1 << 20 && configuration.limits.batchesInFlight == 5)
        #expect(configuration.status == .init(address: "127.0.0.1", port: 1) && configuration.log.level == .error)
    }

    @Test func kafkaIsReachedWithCertificatesAndPasswords() throws {
        let text = """
            eventLog:
              kafka:
                brokers: ["a:9092"]
                tls: { ca: /a, certificate: /c, key: /k, keyPasswordFile: /kp }
                sasl: { mechanism: SCRAM-SHA-512, user: u, passwordFile: /p }
                sessionTimeout: 7s
            processor: { member: m-1, leavesGroup: false }
            """
        let configuration = try cloud(text, role: .process)
        guard case .kafka(let kafka) = configuration.eventLog else {
            Issue.record("no Kafka")
            return
        }
        var tls = CloudConfiguration.KafkaTLS()
        (tls.ca, tls.certificate, tls.key, tls.keyPasswordFile) = ("/a", "/c", "/k", "/kp")
        #expect(kafka.tls == tls && kafka.sessionTimeout == 7)
        #expect(kafka.sasl == .init(mechanism: .scramSHA512, user: "u", passwordFile: "/p"))
        #expect(configuration.processor.member == "m-1" && !configuration.processor.leavesGroup)
    }

    @Test(arguments: [
        ("tls: { certificate: c }", "tls.certificate: found one of certificate and key"),
        ("tls: { crl: c }", "tls.crl: found an unknown key"),
        ("sasl: { mechanism: PLAIN, user: u, passwordFile: p }", "sasl: found a password for brokers without tls"),
        ("tls: {}, sasl: { mechanism: GSSAPI, user: u, passwordFile: p }", "mechanism: found GSSAPI, allowed PLAIN"),
        ("tls: {}, sasl: { mechanism: PLAIN }", "sasl.passwordFile: found nothing"),
        (
            "tls: {}, properties: { security.protocol: ssl }",
            "properties.security.protocol: found a property beside tls"
        ),
        ("tls: {}, properties: { ssl.key.pem: hunter2 }", "ssl.key.pem: found a secret"),
        ("sessionTimeout: 11s", "sessionTimeout: found 11s"),
    ])
    func mistakesOfKafkasSecurity(text: String, expected: String) throws {
        let kafka = "eventLog: { kafka: { brokers: [\"a:1\"], \(text) } }"
        let found = try cloudProblems(kafka, role: .process)
        #expect(found.contains { $0.contains(expected) }, "\(found)")
        #expect(!found.joined().contains("hunter2"))
    }

    @Test func aPasswordMayGoToALoopbackBrokerAlone() throws {
        let sasl = "sasl: { mechanism: PLAIN, user: u, passwordFile: p }"
        let kafka = "eventLog: { kafka: { brokers: [\"127.0.0.1:1\", \"localhost:2\"], \(sasl) } }"
        #expect(try cloudProblems(kafka, role: .process).isEmpty)
    }

    @Test func limitsAndShutdownAreRead() throws {
        let configuration = try cloud(
            Self.listener + """
                limits:
                  messagesPerSecond: 9
                  gatewayMessagesPerSecond: unlimited
                  gatewayBacklogMessagesPerSecond: 7
                  gatewayBatchesInFlight: 6
                  gatewayBacklogBatchesInFlight: 5
                  expectedDeviceMessagesPerSecond: unlimited
                shutdown: { within: 20s, stateFile: /s }
                """)
        let limits = configuration.limits
        #expect(limits.messagesPerSecond == 9 && limits.gatewayMessagesPerSecond == nil)
        #expect(limits.gatewayBacklogMessagesPerSecond == 7 && limits.gatewayBatchesInFlight == 6)
        #expect(limits.gatewayBacklogBatchesInFlight == 5 && limits.expectedDeviceMessagesPerSecond == nil)
        #expect(configuration.shutdown.within == 20 && configuration.shutdown.stateFile == "/s")
    }

    @Test(arguments: [
        ("eventLog: {}", "2: eventLog.embedded: found neither embedded nor kafka"),
        ("eventLog: { embedded: {}, kafka: {} }", "found embedded and kafka"),
        ("eventLog: { embedded: { retention: 71h } }", "found 71h, allowed a time in whole seconds from 3d"),
        ("eventLog: { kafka: {} }", "eventLog.kafka.brokers: found nothing"),
        ("eventLog: { kafka: { brokers: [] } }", "eventLog.kafka.brokers: found nothing"),
        ("eventLog: { kafka: { brokers: [a] } }", "brokers[0]: found a, allowed an address as host:port"),
        ("eventLog: { kafka: { brokers: [\"a:1\"], topic: a/b } }", "topic: found a/b"),
        (
            "eventLog: { kafka: { brokers: [\"a:1\"], properties: { sasl.password: hunter2 } } }",
            "properties.sasl.password: found a secret, allowed it in propertiesFile"
        ),
        ("database: { url: mysql://x }", "database.url: found something else"),
        ("database: { url: \"postgresql://u:hunter2@h/d\" }", "database.url: found a password in it"),
        ("database: { url: \"postgresql://h/d?password=hunter2\" }", "database.url: found a password in it"),
        ("database: { url: \"postgresql://u:p@127.0.0.1,h/d\" }", "database.url: found a password in it"),
        ("database: { url: \"postgresql://u:p@localhost/d?host=h\" }", "database.url: found a password in it"),
        ("processor: { hotDays: 0 }", "processor.hotDays: found 0"),
        ("lifecycle: { rollupDays: 0 }", "lifecycle.rollupDays: found 0"),
        ("limits: { batchBytes: 9MiB }", "limits.batchBytes: found 9MiB"),
        ("limits: { messagesPerSecond: 0 }", "limits.messagesPerSecond: found 0"),
        ("shutdown: { within: 1s }", "shutdown.within: found 1s"),
        ("nonsense: 1", "nonsense: found an unknown key, allowed listener, eventLog, database"),
    ])
    func mistakes(text: String, expected: String) throws {
        let found = try cloudProblems(Self.listener + text)
        #expect(found.count == 1 && found[0].contains(expected), "\(found)")
        #expect(!found.joined().contains("hunter2"))
    }

    @Test(arguments: [
        "postgresql://u:p@127.0.0.1:5432/d", "postgres://u:p@localhost/d", "postgresql://u:p@[::1]:5432/d",
        "postgresql:///d", "postgresql://u@h1,h2/d?sslmode=verify-full",
    ])
    func goodDatabaseURLs(url: String) throws {
        #expect(try cloud(Self.listener + "database: { url: \"\(url)\" }").database.url == url)
    }

    @Test(arguments: [
        "postgresql://u:p@127.0.0.1/d", "postgresql://u@localhost/d?password=p", "host=/run user=u password=p",
        "postgres://u@h1:p@h2/d",
    ])
    func aPasswordIsSeenInAnyForm(text: String) { #expect(DatabaseURL.hasPassword(text)) }

    @Test(arguments: ["postgresql://u@127.0.0.1:5432/d?sslmode=disable", "host=/run user=u", "postgresql:///d"])
    func noPasswordIsSeenWhereThereIsNone(text: String) { #expect(!DatabaseURL.hasPassword(text)) }

    @Test func aRoleNeedsWhatItNeeds() throws {
        #expect(try cloudProblems("{}")[0].contains("since --role all ingests"))
        #expect(try cloudProblems("{}", role: .process)[0].contains("the part process needs one that processes share"))
        let kafka = "eventLog: { kafka: { brokers: [\"a:1\"] } }"
        #expect(try cloudProblems(kafka, role: .process).isEmpty)
        #expect(
            try cloudProblems("listener: {}\n" + kafka, role: .ingest)[0].contains("1: listener.tls: found nothing"))
    }

    @Test func filesMustBeThere() throws {
        let found = try cloudProblems(
            """
            listener: { tls: { certificate: c, key: k, clientCA: a } }
            eventLog: { kafka: { brokers: ["a:1"], propertiesFile: p } }
            database: { passwordFile: w }
            """, checkingFiles: true)
        #expect(found.count == 5, "\(found)")
    }

    @Test func objectsAndArchiveAreRead() throws {
        let kept = try cloud(
            Self.listener + """
                objects:
                  s3: { bucket: plant-1, endpoint: "https://s3.example:9000/", region: eu-west-3, prefix: a/b=c/,
                        addressing: host, credentialsFile: /c, ca: /a, certificate: /x, key: /k }
                archive: { after: 10d, keep: 20d }
                """)
        var s3 = CloudConfiguration.S3(bucket: "plant-1")
        s3.endpoint = "https://s3.example:9000"
        s3.region = "eu-west-3"
        s3.prefix = "a/b=c/"
        s3.addressing = .host
        s3.credentialsFile = "/c"
        s3.ca = "/a"
        s3.certificate = "/x"
        s3.key = "/k"
        #expect(kept.objects == .s3(s3))
        #expect(kept.archive?.after == 864_000 && kept.archive?.keep == 1_728_000)
        let folder = try cloud(Self.listener + "objects: { folder: { path: /o } }\narchive: {}")
        #expect(folder.objects == .folder("/o") && folder.archive == CloudConfiguration.Archive())
    }

    @Test(arguments: [
        ("objects: {}", "objects.folder: found neither folder nor s3"),
        ("objects: { folder: { path: /a }, s3: { bucket: abc } }", "found folder and s3"),
        ("objects: { folder: {} }", "objects.folder.path: found nothing"),
        ("objects: { s3: {} }", "objects.s3.bucket: found nothing"),
        ("objects: { s3: { bucket: Ab/c } }", "objects.s3.bucket: found Ab/c, allowed 3 to 63 characters"),
        ("objects: { s3: { bucket: abc, endpoint: \"https://h/path\" } }", "objects.s3.endpoint: found https://h/path"),
        ("objects: { s3: { bucket: abc, prefix: a } }", "objects.s3.prefix: found a, allowed"),
        ("objects: { s3: { bucket: abc, prefix: a/../ } }", "objects.s3.prefix: found a/../"),
        (
            "objects: { s3: { bucket: abc, certificate: c } }",
            "objects.s3.key: found nothing, allowed certificate and key"
        ),
        ("objects: { s3: { bucket: abc, secretKey: hunter2 } }", "objects.s3.secretKey: found a secret"),
        ("archive: {}", "objects: found nothing, allowed a folder or s3, since archive"),
        (
            "processor: { fallback: deadLetter }",
            "objects: found nothing, allowed a folder or s3, since processor.fallback"
        ),
        ("processor: { fallback: drop }", "processor.fallback: found drop, allowed pause, deadLetter or sample"),
        ("objects: { folder: { path: /a } }\narchive: { after: 23h }", "archive.after: found 23h"),
        (
            "objects: { folder: { path: /a } }\narchive: { after: 20d, keep: 20d }",
            "archive.keep: found 20d, allowed more"
        ),
    ])
    func mistakesInObjectsAndArchive(text: String, expected: String) throws {
        let found = try cloudProblems(Self.listener + text)
        #expect(found.count == 1 && found[0].contains(expected), "\(found)")
        #expect(!found.joined().contains("hunter2"))
    }
}
