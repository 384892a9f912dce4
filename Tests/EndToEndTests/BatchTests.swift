import Foundation
import Testing

extension EndToEnd {
    /// Batches that a gateway's certificate posts, but no gateway would: made by hand with zstd and curl.
    @Suite(.serialized) struct BatchTests {
        /// - Parameter make: a shell command whose output is the batch, unpacked.
        private func post(_ cluster: Cluster, make: String, digest: String? = nil) async throws -> ToolResult {
            let given = digest ?? "$(sha256sum plain | cut -d ' ' -f 1)"
            let script = """
                set -eu; cd "$0"; \(make) > plain; zstd -q -f plain -o packed
                curl -sS -m 20 --cacert pki/ca.crt --cert pki/gateways/plant-7.crt --key pki/gateways/plant-7.key \
                -H 'Content-Type: application/vnd.sluice.batch' -H 'Content-Encoding: zstd' \
                -H "Sluice-Digest: sha-256=\(given)" --data-binary @packed -w '\\n%{http_code}' \
                https://localhost:\(cluster.syncPort)/v1/batches
                """
            return try await run("bash", ["-c", script, cluster.folder.path], within: 30)
        }

        @Test func whatIsNoBatchIsRefusedAndLeavesNothing() async throws {
            try await withCluster(.init()) { cluster in
                try await cluster.startCloud()
                // Field 1 of wire type 7, which no protobuf has.
                let malformed = try await post(cluster, make: #"printf '\017\001\002\003'"#)
                #expect(malformed.output.hasSuffix("\n422"), "\(malformed.output)")
                #expect(malformed.output.contains(#""reason""#), "\(malformed.output)")
                let falsified = try await post(
                    cluster, make: "printf x", digest: String(repeating: "0", count: 64))
                #expect(falsified.output.hasSuffix("\n422"), "\(falsified.output)")
                // 80 MB of zeros are a few KB as zstd sends them.
                let bomb = try await post(cluster, make: "head -c 80000000 /dev/zero")
                #expect(bomb.output.hasSuffix("\n413"), "\(bomb.output)")

                let refusals = cluster.cloudLog.split(separator: "\n").filter {
                    $0.contains("\"reason\"") || $0.contains("refused")
                }
                #expect(refusals.count >= 3, "\(cluster.cloudLog)")
                #expect(await cluster.cloudIsRunning)
                try await Task.sleep(for: .milliseconds(500))
                #expect(try await cluster.count("SELECT count(*) FROM gateway") == 0)
                #expect(try await cluster.count("SELECT count(*) FROM event") == 0)
            }
        }
    }
}
