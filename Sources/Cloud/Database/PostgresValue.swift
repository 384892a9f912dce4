import NIOCore

/// A parameter of a statement; binary except `text` and `textArray`.
package enum PostgresValue: Sendable, Equatable {
    case null
    /// The server infers the type from the statement, so casts such as `$1::uuid` work.
    case text(String)
    case int4(Int32)
    case int8(Int64)
    case float8(Double)
    case bool(Bool)
    case bytes(ByteBuffer)
    case int4Array([Int32])
    case int8Array([Int64])
    case textArray([String])
    case byteaArray([ByteBuffer])

    /// Type ids of `pg_type.dat`; 0: inferred.
    var typeID: UInt32 {
        switch self {
        case .null, .text: 0
        case .bool: 16
        case .bytes: 17
        case .int8: 20
        case .int4: 23
        case .float8: 701
        case .byteaArray: 1001
        case .int4Array: 1007
        case .textArray: 1009
        case .int8Array: 1016
        }
    }

    /// 0 text, 1 binary.
    var format: Int32 {
        switch self {
        case .null, .text: 0
        default: 1
        }
    }

    /// `nil`: SQL's NULL. Text ends in a zero byte, as libpq demands.
    var encoded: ByteBuffer? {
        var buffer = ByteBuffer()
        switch self {
        case .null: return nil
        case .text(let value):
            buffer.writeString(value)
            buffer.writeInteger(UInt8(0))
        case .int4(let value): buffer.writeInteger(value)
        case .int8(let value): buffer.writeInteger(value)
        case .float8(let value): buffer.writeInteger(value.bitPattern)
        case .bool(let value): buffer.writeInteger(UInt8(value ? 1 : 0))
        case .bytes(let value): buffer.writeImmutableBuffer(value)
        case .int4Array(let values):
            Self.writeArray(values, element: 23, into: &buffer) { $1.writeInteger($0) }
        case .int8Array(let values):
            Self.writeArray(values, element: 20, into: &buffer) { $1.writeInteger($0) }
        case .textArray(let values):
            Self.writeArray(values, element: 25, into: &buffer) { $1.writeString($0) }
        case .byteaArray(let values):
            Self.writeArray(values, element: 17, into: &buffer) { $1.writeImmutableBuffer($0) }
        }
        return buffer
    }

    /// `array_recv`'s format: dimensions, has nulls, element type, then length and lower bound of the one dimension.
    private static func writeArray<Element>(
        _ values: [Element], element: UInt32, into buffer: inout ByteBuffer,
        write: (Element, inout ByteBuffer) -> Void
    ) {
        buffer.writeMultipleIntegers(Int32(values.isEmpty ? 0 : 1), Int32(0), element)
        if values.isEmpty { return }
        buffer.writeMultipleIntegers(Int32(values.count), Int32(1))
        for value in values {
            let lengthIndex = buffer.writerIndex
            buffer.writeInteger(Int32(0))
            write(value, &buffer)
            buffer.setInteger(Int32(buffer.writerIndex - lengthIndex - 4), at: lengthIndex)
        }
    }
}
