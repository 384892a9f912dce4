/// Names and bounds of the HTTP request that carries a batch; `docs/sync-protocol.md` describes it.
package enum SyncProtocol {
    package static let path = "/v1/batches"
    package static let contentType = "application/vnd.sluice.batch"
    package static let contentEncoding = "zstd"
    /// SHA-256 over the uncompressed body: `sha-256=` and 64 lower-case hexadecimal digits.
    package static let digestHeader = "Sluice-Digest"
    /// `backlog` where the batch is of that lane, so that the cloud can refuse it before it reads the body.
    package static let laneHeader = "Sluice-Lane"
    package static let backlogLane = "backlog"
    package static let digestPrefix = "sha-256="

    /// Of the body as sent; more is answered with 413.
    package static let maximumSentBytes = 8 * 1024 * 1024
    /// Of the body unpacked; more is answered with 413.
    package static let maximumUnpackedBytes = 64 * 1024 * 1024

    /// The value of `digestHeader`.
    package static func digestHeaderValue(_ digest: some Sequence<UInt8>) -> String {
        digestPrefix + hexadecimal(bytes: digest)
    }

    /// The 32 bytes of a digest header, `nil` when it is malformed.
    package static func digest(fromHeader value: String) -> [UInt8]? {
        guard value.hasPrefix(digestPrefix) else { return nil }
        let digits = Array(value.utf8.dropFirst(digestPrefix.utf8.count))
        guard digits.count == 64 else { return nil }
        var bytes: [UInt8] = []
        for index in stride(from: 0, to: 64, by: 2) {
            guard let byte = hexadecimalValue(digits[index..<(index + 2)]) else { return nil }
            bytes.append(UInt8(byte))
        }
        return bytes
    }
}

/// Two lower-case digits a byte.
private func hexadecimal(bytes: some Sequence<UInt8>) -> String {
    let digits = Array("0123456789abcdef".utf8)
    var text: [UInt8] = []
    for byte in bytes {
        text.append(digits[Int(byte >> 4)])
        text.append(digits[Int(byte & 0x0F)])
    }
    return String(decoding: text, as: UTF8.self)
}
