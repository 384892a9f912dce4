// swift-tools-version: 6.2
import PackageDescription

let settings: [SwiftSetting] = [
    .enableUpcomingFeature("ExistentialAny"),
    .enableUpcomingFeature("MemberImportVisibility"),
    .treatAllWarnings(as: .error),
]

/// For what the simulation of the edge runs: in a build for debugging generic code over bytes is not specialised, and a seed
/// would take ten times as long. Assertions stay.
let fast = settings + [.unsafeFlags(["-O", "-assert-config", "Debug"], .when(configuration: .debug))]

let nio = Target.Dependency.product(name: "NIOCore", package: "swift-nio")
let nioPosix = Target.Dependency.product(name: "NIOPosix", package: "swift-nio")
let nioHTTP1 = Target.Dependency.product(name: "NIOHTTP1", package: "swift-nio")
let nioSSL = Target.Dependency.product(name: "NIOSSL", package: "swift-nio-ssl")
let nioFoundation = Target.Dependency.product(name: "NIOFoundationCompat", package: "swift-nio")
let nioTestUtils = Target.Dependency.product(name: "NIOTestUtils", package: "swift-nio")
let nioEmbedded = Target.Dependency.product(name: "NIOEmbedded", package: "swift-nio")
let logging = Target.Dependency.product(name: "Logging", package: "swift-log")
let metrics = Target.Dependency.product(name: "Metrics", package: "swift-metrics")
let lifecycle = Target.Dependency.product(name: "ServiceLifecycle", package: "swift-service-lifecycle")
let unixSignals = Target.Dependency.product(name: "UnixSignals", package: "swift-service-lifecycle")
let x509 = Target.Dependency.product(name: "X509", package: "swift-certificates")
let asn1 = Target.Dependency.product(name: "SwiftASN1", package: "swift-asn1")
let crypto = Target.Dependency.product(name: "Crypto", package: "swift-crypto")
let yams = Target.Dependency.product(name: "Yams", package: "Yams")
let arguments = Target.Dependency.product(name: "ArgumentParser", package: "swift-argument-parser")
let hummingbird = Target.Dependency.product(name: "Hummingbird", package: "hummingbird")
let hummingbirdCore = Target.Dependency.product(name: "HummingbirdCore", package: "hummingbird")
let hummingbirdTLS = Target.Dependency.product(name: "HummingbirdTLS", package: "hummingbird")
let httpTypes = Target.Dependency.product(name: "HTTPTypes", package: "swift-http-types")
let httpClient = Target.Dependency.product(name: "AsyncHTTPClient", package: "async-http-client")
let atomics = Target.Dependency.product(name: "Atomics", package: "swift-atomics")
let deque = Target.Dependency.product(name: "DequeModule", package: "swift-collections")
let heap = Target.Dependency.product(name: "HeapModule", package: "swift-collections")
let concurrency = Target.Dependency.product(name: "NIOConcurrencyHelpers", package: "swift-nio")

/// Each room of `Sources` in turn; an arrow of the design is a dependency here and nowhere else.
func room(
    _ folder: String, _ name: String, _ dependencies: [Target.Dependency] = [], _ settings: [SwiftSetting] = settings
) -> Target {
    .target(
        name: name, dependencies: dependencies, path: "Sources/\(folder)/\(name)", swiftSettings: settings)
}
func program(_ name: String, _ dependencies: [Target.Dependency]) -> Target {
    .executableTarget(
        name: name, dependencies: dependencies, path: "Sources/Programs/\(name)", swiftSettings: settings)
}
func tests(_ name: String, _ dependencies: [Target.Dependency], _ settings: [SwiftSetting] = settings) -> Target {
    .testTarget(
        name: "\(name)Tests", dependencies: dependencies, path: "Tests/\(name)Tests", swiftSettings: settings)
}
func library(_ name: String) -> Target {
    .systemLibrary(name: name, path: "Sources/System/\(name)")
}

