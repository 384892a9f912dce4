import Buffer
import CZstd
import Crypto
import Dispatch
import NIOCore
import SyncModel

/// A batch as it goes over the wire.
struct PackedBatch: Sendable {
    /// zstd.
    var body: ByteBuffer
    /// Value of the digest header, over the uncompressed bytes.
    var digest: String
    var uncompressedBytes: Int
    var lane: Lane
}

struct PackingError: Error, Equatable, CustomStringConvertible {
    var description: String
}

/// Joins stored frames into a batch, digests and compresses it, on a queue of its own: some 10 ms for 4 MiB, which
/// would hold up the tasks of a small gateway.
struct BatchPacker: Sendable {
    /// zstd's default: at higher levels a small gateway's processor is the bottleneck before the link is.
    private static let level: Int32 = 3

    private let gateway: String
    private let queue = DispatchQueue(label: "sluice.uplink.pack")

    init(gateway: String) { self.gateway = gateway }

    func pack(
        lane: Lane, frames: [StoredFrame], accounts: [EpochAccount], ledger: [LedgerLine],
        corrections: [ClockCorrection] = []
    ) async throws(PackingError) -> PackedBatch {
        let result = await withCheckedContinuation { continuation in
            queue.async { continuation.resume(returning: packNow(lane, frames, accounts, ledger, corrections)) }
        }
        return try result.get()
    }

    private func packNow(
        _ lane: Lane, _ frames: [StoredFrame], _ accounts: [EpochAccount], _ ledger: [LedgerLine],
        _ corrections: [ClockCorrection]
    ) -> Result<PackedBatch, PackingError> {
        var encoder = BatchEncoder(
            gateway: gateway, lane: lane, accounts: accounts, ledger: ledger, corrections: corrections)
        encoder.reserve(frames.reduce(0) { $0 + $1.header.readableBytes + $1.records.readableBytes + 6 })
        for frame in frames { encoder.append(header: frame.header, records: frame.records) }
        let batch = encoder.finish()
        let digest = batch.withUnsafeReadableBytes { bytes in
            var hasher = SHA256()
            hasher.update(bufferPointer: bytes)
            return hasher.finalize()
        }
        do throws(PackingError) {
            let body = try Self.compressed(batch)
            return .success(
                PackedBatch(
                    body: body, digest: SyncProtocol.digestHeaderValue(digest),
                    uncompressedBytes: batch.readableBytes, lane: lane))
        } catch {
            return .failure(error)
        }
    }

    private static func compressed(_ batch: ByteBuffer) throws(PackingError) -> ByteBuffer {
        var body = ByteBuffer()
        var failure: String?
        body.writeWithUnsafeMutableBytes(minimumWritableBytes: ZSTD_compressBound(batch.readableBytes)) { target in
            batch.withUnsafeReadableBytes { source in
                let size = ZSTD_compress(target.baseAddress, target.count, source.baseAddress, source.count, level)
                guard ZSTD_isError(size) == 0 else {
                    failure = String(cString: ZSTD_getErrorName(size))
                    return 0
                }
                return size
            }
        }
        if let failure {
            throw PackingError(description: "zstd could not compress \(batch.readableBytes) bytes: \(failure)")
        }
        return body
    }
}
