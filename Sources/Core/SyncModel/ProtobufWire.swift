import NIOCore

/// The subset of protobuf's wire format that the sync protocol uses; `docs/sync-protocol.md` has the schema.
@usableFromInline
package enum WireType {
    @usableFromInline package static let varint: UInt8 = 0
    @usableFromInline package static let lengthDelimited: UInt8 = 2
}

extension ByteBuffer {
    @inlinable
    package mutating func writeVarint(_ value: UInt64) {
        if value < 0x80 {
            writeInteger(UInt8(truncatingIfNeeded: value))
            return
        }
        var rest = value
        while rest >= 0x80 {
            writeInteger(UInt8(truncatingIfNeeded: rest) | 0x80)
            rest >>= 7
        }
        writeInteger(UInt8(truncatingIfNeeded: rest))
    }

    /// Field numbers up to 15, so that a tag is one byte.
    @inlinable
    package mutating func writeField(_ number: UInt8, varint value: UInt64) {
        writeInteger(number << 3 | WireType.varint)
        writeVarint(value)
    }

    @inlinable
    package mutating func writeField(_ number: UInt8, zigzag value: Int64) {
        writeField(number, varint: zigzagEncoded(value))
    }

    @inlinable
    package mutating func writeField(_ number: UInt8, bytes: ByteBuffer) {
        writeInteger(number << 3 | WireType.lengthDelimited)
        writeVarint(UInt64(bytes.readableBytes))
        writeImmutableBuffer(bytes)
    }

    @inlinable
    package mutating func writeField(_ number: UInt8, string: String) {
        writeInteger(number << 3 | WireType.lengthDelimited)
        writeVarint(UInt64(string.utf8.count))
        writeString(string)
    }
}

@inlinable
package func zigzagEncoded(_ value: Int64) -> UInt64 { UInt64(bitPattern: (value << 1) ^ (value >> 63)) }

@inlinable
package func zigzagDecoded(_ value: UInt64) -> Int64 { Int64(bitPattern: value >> 1) ^ -Int64(bitPattern: value & 1) }

/// Bytes that `writeVarint` writes: 1 to 10.
@inlinable
package func varintLength(_ value: UInt64) -> Int { (70 - (value | 1).leadingZeroBitCount) / 7 }
