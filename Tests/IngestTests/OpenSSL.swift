import AsyncHTTPClient
import Foundation
import NIOCore
import NIOHTTP1
import NIOSSL
import PKI
import SyncModel

/// Sends a request through `openssl s_client` as the gateway plant-7, and gives all that it printed. By default a request
/// without a digest, which an accepted gateway gets a 400 for.
func openssl(
    _ ingest: TestIngest, _ arguments: [String],
    request: String = "POST /v1/batches HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
) async throws -> String {
    // Not on the cooperative pool, where the server itself has to run meanwhile.
    try await withCheckedThrowingContinuation { continuation in
        Thread.detachNewThread {
            continuation.resume(with: Result { try runOpenSSL(ingest, arguments, request: request) })
        }
    }
}

private func runOpenSSL(_ ingest: TestIngest, _ arguments: [String], request: String) throws -> String {
    let process = Process()
    process.executableURL = URL(fileURLWithPath: "/usr/bin/timeout")
    process.arguments =
        [
            "15", "openssl", "s_client", "-connect", "127.0.0.1:\(ingest.port)", "-servername", "localhost", "-ign_eof",
            "-CAfile", ingest.pki.directory.authorityCertificate,
            "-cert", ingest.pki.directory.certificate(TestPKI.plant),
            "-key", ingest.pki.directory.key(TestPKI.plant),
        ] + arguments
    let (input, output) = (Pipe(), Pipe())
    process.standardInput = input
    process.standardOutput = output
    process.standardError = output
    try process.run()
    try input.fileHandleForWriting.write(contentsOf: Data(request.utf8))
    try input.fileHandleForWriting.close()
    let text = String(decoding: output.fileHandleForReading.readDataToEndOfFile(), as: UTF8.self)
    process.waitUntilExit()
    return text
}

/// A request with a TLS configuration of the test's own.
func postRaw(_ ingest: TestIngest, tls: TLSConfiguration) async throws {
    let client = HTTPClient(configuration: .init(tlsConfiguration: tls))
    var request = HTTPClientRequest(url: "https://localhost:\(ingest.port)\(SyncProtocol.path)")
    request.method = .POST
    do {
        _ = try await client.execute(request, timeout: .seconds(10))
    } catch {
        try await client.shutdown()
        throw error
    }
    try await client.shutdown()
}
