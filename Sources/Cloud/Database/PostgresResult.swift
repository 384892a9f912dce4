import CPostgres
import NIOCore

/// Rows of one statement, in text or binary as they were asked for. Lives on its connection's queue: not Sendable.
package final class PostgresResult {
    private let pointer: OpaquePointer

    init(owning pointer: OpaquePointer) {
        self.pointer = pointer
    }

    deinit { PQclear(pointer) }

    package var rowCount: Int { Int(PQntuples(pointer)) }

    /// Rows that an INSERT, UPDATE, DELETE or COPY touched.
    package var affectedRows: Int {
        guard let text = PQcmdTuples(pointer) else { return 0 }
        return Int(String(cString: text)) ?? 0
    }

    package func isNull(_ row: Int, _ column: Int) -> Bool { PQgetisnull(pointer, Int32(row), Int32(column)) == 1 }

    /// The value's bytes; valid while the result lives.
    package func bytes(_ row: Int, _ column: Int) -> UnsafeRawBufferPointer {
        UnsafeRawBufferPointer(
            start: PQgetvalue(pointer, Int32(row), Int32(column)),
            count: Int(PQgetlength(pointer, Int32(row), Int32(column))))
    }

    package func string(_ row: Int, _ column: Int) -> String {
        String(decoding: bytes(row, column), as: UTF8.self)
    }

    /// int2, int4 or int8; 0 where it is NULL.
    package func integer(_ row: Int, _ column: Int) -> Int64 {
        let bytes = bytes(row, column)
        if PQfformat(pointer, Int32(column)) == 0 { return Int64(String(decoding: bytes, as: UTF8.self)) ?? 0 }
        switch bytes.count {
        case 8: return Int64(bigEndian: bytes.loadUnaligned(as: Int64.self))
        case 4: return Int64(Int32(bigEndian: bytes.loadUnaligned(as: Int32.self)))
        case 2: return Int64(Int16(bigEndian: bytes.loadUnaligned(as: Int16.self)))
        default: return 0
        }
    }

    /// float8; `nil` where it is NULL.
    package func double(_ row: Int, _ column: Int) -> Double? {
        if isNull(row, column) { return nil }
        let bytes = bytes(row, column)
        if PQfformat(pointer, Int32(column)) == 0 { return Double(String(decoding: bytes, as: UTF8.self)) }
        return bytes.count == 8
            ? Double(bitPattern: UInt64(bigEndian: bytes.loadUnaligned(as: UInt64.self))) : nil
    }

    package func bool(_ row: Int, _ column: Int) -> Bool {
        let first = bytes(row, column).first
        return first == UInt8(ascii: "t") || first == 1
    }
}
