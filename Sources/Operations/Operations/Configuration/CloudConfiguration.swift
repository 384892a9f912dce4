/// Which parts of the cloud daemon a process runs.
package enum CloudRole: String, Sendable, CaseIterable {
    case ingest, process, api, all

    package var ingests: Bool { self == .ingest || self == .all }
    package var processes: Bool { self == .process || self == .all }
}

/// The cloud daemon's configuration, checked and with every default filled in. The keys and defaults are documented in
/// `cloud/config/sluice-cloud.yaml`.
package struct CloudConfiguration: Sendable, Equatable {
    /// The sync endpoint; `nil` only where the role does not ingest.
    package var listener: Listener?
    package var eventLog: EventLog = .embedded(Embedded())
    package var database = Database()
    package var processor = Processor()
    package var status = EdgeConfiguration.Endpoint(address: "127.0.0.1", port: 9181)
    package var limits = Limits()
    package var log = EdgeConfiguration.Log()
    /// Where dead letters and the cold archive are kept; `nil`: nowhere.
    package var objects: Objects?
    /// Needs `objects`; `nil`: nothing is archived.
    package var archive: Archive?
    package var lifecycle = Lifecycle()
    package var shutdown = Shutdown()

    package init() {}

    /// How the daemon ends.
    package struct Shutdown: Sendable, Equatable {
        /// Seconds from SIGTERM to the end; what does not end by itself is cut off then.
        package var within = 30
        /// Keeps how long the last shutdown took, for the metrics of the next start.
        package var stateFile = "/var/lib/sluice/cloud-shutdown"

        package init() {}
    }

    package struct Listener: Sendable, Equatable {
        package var endpoint = EdgeConfiguration.Endpoint(address: "0.0.0.0", port: 8443)
        package var tls: EdgeConfiguration.TLS

        package init(tls: EdgeConfiguration.TLS) { self.tls = tls }
    }

    package enum EventLog: Sendable, Equatable {
        case embedded(Embedded)
        case kafka(Kafka)
    }

    /// One file of this process; needs the role `all`.
    package struct Embedded: Sendable, Equatable {
        package var path = "/var/lib/sluice/event-log.db"
        package var partitions = 32
        /// Seconds in which the log is open; at least 72 hours, whatever was consumed.
        package var retention = 72 * 3_600

        package init() {}
    }

    package struct Kafka: Sendable, Equatable {
        /// `host:port`
        package var brokers: [String]
        package var topic = "sensor-data"
        /// librdkafka's properties, beyond those that the daemon sets for itself.
        package var properties: [String: String] = [:]
        /// Lines of `name=value`, for secrets; they win over `properties`.
        package var propertiesFile: String?
        /// `nil`: plaintext, or what `properties` say.
        package var tls: KafkaTLS?
        package var sasl: KafkaSASL?
        /// Seconds after which a processor that gives no sign of life loses its partitions; at most 10.
        package var sessionTimeout = 10

        package init(brokers: [String]) { self.brokers = brokers }
    }

    package struct Database: Sendable, Equatable {
        /// As libpq takes it; without a password unless the host is this machine.
        package var url = "postgresql:///sluice"
        /// A file whose first line is the password.
        package var passwordFile: String?

        package init() {}
    }

    package struct KafkaTLS: Sendable, Equatable {
        /// PEM; `nil`: the certificates that the system trusts.
        package var ca: String?
        /// PEM; with its key or not at all.
        package var certificate: String?
        package var key: String?
        /// A file whose first line opens the key.
        package var keyPasswordFile: String?

        package init() {}
    }

    package struct KafkaSASL: Sendable, Equatable {
        package enum Mechanism: String, Sendable, CaseIterable {
            case plain = "PLAIN"
            case scramSHA256 = "SCRAM-SHA-256"
            case scramSHA512 = "SCRAM-SHA-512"
        }

        package var mechanism: Mechanism
        package var user: String
        /// A file whose first line is the password.
        package var passwordFile: String

        package init(mechanism: Mechanism, user: String, passwordFile: String) {
            self.mechanism = mechanism
            self.user = user
            self.passwordFile = passwordFile
        }
    }

    package struct Processor: Sendable, Equatable {
        /// Where a payload has its own time; a dotted path. `nil`: the gateway's time counts.
        package var timeField: String?
        /// Days in which rows are expected; times before are stored at ingest time and flagged.
        package var hotDays = 90
        package var metricsPerMessage = 256
        package var metricsPerDevice = 1_000
        /// The name under which this process is known to its group, the same after a restart; `nil`: the host's name.
        package var member: String?
        /// Whether an orderly stop hands the partitions to the others at once, or keeps them for `sessionTimeout`.
        package var leavesGroup = true
        package var breaker = Breaker()
        package var fallback = Fallback.pause

        package init() {}
    }

    /// Keeps the processor from a database that does not answer. Times are seconds.
    package struct Breaker: Sendable, Equatable {
        package var window = 10
        /// Calls in the window before they are judged.
        package var minimumCalls = 5
        /// Percent of failed calls at which it opens.
        package var failureRate = 50
        package var openFor = 30
        /// Calls that succeed before it closes.
        package var probes = 1
        /// With `sample`: a call that takes longer counts as failed.
        package var slowCall = 5

        package init() {}
    }

    /// What becomes of messages while the breaker is open.
    package enum Fallback: String, Sendable, CaseIterable {
        case pause, deadLetter, sample
    }

    package struct Limits: Sendable, Equatable {
        /// Bytes of a batch as it is sent.
        package var batchBytes = 8 * 1024 * 1024
        /// Bytes of a batch when unpacked.
        package var unpackedBytes = 64 * 1024 * 1024
        package var connections = 1_000
        /// Seconds for one request.
        package var requestTimeout = 60
        /// Batches in work at a time; more get 429 and a Retry-After.
        package var batchesInFlight = 16
        /// The same for gateways' backlogs, beside those.
        package var backlogBatchesInFlight = 4
        /// Messages that all backlogs together may bring in a second; `nil`: unlimited.
        package var backlogMessagesPerSecond: Int? = 100_000
        /// Live messages of all gateways in a second; `nil`: unlimited.
        package var messagesPerSecond: Int? = 120_000
        /// The same for each gateway.
        package var gatewayMessagesPerSecond: Int? = 60_000
        package var gatewayBacklogMessagesPerSecond: Int? = 100_000
        /// Of each gateway.
        package var gatewayBatchesInFlight = 4
        package var gatewayBacklogBatchesInFlight = 2
        /// Messages a second of a device beyond which it is reported; refuses nothing. `nil`: any rate is expected.
        package var expectedDeviceMessagesPerSecond: Int? = 10

        package init() {}
    }

    package enum Objects: Sendable, Equatable {
        /// A folder of this machine.
        case folder(String)
        case s3(S3)

        /// As a person looks for it.
        package var place: String {
            switch self {
            case .folder(let path): path
            case .s3(let s3): "the bucket \(s3.bucket)\(s3.prefix.isEmpty ? "" : " under \(s3.prefix)")"
            }
        }
    }

    /// A bucket of S3, or of a server that speaks its protocol. Its keys are never in the configuration.
    package struct S3: Sendable, Equatable {
        /// `http://host:port` or `https://host:port`; `nil`: AWS, in the region.
        package var endpoint: String?
        package var region = "us-east-1"
        package var bucket: String
        /// Before every key: empty, or parts that each end with a slash.
        package var prefix = ""
        /// Where the bucket's name stands; `nil`: in the path with an endpoint, in the host without.
        package var addressing: Addressing?
        /// As the AWS tools have it: `aws_access_key_id = …` and so on.
        package var credentialsFile: String?
        /// PEM of the authorities that may have signed the server's certificate; `nil`: the system's.
        package var ca: String?
        /// PEM of a client certificate and its key, where the server demands one.
        package var certificate: String?
        package var key: String?

        package init(bucket: String) { self.bucket = bucket }

        package enum Addressing: String, Sendable, CaseIterable {
            case path, host
        }
    }

    /// Whole UTC days of rows, kept in `objects`. Seconds.
    package struct Archive: Sendable, Equatable {
        /// Days that ended so long ago are archived.
        package var after = 85 * 86_400
        /// Archived days that ended so long ago are deleted.
        package var keep = 730 * 86_400

        package init() {}
    }

    /// What becomes of rows with time; `processor.hotDays` says how long they stay.
    package struct Lifecycle: Sendable, Equatable {
        /// Days that hourly roll-ups are kept; daily ones stay.
        package var rollupDays = 730

        package init() {}
    }
}
