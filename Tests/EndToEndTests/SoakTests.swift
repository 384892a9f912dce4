import Foundation
import Testing

extension EndToEnd {
    /// The daemon's memory under a fleet whose cloud is away.
    @Suite(.serialized) struct SoakTests {
        /// A minute of what `Benchmarks/soak.sh` does for an hour; `SLUICE_TEST_SOAK` is the messages a second of each of the
        /// thousand devices. A debug build takes 2,300 in all.
        @Test func aThousandDevicesTakeNoMemoryThatGrows() async throws {
            let rate = ProcessInfo.processInfo.environment["SLUICE_TEST_SOAK"] ?? "2"
            let folder = FileManager.default.temporaryDirectory.appendingPathComponent(
                "sluice-soak-\(UUID().uuidString)")
            defer { try? FileManager.default.removeItem(at: folder) }
            let result = try await run(
                "/usr/bin/env",
                [
                    "BENCH_BIN=\(Binaries.folder)",
                    "BENCH_DIR=\(folder.path)", "SOAK_SECONDS=60", "SOAK_RATE=\(rate)",
                    Repository.path("Benchmarks/soak.sh"),
                ], within: 240)
            print(result.output)
            #expect(result.status == 0 && result.output.contains("1000 devices"), "\(result.output)")
        }
    }
}
