import CZstd
import NIOCore

/// Compresses one file piece by piece (RFC 8878), with a checksum of its content.
struct ZstandardWriter: ~Copyable {
    private let context: OpaquePointer
    private(set) var output = ByteBuffer()

    /// 3 is zstd's own default.
    init(level: Int32 = 3) throws(ArchiveError) {
        guard let context = ZSTD_createCCtx() else { throw .compression("out of memory") }
        self.context = context
        _ = ZSTD_CCtx_setParameter(context, ZSTD_c_compressionLevel, level)
        _ = ZSTD_CCtx_setParameter(context, ZSTD_c_checksumFlag, 1)
    }

    deinit { ZSTD_freeCCtx(context) }

    mutating func write(_ bytes: ByteBuffer) throws(ArchiveError) { try run(bytes, ZSTD_e_continue) }

    /// Ends the file and gives it away.
    mutating func finish() throws(ArchiveError) -> ByteBuffer {
        try run(ByteBuffer(), ZSTD_e_end)
        let file = output
        output = ByteBuffer()
        return file
    }

    private mutating func run(_ bytes: ByteBuffer, _ end: ZSTD_EndDirective) throws(ArchiveError) {
        let context = context
        let room = ZSTD_CStreamOutSize()
        var output = self.output
        self.output = ByteBuffer()
        var code = 0
        bytes.withUnsafeReadableBytes { source in
            var input = ZSTD_inBuffer(src: source.baseAddress, size: source.count, pos: 0)
            var isDone = false
            while !isDone {
                output.writeWithUnsafeMutableBytes(minimumWritableBytes: room) { target in
                    var written = ZSTD_outBuffer(dst: target.baseAddress, size: target.count, pos: 0)
                    code = ZSTD_compressStream2(context, &written, &input, end)
                    return written.pos
                }
                if ZSTD_isError(code) != 0 { return }
                isDone = end == ZSTD_e_end ? code == 0 : input.pos == input.size
            }
        }
        self.output = output
        guard ZSTD_isError(code) == 0 else { throw .compression(String(cString: ZSTD_getErrorName(code))) }
    }
}

enum Zstandard {
    /// - Parameter bytes: exactly so many must come out.
    static func unpacked(_ file: ByteBuffer, bytes: Int, key: String) throws(ArchiveError) -> ByteBuffer {
        var result = ByteBuffer()
        var count = 0
        file.withUnsafeReadableBytes { source in
            // One byte is never needed and keeps the memory's address from being nil.
            _ = result.writeWithUnsafeMutableBytes(minimumWritableBytes: bytes + 1) { target in
                count = ZSTD_decompress(target.baseAddress, bytes, source.baseAddress, source.count)
                return ZSTD_isError(count) == 0 ? count : 0
            }
        }
        guard ZSTD_isError(count) == 0 else {
            throw .badObject(key: key, reason: "zstd says: \(String(cString: ZSTD_getErrorName(count)))")
        }
        guard count == bytes else {
            throw .badObject(key: key, reason: "\(count) bytes come out instead of \(bytes)")
        }
        return result
    }
}
