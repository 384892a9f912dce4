import CZstd
import Crypto
import NIOCore

/// Why a body cannot be read as a batch's bytes.
enum BodyError: Error, Equatable {
    case sentTooLarge(limit: Int)
    case unpackedTooLarge(limit: Int)
    /// All batches in work together hold as much as allowed.
    case overBudget
    case notZstd(String)
    /// Bytes after the end of the zstd frame.
    case trailingBytes
    /// The body ended within the zstd frame.
    case incomplete
    case outOfMemory
}

/// Unpacks a body as it arrives, in bounded memory, and computes its digest.
///
/// Memory: at most `maximumUnpackedBytes`, as the buffer doubles up to it, and zstd's window.
struct BatchBody: ~Copyable {
    /// 8 MiB, what RFC 8878 (3.1.1.1.2) recommends every decoder to support; larger windows are refused.
    private static let maximumWindowLog: Int32 = 23
    private static let step = 128 * 1024

    private let maximumSentBytes: Int
    private let maximumUnpackedBytes: Int
    private let pass: InFlightGate.Pass
    /// `nil` for a body that is sent as it is.
    private let context: OpaquePointer?
    private var hasFrameEnded = false
    private var hash = SHA256()
    private var sentBytes = 0
    private var bytes = ByteBuffer()

    init(
        isCompressed: Bool, maximumSentBytes: Int, maximumUnpackedBytes: Int, pass: InFlightGate.Pass
    ) throws(BodyError) {
        self.maximumSentBytes = maximumSentBytes
        self.maximumUnpackedBytes = maximumUnpackedBytes
        self.pass = pass
        guard isCompressed else {
            context = nil
            return
        }
        guard let context = ZSTD_createDCtx() else { throw .outOfMemory }
        ZSTD_DCtx_setParameter(context, ZSTD_d_windowLogMax, Self.maximumWindowLog)
        self.context = context
    }

    deinit { ZSTD_freeDCtx(context) }

    mutating func add(_ chunk: ByteBuffer) throws(BodyError) {
        sentBytes += chunk.readableBytes
        guard sentBytes <= maximumSentBytes else { throw .sentTooLarge(limit: maximumSentBytes) }
        guard context != nil else {
            try makeRoom(chunk.readableBytes)
            chunk.withUnsafeReadableBytes { hash.update(bufferPointer: $0) }
            bytes.writeImmutableBuffer(chunk)
            return
        }
        try unpack(chunk)
    }

    /// - Returns: the whole body and its SHA-256.
    consuming func finish() throws(BodyError) -> (bytes: ByteBuffer, digest: [UInt8]) {
        guard context == nil || hasFrameEnded else { throw .incomplete }
        return (bytes, Array(hash.finalize()))
    }

    private mutating func unpack(_ chunk: ByteBuffer) throws(BodyError) {
        var rest = chunk
        if sentBytes == chunk.readableBytes { try checkStatedSize(chunk) }
        while true {
            if hasFrameEnded {
                guard rest.readableBytes == 0 else { throw .trailingBytes }
                return
            }
            // At the limit, one byte of room elsewhere tells whether there is more.
            let isFull = bytes.readableBytes == maximumUnpackedBytes
            let room = isFull ? 1 : min(Self.step, maximumUnpackedBytes - bytes.readableBytes)
            var probe = ByteBuffer()
            let step: Step
            if isFull {
                step = try Self.step(context, &rest, into: &probe, room: room)
                guard step.produced == 0 else { throw .unpackedTooLarge(limit: maximumUnpackedBytes) }
            } else {
                try makeRoom(room)
                step = try Self.step(context, &rest, into: &bytes, room: room)
                bytes.withUnsafeReadableBytes { hash.update(bufferPointer: .init(rebasing: $0.suffix(step.produced))) }
            }
            hasFrameEnded = step.isEnd
            // All input is taken and room was left over: nothing more comes out before more comes in.
            if !step.isEnd, rest.readableBytes == 0, step.produced < room { return }
        }
    }

    /// A frame that says itself that it is too large is refused before anything is unpacked.
    private func checkStatedSize(_ chunk: ByteBuffer) throws(BodyError) {
        let size = chunk.withUnsafeReadableBytes { ZSTD_getFrameContentSize($0.baseAddress, $0.count) }
        // The two highest values mean "not stated" and "no frame".
        guard size >= UInt64.max - 1 || size <= UInt64(maximumUnpackedBytes) else {
            throw .unpackedTooLarge(limit: maximumUnpackedBytes)
        }
    }

    private mutating func makeRoom(_ count: Int) throws(BodyError) {
        let needed = bytes.readableBytes + count
        guard needed <= maximumUnpackedBytes else { throw .unpackedTooLarge(limit: maximumUnpackedBytes) }
        guard needed > bytes.capacity else { return }
        let capacity = min(max(needed, bytes.capacity * 2), maximumUnpackedBytes)
        guard pass.hold(capacity) else { throw .overBudget }
        bytes.reserveCapacity(capacity)
    }

    private struct Step {
        var produced = 0
        var isEnd = false
    }

    private static func step(
        _ context: OpaquePointer?, _ input: inout ByteBuffer, into output: inout ByteBuffer, room: Int
    ) throws(BodyError) -> Step {
        var code = 0
        var consumed = 0
        let produced = input.withUnsafeReadableBytes { source in
            output.writeWithUnsafeMutableBytes(minimumWritableBytes: room) { target in
                var source = ZSTD_inBuffer(src: source.baseAddress, size: source.count, pos: 0)
                var target = ZSTD_outBuffer(dst: target.baseAddress, size: room, pos: 0)
                code = ZSTD_decompressStream(context, &target, &source)
                consumed = source.pos
                return target.pos
            }
        }
        input.moveReaderIndex(forwardBy: consumed)
        guard ZSTD_isError(code) == 0 else { throw .notZstd(String(cString: ZSTD_getErrorName(code))) }
        return Step(produced: produced, isEnd: code == 0)
    }
}
