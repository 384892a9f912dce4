import NIOCore

/// Rows in COPY's binary format (PostgreSQL's manual, COPY, "Binary Format"), without header and trailer, so that runs
/// of rows can be sent in any selection.
package struct BinaryCopy: Sendable {
    package static let header: [UInt8] =
        Array("PGCOPY\n".utf8) + [0xFF, 0x0D, 0x0A, 0x00] + Array(repeating: 0, count: 8)
    package static let trailer: [UInt8] = [0xFF, 0xFF]
    /// Microseconds from 1970 to PostgreSQL's zero, 2000-01-01.
    package static let epochOffset: Int64 = 946_684_800_000_000

    package private(set) var buffer = ByteBuffer()
    package private(set) var rowCount = 0

    package init() {}

    /// Bytes so far: the start of the next row.
    @inlinable package var byteCount: Int { buffer.writerIndex }

    package mutating func reserve(_ bytes: Int) { buffer.reserveCapacity(minimumWritableBytes: bytes) }

    package mutating func startRow(columns: Int16) {
        buffer.writeInteger(columns)
        rowCount += 1
    }

    package mutating func null() { buffer.writeInteger(Int32(-1)) }

    package mutating func int2(_ value: Int16) { buffer.writeMultipleIntegers(Int32(2), value) }
    package mutating func int4(_ value: Int32) { buffer.writeMultipleIntegers(Int32(4), value) }
    package mutating func int8(_ value: Int64) { buffer.writeMultipleIntegers(Int32(8), value) }
    package mutating func float8(_ value: Double) { buffer.writeMultipleIntegers(Int32(8), value.bitPattern) }

    /// - Parameter microseconds: since 1970.
    package mutating func timestamp(_ microseconds: Int64) {
        buffer.writeMultipleIntegers(Int32(8), microseconds &- Self.epochOffset)
    }

    package mutating func bytes(_ value: UnsafeRawBufferPointer) {
        buffer.writeInteger(Int32(value.count))
        buffer.writeBytes(value)
    }

    package mutating func bytes(_ value: ByteBuffer) {
        buffer.writeInteger(Int32(value.readableBytes))
        buffer.writeImmutableBuffer(value)
    }

    package mutating func text(_ value: String) {
        let lengthIndex = buffer.writerIndex
        buffer.writeInteger(Int32(0))
        let count = buffer.writeString(value)
        buffer.setInteger(Int32(count), at: lengthIndex)
    }

    /// `jsonb_recv`: a version byte, then JSON text.
    package mutating func jsonb(_ text: UnsafeRawBufferPointer) {
        buffer.writeMultipleIntegers(Int32(text.count + 1), UInt8(1))
        buffer.writeBytes(text)
    }

    /// Takes back the rows from `start` on.
    package mutating func truncate(to start: Int, rows: Int) {
        buffer.moveWriterIndex(to: start)
        rowCount -= rows
    }
}
