// swift-tools-version: 6.2
import PackageDescription

// Built by scripts/fuzz.sh with coverage feedback; its sources are those of the main package, by symbolic links.
let feedback: [SwiftSetting] = [
    .enableUpcomingFeature("ExistentialAny"),
    .enableUpcomingFeature("MemberImportVisibility"),
    .treatAllWarnings(as: .error),
    .unsafeFlags(["-sanitize=fuzzer", "-enable-testing"]),
]
let nio = Target.Dependency.product(name: "NIOCore", package: "swift-nio")
let deque = Target.Dependency.product(name: "DequeModule", package: "swift-collections")

/// libFuzzer without a `main` of its own: the programs call it.
let runtime = LinkerSetting.unsafeFlags([Context.environment["FUZZER_RUNTIME"] ?? "", "-lstdc++"])

let package = Package(
    name: "fuzz",
    dependencies: [
        .package(url: "https://github.com/apple/swift-nio.git", from: "2.101.0"),
        .package(url: "https://github.com/apple/swift-collections.git", from: "1.3.0"),
    ],
    targets: [
        .target(name: "Flow", swiftSettings: feedback),
        .target(name: "Sparkplug", dependencies: [nio], swiftSettings: feedback),
        .target(name: "MQTTWire", dependencies: [nio], swiftSettings: feedback),
        .target(name: "SyncModel", dependencies: ["Flow", nio], swiftSettings: feedback),
        .target(
            name: "MQTTSession", dependencies: ["MQTTWire", "SyncModel", "Flow", "Sparkplug", nio, deque],
            swiftSettings: feedback),
        .executableTarget(
            name: "decoder", dependencies: ["MQTTWire", "Flow", nio], swiftSettings: feedback,
            linkerSettings: [runtime]),
        .executableTarget(
            name: "session", dependencies: ["MQTTSession", "MQTTWire", "SyncModel", "Flow", nio],
            swiftSettings: feedback, linkerSettings: [runtime]),
    ],
    swiftLanguageModes: [.v6]
)