let package = Package(
    name: "sluice",
    products: [
        .executable(name: "sluice-edge", targets: ["sluice-edge"]),
        .executable(name: "sluice-cloud", targets: ["sluice-cloud"]),
        .executable(name: "sluice", targets: ["sluice"]),
    ],
    dependencies: [
        .package(url: "https://github.com/apple/swift-nio.git", from: "2.101.0"),
        .package(url: "https://github.com/apple/swift-nio-ssl.git", from: "2.37.0"),
        .package(url: "https://github.com/apple/swift-log.git", from: "1.14.0"),
        .package(url: "https://github.com/apple/swift-metrics.git", from: "2.9.0"),
        .package(url: "https://github.com/apple/swift-atomics.git", from: "1.3.0"),
        .package(url: "https://github.com/apple/swift-collections.git", from: "1.3.0"),
        .package(url: "https://github.com/apple/swift-certificates.git", from: "1.21.0"),
        .package(url: "https://github.com/apple/swift-asn1.git", from: "1.7.0"),
        .package(url: "https://github.com/apple/swift-crypto.git", "3.12.3"..<"5.0.0"),
        .package(url: "https://github.com/apple/swift-argument-parser.git", from: "1.8.0"),
        .package(url: "https://github.com/swift-server/swift-service-lifecycle.git", from: "2.13.0"),
        .package(url: "https://github.com/swift-server/async-http-client.git", from: "1.37.0"),
        .package(url: "https://github.com/hummingbird-project/hummingbird.git", from: "2.28.0"),
        .package(url: "https://github.com/apple/swift-http-types.git", from: "1.8.0"),
        .package(url: "https://github.com/jpsim/Yams.git", from: "6.2.0"),
    ],
    targets: [
        // System: C libraries of the distribution
        library("CSQLite"), library("CPostgres"), library("CRDKafka"), library("CMosquitto"), library("CZstd"),
        library("CTimex"), library("CMalloc"),

        // Core: pure values
        room("Core", "MQTTWire", [nio], fast),
        room("Core", "MQTTSession", ["MQTTWire", "SyncModel", "LocalWork", "Flow", "Sparkplug", nio, deque], fast),
        room("Core", "Flow", [], fast),
        room("Core", "Sparkplug", [nio]),
        room("Core", "SyncModel", ["Flow", nio, heap], fast),
        room("Core", "LocalWork", ["SyncModel", nio], fast),

        // Operations: what an operator sees and sets
        room(
            "Operations", "Operations",
            [
                "CTimex", "CMalloc", "SyncModel",
                logging, metrics, yams, nio, nioHTTP1, nioPosix, lifecycle, concurrency, atomics,
            ]),
        room("Operations", "PKI", ["Operations", x509, asn1, crypto, nioSSL, nio]),
        room("Operations", "Simulator", ["CMosquitto", "SyncModel", "Operations", concurrency, crypto]),

        // Edge
        room(
            "Edge", "Buffer",
            [
                "CSQLite", "SyncModel", "LocalWork", "MQTTSession", "MQTTWire", "Operations", nio, nioPosix, logging,
                concurrency, atomics,
            ], fast),
        room(
            "Edge", "Gateway",
            [
                "Buffer", "MQTTSession", "MQTTWire", "LocalWork", "Flow", "Sparkplug", "SyncModel", "Operations", "PKI",
                nio, nioPosix, nioSSL, logging, lifecycle, concurrency, atomics, deque,
            ]),
        room(
            "Edge", "Uplink",
            [
                "Buffer", "SyncModel", "Flow", "Operations", "PKI", "CZstd",
                httpClient, metrics, nioHTTP1, nio, nioSSL, nioPosix, logging, lifecycle, concurrency, crypto,
            ]),

        // Cloud
        room(
            "Cloud", "EventLog",
            ["CSQLite", "CRDKafka", "SyncModel", "Operations", logging, metrics, concurrency, atomics, nio]),
        room("Cloud", "Database", ["CPostgres", "SyncModel", "Operations", logging, nio, concurrency]),
        room(
            "Cloud", "Ingest",
            [
                "EventLog", "SyncModel", "Flow", "Operations", "PKI", "CZstd",
                hummingbird, hummingbirdCore, hummingbirdTLS, httpTypes, nio, nioSSL, nioPosix, logging, lifecycle,
                concurrency, crypto,
            ]),
        room(
            "Cloud", "Processor",
            [
                "EventLog", "Database", "DeadLetters", "ObjectStore", "SyncModel", "Sparkplug", "Flow", "Operations",
                logging, metrics, lifecycle, concurrency, nio, crypto,
            ]),
        room(
            "Cloud", "ObjectStore",
            [
                "Flow", "Operations", httpClient, nio, nioPosix, nioHTTP1, nioSSL, nioFoundation, crypto, logging,
                metrics,
                concurrency,
            ]),
        room(
            "Cloud", "DeadLetters",
            [
                "ObjectStore", "EventLog", "Database", "SyncModel", "Operations", "CZstd", nio, crypto, logging,
                metrics,
                concurrency,
            ]),
        room(
            "Cloud", "Lifecycle",
            ["Database", "SyncModel", "Operations", nio, logging, metrics, lifecycle, concurrency]),
        room(
            "Cloud", "Archive",
            [
                "ObjectStore", "Database", "SyncModel", "Operations", "CZstd", nio, crypto, logging, metrics, lifecycle,
                concurrency,
            ]),
        room(
            "Cloud", "Audit",
            ["Database", "EventLog", "Archive", "DeadLetters", "ObjectStore", "SyncModel", "Operations", logging]),

        // Programs: argument parsing and wiring
        program(
            "sluice-edge",
            [
                "Gateway", "Uplink", "Buffer", "MQTTSession", "SyncModel", "Flow", "Operations", "PKI", nioPosix,
                arguments,
                lifecycle, unixSignals, logging, metrics,
            ]),
        program(
            "sluice-cloud",
            [
                "Ingest", "Processor", "EventLog", "Database", "DeadLetters", "ObjectStore", "Lifecycle", "Archive",
                "Flow", "Operations", "PKI",
                arguments, lifecycle, unixSignals, logging, metrics,
            ]),
        program(
            "sluice",
            [
                "PKI", "Simulator", "Audit", "Buffer", "Database", "EventLog", "Processor", "DeadLetters",
                "ObjectStore",
                "Lifecycle", "Archive", "SyncModel", "Operations", arguments, logging, nio,
            ]),

        .executableTarget(
            name: "sluice-bench",
            dependencies: ["MQTTWire", nio, nioPosix, nioSSL, arguments, deque],
            path: "Benchmarks/sluice-bench", swiftSettings: settings),
        .executableTarget(
            name: "sluice-cloud-bench",
            dependencies: [
                "Ingest", "Processor", "EventLog", "Database", "SyncModel", "Operations", "PKI", "CZstd", "CRDKafka",
                httpClient, nio, nioPosix, nioHTTP1, nioSSL, arguments, logging, metrics, lifecycle, crypto,
            ],
            path: "Benchmarks/sluice-cloud-bench", swiftSettings: settings),

        // Tests: one folder a target
        .target(
            name: "TestSupport", dependencies: ["EventLog", "CRDKafka", logging, concurrency],
            path: "Tests/TestSupport",
            swiftSettings: settings),
        tests("MQTTWire", ["MQTTWire", "Flow", nio]),
        tests("MQTTSession", ["MQTTSession", "MQTTWire", "SyncModel", "Flow", "Sparkplug", "TestSupport", nio]),
        tests("Flow", ["Flow"]),
        tests("Sparkplug", ["Sparkplug", "TestSupport", nio]),
        tests("SyncModel", ["SyncModel", "Flow", nio, crypto]),
        tests("LocalWork", ["LocalWork", "SyncModel", "Flow", nio]),
        tests("Operations", ["Operations", "SyncModel", logging, metrics, lifecycle, nio, nioPosix]),
        tests("PKI", ["PKI", "Operations", x509, asn1, crypto, nio, nioPosix, nioSSL]),
        tests("Simulator", ["Simulator", "Operations"]),
        tests("Architecture", ["Operations", "TestSupport"]),
        tests(
            "EndToEnd", ["EventLog", "SyncModel", "Flow", "Operations", "PKI", "TestSupport", nio, nioPosix, logging]),
        .executableTarget(
            name: "buffer-driver",
            dependencies: ["Buffer", "SyncModel", "MQTTSession", "MQTTWire", nio, logging], path: "Tests/BufferDriver",
            swiftSettings: settings),
        tests(
            "Buffer",
            [
                "Buffer", "Flow", "SyncModel", "LocalWork", "MQTTSession", "MQTTWire", "Operations", "CSQLite",
                "TestSupport",
                "buffer-driver",
                nio, nioPosix, logging, concurrency,
            ]),
        tests(
            "Simulation",
            [
                "Buffer", "Flow", "SyncModel", "LocalWork", "MQTTSession", "MQTTWire", "Operations", "CSQLite", nio,
                logging,
                concurrency,
            ], fast),
        tests(
            "Gateway",
            [
                "Gateway", "GatewaySupport", "TestSupport", "Buffer", "MQTTSession", "MQTTWire", "SyncModel",
                "Operations", "PKI",
                "Flow",
                nio, nioPosix, nioSSL, logging, lifecycle,
            ]),
        .target(
            name: "GatewaySupport",
            dependencies: [
                "Gateway", "Buffer", "MQTTWire", "SyncModel", "Operations", nio, nioPosix, nioSSL, logging, lifecycle,
            ], path: "Tests/GatewaySupport", swiftSettings: settings),
        .testTarget(
            name: "InteroperabilityTests",
            dependencies: ["GatewaySupport", "MQTTWire", "Operations", nio], path: "Tests/InteroperabilityTests",
            exclude: ["paho.yaml"], swiftSettings: settings),
        tests(
            "EventLog",
            ["EventLog", "Operations", "CSQLite", "CRDKafka", "TestSupport", nio, logging, metrics, concurrency]),
        tests(
            "Ingest",
            [
                "Ingest", "EventLog", "SyncModel", "Operations", "PKI", "CZstd", "TestSupport",
                httpClient, nio, nioSSL, nioHTTP1, logging, lifecycle, concurrency, crypto,
            ]),
        tests(
            "Uplink",
            [
                "Uplink", "Buffer", "SyncModel", "Flow", "Operations", "CZstd", "TestSupport",
                nio, nioHTTP1, nioPosix, nioSSL, x509, asn1, crypto, logging, lifecycle, concurrency,
            ]),
        tests(
            "Audit",
            ["Audit", "Processor", "Database", "EventLog", "SyncModel", "Operations", "TestSupport", logging, nio]),
        tests("Database", ["Database", "TestSupport", nio]),
        tests(
            "ObjectStore",
            ["ObjectStore", "TestSupport", "Operations", nio, nioPosix, nioHTTP1, nioSSL, logging, concurrency]),
        tests(
            "DeadLetters",
            [
                "DeadLetters", "ObjectStore", "Processor", "EventLog", "Database", "Audit", "SyncModel", "Flow",
                "TestSupport", logging, nio, concurrency,
            ]),
        tests(
            "Lifecycle",
            [
                "Lifecycle", "Processor", "EventLog", "Database", "Audit", "SyncModel", "TestSupport", logging,
                lifecycle,
                nio, concurrency,
            ]),
        tests(
            "Archive",
            [
                "Archive", "Lifecycle", "ObjectStore", "Processor", "EventLog", "Database", "Audit", "SyncModel",
                "TestSupport",
                "Operations", logging, lifecycle, nio, concurrency,
            ]),
        tests(
            "CloudFault",
            [
                "Processor", "Flow", "Ingest", "EventLog", "Database", "Audit", "DeadLetters", "ObjectStore",
                "SyncModel",
                "Operations", "TestSupport", "CRDKafka", logging, metrics, lifecycle, nio, nioPosix, concurrency,
            ]),
        tests(
            "Processor",
            [
                "Processor", "Database", "EventLog", "DeadLetters", "ObjectStore", "SyncModel", "Sparkplug", "Flow",
                "Operations", "TestSupport", logging, metrics, lifecycle, nio, concurrency,
            ]),
    ],
    swiftLanguageModes: [.v6]
)
