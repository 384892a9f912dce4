/// Why bytes are not what the sync protocol allows, and where.
package struct SyncDecodingError: Error, Sendable, Equatable {
    package enum Reason: Sendable, Equatable {
        /// A value or a length runs past the end of its message.
        case truncated
        /// Longer than 64 bits or than needed.
        case malformedVarint
        /// Unknown, repeated, out of order, or of another wire type; the tag as read.
        case unexpectedField(tag: UInt8)
        case missing
        case wrongLength(expected: Int, found: Int)
        case notUTF8
        /// An id is 1 to 128 bytes of UTF-8 without control characters, a topic 1 to 65,535 bytes without U+0000.
        case invalidText
        case outOfRange(UInt64, allowed: ClosedRange<UInt64>)
        case tooMany(limit: Int)
        /// A value of an enumeration, or a flag, that this version does not know.
        case unknownValue(UInt64)
        /// Sequences or numbers that an earlier frame of the batch reached already.
        case notAscending(first: UInt64, previous: UInt64)
        case duplicateDevice
        case unusedDevice
        case timeOverflow
        /// Microseconds.
        case timeOutOfRange(Int64, allowed: ClosedRange<Int64>)
        /// A ledger line with more numbers than sequences, or a range that ends before it begins.
        case inconsistentRange
    }

    package var reason: Reason
    /// The field, as `frames[3].records[17].topic`; empty for the message itself.
    package var path: String
    /// Bytes from the start of what was decoded.
    package var offset: Int

    package init(_ reason: Reason, path: String = "", offset: Int) {
        self.reason = reason
        self.path = path
        self.offset = offset
    }

    func inside(_ outer: String) -> SyncDecodingError {
        SyncDecodingError(reason, path: path.isEmpty ? outer : "\(outer).\(path)", offset: offset)
    }
}

extension SyncDecodingError: CustomStringConvertible {
    package var description: String { "\(path.isEmpty ? "message" : path) at byte \(offset): \(reason.explanation)" }
}

extension SyncDecodingError.Reason {
    /// What was found and what is allowed, for the answer to the sender and the log.
    package var explanation: String {
        switch self {
        case .truncated: "ends early: a value or length runs past the end of its message"
        case .malformedVarint: "varint is longer than needed or than 64 bits"
        case .unexpectedField(let tag):
            "unexpected field \(tag >> 3) (wire type \(tag & 7)): unknown, repeated or out of order"
        case .missing: "missing, or its default value, which is not allowed here"
        case .wrongLength(let expected, let found): "is \(found) bytes long, must be \(expected)"
        case .notUTF8: "is not UTF-8"
        case .invalidText: "is empty, too long, or contains a character that is not allowed"
        case .outOfRange(let value, let allowed):
            "is \(value), must be \(allowed.lowerBound) to \(allowed.upperBound)"
        case .tooMany(let limit): "more than \(limit)"
        case .unknownValue(let value): "has the unknown value \(value)"
        case .notAscending(let first, let previous):
            "begins at \(first), but the batch reached \(previous) before"
        case .duplicateDevice: "names a device that the frame names already"
        case .unusedDevice: "names a device of which the frame has no record"
        case .timeOverflow: "time overflows 64 bits"
        case .timeOutOfRange(let value, let allowed):
            "is \(value), must be \(allowed.lowerBound) to \(allowed.upperBound)"
        case .inconsistentRange: "range ends before it begins, or has more numbers than sequences"
        }
    }
}

/// Bounds on what one batch may hold, so that small bytes cannot become large memory.
package struct SyncLimits: Sendable, Equatable {
    package var maximumFrames = 65_536
    /// Messages in all frames of a batch, or in one log entry.
    package var maximumRecords = 262_144
    /// Devices in all frames of a batch.
    package var maximumDevices = 262_144
    package var maximumAccounts = 4_096
    package var maximumLedgerLines = 65_536
    package var maximumCorrections = 1_024

    package init() {}

    /// Of a sequence and of a number: the exclusive end of a range must fit PostgreSQL's bigint.
    package static let numbers: ClosedRange<UInt64> = 1...UInt64(Int64.max - 1)
    /// Of corrections, in microseconds: from 1970 to the end of the year 9999, and back.
    package static let clockOffsets: ClosedRange<Int64> = -253_402_300_799_999_999...253_402_300_799_999_999
}
