import NIOCore

/// Rows in COPY's binary format (PostgreSQL's manual, COPY, "Binary Format"), without header and trailer, so that runs
/// of rows can be sent in any selection.
package struct BinaryCopy: Sendable {
    package static let header: [UInt8] =
        Array("PGCOPY\n".utf8) + [0xFF, 0x0D, 0x0A, 0x00] + Array(repeating: 0, count: 8)
    package static let trailer: [UInt8] = [0xFF, 0xFF]
    /// Microseconds from 1970 to PostgreSQL's zero, 2000-01-01.
    package static let epochOffset: Int64 = 946_684_800_000_000

    @usableFromInline package internal(set) var buffer = ByteBuffer()
    @usableFromInline package internal(set) var rowCount = 0

    package init() {}

    /// Bytes so far: the start of the next row.
    @inlinable package var byteCount: Int { buffer.writerIndex }

    package mutating func reserve(_ bytes: Int) { buffer.reserveCapacity(minimumWritableBytes: bytes) }

    package mutating func startRow(columns: Int16) {
        buffer.writeInteger(columns)
        rowCount += 1
    }

    /// Appends a row of fixed fields in one go, which costs a fraction of a call a field.
    ///
    /// - Parameter maximum: bytes that `body` may write.
    @inlinable
    package mutating func row(columns: Int16, maximum: Int, _ body: (inout RowCursor) -> Void) {
        buffer.writeWithUnsafeMutableBytes(minimumWritableBytes: maximum + 2) { bytes in
            var cursor = RowCursor(bytes)
            cursor.store(columns)
            body(&cursor)
            return cursor.count
        }
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

/// Writes fields of a row into memory that is large enough; each field is checked against its end.
package struct RowCursor {
    @usableFromInline let bytes: UnsafeMutableRawBufferPointer
    @usableFromInline package internal(set) var count = 0

    @inlinable
    init(_ bytes: UnsafeMutableRawBufferPointer) { self.bytes = bytes }

    @inlinable
    mutating func store(_ value: some FixedWidthInteger) {
        let size = MemoryLayout.size(ofValue: value)
        precondition(count + size <= bytes.count, "a row longer than announced")
        bytes.storeBytes(of: value.bigEndian, toByteOffset: count, as: type(of: value))
        count += size
    }

    @inlinable
    package mutating func null() { store(Int32(-1)) }

    @inlinable
    package mutating func int2(_ value: Int16) {
        store(Int32(2))
        store(value)
    }

    @inlinable
    package mutating func int4(_ value: Int32) {
        store(Int32(4))
        store(value)
    }

    @inlinable
    package mutating func int8(_ value: Int64) {
        store(Int32(8))
        store(value)
    }

    @inlinable
    package mutating func float8(_ value: Double) {
        store(Int32(8))
        store(value.bitPattern)
    }

    /// - Parameter microseconds: since 1970.
    @inlinable
    package mutating func timestamp(_ microseconds: Int64) { int8(microseconds &- BinaryCopy.epochOffset) }

    @inlinable
    package mutating func bytes(_ value: UnsafeRawBufferPointer) {
        store(Int32(value.count))
        precondition(count + value.count <= bytes.count, "a row longer than announced")
        UnsafeMutableRawBufferPointer(rebasing: bytes[count...]).copyMemory(from: value)
        count += value.count
    }
}
