import CZstd
import NIOCore

/// Unpacks a body without ever holding more than its bound: what a frame's header claims is not believed.
enum ZstdDecompression {
    enum Failure: Error, Equatable {
        case tooLarge
        case damaged(String)
    }

    /// Of the output buffer's first allocation and of its growth.
    private static let step = 256 * 1024

    /// - Parameter maximumBytes: of the result; one byte more is `tooLarge`.
    static func unpack(_ body: ByteBuffer, maximumBytes: Int) throws(Failure) -> ByteBuffer {
        guard let context = ZSTD_createDCtx() else { throw .damaged("no memory for the decoder") }
        defer { ZSTD_freeDCtx(context) }
        // 8 MiB windows are what level 19 and below use; larger ones are memory asked for by a stranger.
        ZSTD_DCtx_setParameter(context, ZSTD_d_windowLogMax, 23)
        var output = ByteBuffer()
        var failure: Failure?
        body.withUnsafeReadableBytes { source in
            var input = ZSTD_inBuffer(src: source.baseAddress, size: source.count, pos: 0)
            var needed = 1
            while failure == nil, input.pos < input.size || needed != 0 {
                let before = (input.pos, output.readableBytes)
                failure = turn(context, &input, &output, maximumBytes, &needed)
                if failure == nil, (input.pos, output.readableBytes) == before {
                    failure = .damaged("the body ends within a frame")
                }
            }
        }
        if let failure { throw failure }
        return output
    }

    private static func turn(
        _ context: OpaquePointer, _ input: inout ZSTD_inBuffer, _ output: inout ByteBuffer, _ maximumBytes: Int,
        _ needed: inout Int
    ) -> Failure? {
        var failure: Failure?
        // One byte beyond the bound tells a body that is too large from one that just fits.
        let room = min(max(step, output.readableBytes), maximumBytes + 1 - output.readableBytes)
        output.writeWithUnsafeMutableBytes(minimumWritableBytes: room) { target in
            var chunk = ZSTD_outBuffer(dst: target.baseAddress, size: room, pos: 0)
            let result = ZSTD_decompressStream(context, &chunk, &input)
            if ZSTD_isError(result) != 0 {
                failure = .damaged(String(cString: ZSTD_getErrorName(result)))
            }
            needed = result
            return chunk.pos
        }
        if failure == nil, output.readableBytes > maximumBytes { return .tooLarge }
        return failure
    }
}
