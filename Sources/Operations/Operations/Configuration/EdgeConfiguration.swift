/// The edge daemon's configuration, checked and with every default filled in. The keys and defaults are documented in
/// `edge-config/sluice-edge.yaml`.
package struct EdgeConfiguration: Sendable, Equatable {
    package var gatewayID: String
    package var listeners: [Listener] = []
    package var identity: IdentitySource = .uri
    package var certificates = Certificates()
    package var groups: [Group] = []
    package var access: [AccessRule] = []
    package var deviceLimits = RateLimit()
    package var global = GlobalLimits()
    package var mqtt = MQTT()
    package var buffer = Buffer()
    /// `nil`: a local broker, nothing is synced.
    package var uplink: Uplink?
    package var local = Local()
    package var status = Endpoint(address: "127.0.0.1", port: 9180)
    package var log = Log()

    package init(gatewayID: String) { self.gatewayID = gatewayID }

    package struct Endpoint: Sendable, Equatable {
        package var address: String
        /// 0 lets the system choose.
        package var port: Int

        package init(address: String, port: Int) {
            self.address = address
            self.port = port
        }
    }

    package struct TLS: Sendable, Equatable {
        package var certificate: String
        package var key: String
        package var clientCA: String
        package var crl: String?

        package init(certificate: String, key: String, clientCA: String, crl: String? = nil) {
            self.certificate = certificate
            self.key = key
            self.clientCA = clientCA
            self.crl = crl
        }
    }

    package struct Listener: Sendable, Equatable {
        package var endpoint: Endpoint
        /// `nil`: plaintext, on a loopback address only; clients belong to the group "local".
        package var tls: TLS?

        package init(endpoint: Endpoint, tls: TLS?) {
            self.endpoint = endpoint
            self.tls = tls
        }
    }

    /// Which field of a device's certificate is its id.
    package enum IdentitySource: String, Sendable, CaseIterable {
        case uri, commonName, subjectAltName
    }

    package struct Certificates: Sendable, Equatable {
        /// Seconds from one reading of certificates, keys and revocation lists to the next.
        package var reloadInterval: Int = 300

        package init() {}
    }

    package enum OverLimit: String, Sendable, CaseIterable {
        case refuse, slow
    }

    package struct RateLimit: Sendable, Equatable {
        /// `nil`: unlimited.
        package var messagesPerSecond: Double? = 10
        package var burst: Int = 20
        package var bytesPerSecond: Int? = 256 * 1024
        package var overLimit: OverLimit = .refuse

        package init() {}
    }

    package struct Group: Sendable, Equatable {
        package var name: String
        /// Glob patterns with `*` and `?`; a device belongs to the first group one of whose patterns matches its id.
        package var devices: [String]
        package var limits: RateLimit

        package init(name: String, devices: [String], limits: RateLimit) {
            self.name = name
            self.devices = devices
            self.limits = limits
        }
    }

    package struct AccessRule: Sendable, Equatable {
        package enum Verdict: String, Sendable, CaseIterable { case allow, deny }
        package enum Action: String, Sendable, CaseIterable { case publish, subscribe, all }

        package var verdict: Verdict
        package var action: Action
        /// A topic filter; `%d` is the device id.
        package var topic: String
        /// `nil`: every group.
        package var group: String?

        package init(verdict: Verdict, action: Action, topic: String, group: String? = nil) {
            self.verdict = verdict
            self.action = action
            self.topic = topic
            self.group = group
        }
    }

    package struct GlobalLimits: Sendable, Equatable {
        package var messagesPerSecond: Double? = 120_000
        package var connectionsPerSecond: Double? = 50
        package var connections: Int = 10_000
        /// Milliseconds that the event loop may be late before new clients are refused; `nil`: unlimited.
        package var eventLoopLag: Int? = 1_000

        package init() {}
    }

    package struct MQTT: Sendable, Equatable {
        /// Bytes.
        package var maximumPacketSize: Int = 256 * 1024
        package var receiveMaximum: Int = 32
        /// Seconds.
        package var keepAliveMaximum: Int = 300
        /// Seconds.
        package var sessionExpiryMaximum: Int = 7 * 86_400
        package var topicAliasMaximum: Int = 16
        /// Seconds from accept to CONNECT.
        package var connectTimeout: Int = 10
        /// Whether clients are told in words why something was refused, and that it was the access rules.
        package var discloseReasons = true
        /// Seconds between two reports on `$SYS/broker/…`; 0: none.
        package var systemTopicsInterval: Int = 10
        package var queuedMessagesMaximum: Int = 1_000
        package var queuedBytesMaximum: Int = 1024 * 1024
        /// Bytes that may wait for a client that does not read.
        package var slowReaderBytes: Int = 8 * 1024 * 1024
        /// Seconds in which such a client must take something.
        package var slowReaderTimeout: Int = 30

        package init() {}
    }

    /// What messages are worth when a full buffer drops: 0 goes first, 9 last.
    package struct Priority: Sendable, Equatable {
        /// A topic filter.
        package var topic: String
        package var priority: Int

        package init(topic: String, priority: Int) {
            self.topic = topic
            self.priority = priority
        }
    }

    package enum WhenFull: String, Sendable, CaseIterable {
        case refuse, slow, dropOldest
    }

    package struct Buffer: Sendable, Equatable {
        package var path: String = "/var/lib/sluice/buffer.db"
        package var maximumBytes: Int = 1024 * 1024 * 1024
        /// Seconds; `nil`: unlimited.
        package var maximumAge: Int?
        /// Percent of the file system that stays free.
        package var freeDiskFloor: Double = 10
        package var whenFull: WhenFull = .refuse
        /// Milliseconds from one commit to the next.
        package var commitDelay: Int = 0
        /// The first that matches a topic holds; without one it is 5.
        package var priorities: [Priority] = []

        package init() {}
    }

    package struct Uplink: Sendable, Equatable {
        /// https://host:port of the sync endpoint; the path is the protocol's.
        package var url: String
        package var certificate: String
        package var key: String
        package var ca: String
        /// Topic filters; what matches is synced.
        package var topics: [String] = ["#"]
        /// Milliseconds that a batch may wait for more messages.
        package var linger: Int = 1_000
        /// Seconds: while the cloud is out of reach, no pause between two attempts is longer.
        package var longestPause: Int = 120
        /// Percent of the time, of the bandwidth and of an hour's bytes that a backlog has while live data waits.
        package var backlogShare: Int = 50
        /// Compressed bytes a second; `nil`: unlimited.
        package var bandwidth: Int?
        /// Compressed bytes in each hour; `nil`: unlimited.
        package var bytesPerHour: Int?

        package init(url: String, certificate: String, key: String, ca: String) {
            self.url = url
            self.certificate = certificate
            self.key = key
            self.ca = ca
        }
    }

    /// What is done with messages before they are sent.
    package struct Local: Sendable, Equatable {
        package static let maximumRules = 32

        /// The first that is enabled and matches a topic holds.
        package var rules: [LocalRule] = []

        package init() {}
    }

    package struct LocalRule: Sendable, Equatable {
        package enum Action: String, Sendable, CaseIterable { case discard, aggregate }
        package enum Value: String, Sendable, CaseIterable { case last, mean, min, max, count }

        package var name: String
        /// A topic filter.
        package var filter: String
        package var isEnabled = true
        package var action: Action
        /// What follows is of aggregation alone. Seconds.
        package var window: Int = 60
        package var values: [Value] = []
        /// `nil`: every aggregate is sent.
        package var deadBand: Double?
        /// Seconds.
        package var maximumSilence: Int = 3_600
        package var topicSuffix: String = ""

        package init(name: String, filter: String, action: Action) {
            self.name = name
            self.filter = filter
            self.action = action
        }
    }

    package struct Log: Sendable, Equatable {
        package enum Level: String, Sendable, CaseIterable { case trace, debug, info, notice, warning, error, critical }

        package var level: Level = .info

        package init() {}
    }
}
