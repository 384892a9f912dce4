import Foundation
import Operations
import PKI
import Testing

/// Seconds since 1970 at which the fixtures are made.
let now = Int64(Date().timeIntervalSince1970)

/// A folder that is removed with its last reference.
final class Folder: Sendable {
    let path: String

    init() throws {
        path = NSTemporaryDirectory() + "sluice-pki-" + UUID().uuidString
        try FileManager.default.createDirectory(atPath: path, withIntermediateDirectories: true)
    }

    deinit { try? FileManager.default.removeItem(atPath: path) }

    func write(_ text: String, to name: String) throws -> String {
        let file = "\(path)/\(name)"
        try Data(text.utf8).write(to: URL(fileURLWithPath: file))
        return file
    }
}

struct Outcome {
    var status: Int32
    var output: String
}

/// Runs OpenSSL, the judge that this project did not write; on a thread of its own, since waiting for it blocks.
@discardableResult
func openssl(_ arguments: String...) async throws -> Outcome {
    try await withCheckedThrowingContinuation { continuation in
        DispatchQueue.global().async { continuation.resume(with: Result { try runOpenSSL(arguments) }) }
    }
}

private func runOpenSSL(_ arguments: [String]) throws -> Outcome {
    let process = Process()
    process.executableURL = URL(fileURLWithPath: "/usr/bin/openssl")
    process.arguments = arguments
    let output = Pipe()
    process.standardOutput = output
    process.standardError = output
    process.standardInput = FileHandle.nullDevice
    try process.run()
    let data = output.fileHandleForReading.readDataToEndOfFile()
    process.waitUntilExit()
    return Outcome(status: process.terminationStatus, output: String(decoding: data, as: UTF8.self))
}

func contents(_ file: String) throws -> String { try String(contentsOfFile: file, encoding: .utf8) }

extension PKIDirectory {
    func issue(_ kind: PeerRole.Kind, _ ids: String..., days: Int? = nil, force: Bool = false, at time: Int64 = now)
        throws
    {
        try issue(
            ids.map { Request(role: try PeerRole(kind, id: $0)) }, days: days, force: force, now: time)
    }

    func issueServer(_ name: String, dns: [String] = ["localhost"], ip: [String] = ["127.0.0.1", "::1"]) throws {
        try issue(
            [
                Request(
                    role: try PeerRole(.server, id: name),
                    names: try dns.map(ServerName.dns) + ip.map(ServerName.address))
            ], now: now)
    }

    func file(_ kind: PeerRole.Kind, _ id: String) throws -> String { certificate(try PeerRole(kind, id: id)) }
    func keyFile(_ kind: PeerRole.Kind, _ id: String) throws -> String { key(try PeerRole(kind, id: id)) }
}
