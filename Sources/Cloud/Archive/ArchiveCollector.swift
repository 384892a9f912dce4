import Crypto
import Glibc
import NIOCore
import SyncModel

/// Turns the lines of a day into files, and counts which messages are in them. Its memory is one file, and a range for
/// each gap in each source's sequences.
struct ArchiveCollector: ~Copyable {
    /// Gaps of one source and day; more are an error, never a guess.
    private static let maximumRanges = 1 << 20

    private struct Source {
        var gateway: String
        var epoch: String
        var sequences: IntervalSet
        var lastSequence: UInt64?
        var rows = 0
        var refused = 0
        var balance = RowBalance()
    }

    private let day: ArchiveDay
    /// Unpacked bytes after which a file ends.
    private let fileBytes: Int
    private var manifest: ArchiveManifest
    private var sources: [Source] = []
    private var positions: [[UInt8]: Int] = [:]
    private var lastName: [UInt8] = []
    private var lastPosition = 0
    private var writer: ZstandardWriter
    private var fileRows = 0
    private var unpacked = 0

    init(day: ArchiveDay, number: Int, fileBytes: Int) throws(ArchiveError) {
        self.day = day
        self.fileBytes = fileBytes
        manifest = ArchiveManifest(day: day, number: number)
        writer = try ZstandardWriter()
    }

    struct File: Sendable {
        var key: String
        var bytes: ByteBuffer
    }

    /// - Parameter lines: whole lines.
    /// - Returns: a file that is full.
    mutating func add(_ lines: ByteBuffer, of table: ArchiveTable) throws(ArchiveError) -> File? {
        try count(lines, table)
        try writer.write(lines)
        unpacked += lines.readableBytes
        return unpacked >= fileBytes ? try finish(table) : nil
    }

    /// - Returns: what is left; `nil` where nothing is.
    mutating func finish(_ table: ArchiveTable) throws(ArchiveError) -> File? {
        guard fileRows > 0 else { return nil }
        let bytes = try writer.finish()
        let digest = Self.digest(of: bytes)
        let key = ArchiveKeys.file(day, table, digest: digest)
        manifest.files.append(
            .init(
                table: table, key: key, rows: fileRows, bytes: bytes.readableBytes, unpackedBytes: unpacked,
                digest: digest))
        if table == .measurement { manifest.measurementRows += fileRows } else { manifest.eventRows += fileRows }
        (fileRows, unpacked) = (0, 0)
        return File(key: key, bytes: bytes)
    }

    func finishedManifest() -> ArchiveManifest {
        var manifest = manifest
        manifest.sources = sources.map { source in
            .init(
                gateway: source.gateway, epoch: source.epoch,
                sequences: source.sequences.ranges.map { [$0.lowerBound, $0.upperBound] },
                messages: source.sequences.count, rows: source.rows, refused: source.refused,
                balance: Self.hexadecimal(source.balance.value))
        }
        return manifest
    }

    private static func hexadecimal(_ value: UInt64) -> String {
        let digits = String(value, radix: 16)
        return String(repeating: "0", count: 16 - digits.utf8.count) + digits
    }

    static func digest(of bytes: ByteBuffer) -> String {
        var hash = SHA256()
        bytes.withUnsafeReadableBytes { hash.update(bufferPointer: $0) }
        return hash.finalize().map { ($0 < 16 ? "0" : "") + String($0, radix: 16) }.joined()
    }

    private mutating func count(_ lines: ByteBuffer, _ table: ArchiveTable) throws(ArchiveError) {
        var failure: ArchiveError?
        lines.withUnsafeReadableBytes { bytes in
            var start = 0
            while start < bytes.count, failure == nil {
                guard let end = Self.position(of: UInt8(ascii: "\n"), in: bytes, from: start) else {
                    failure = .badRow("PostgreSQL sent half a line")
                    return
                }
                do throws(ArchiveError) {
                    try count(line: UnsafeRawBufferPointer(rebasing: bytes[start..<end]), table)
                } catch {
                    failure = error
                }
                start = end + 1
            }
        }
        if let failure { throw failure }
    }

    /// The fields gateway, epoch, sequence, the kind of an event, part and parts.
    private mutating func count(line: UnsafeRawBufferPointer, _ table: ArchiveTable) throws(ArchiveError) {
        let tab = UInt8(ascii: "\t")
        guard let first = Self.position(of: tab, in: line, from: 0),
            let second = Self.position(of: tab, in: line, from: first + 1),
            let third = Self.position(of: tab, in: line, from: second + 1),
            let sequence = Self.number(line[(second + 1)..<third])
        else { throw .badRow("a row of \(table.rawValue) on \(day) has no gateway, epoch or sequence") }
        try find(line[..<second], gateway: line[..<first], epoch: line[(first + 1)..<second], table)
        fileRows += 1
        sources[lastPosition].rows += 1
        var rest = line[(third + 1)...]
        if table == .event {
            let kind = Self.field(of: &rest)
            if kind.elementsEqual(ArchiveTable.refusedKind.utf8) { sources[lastPosition].refused += 1 }
        }
        guard let part = Self.number(Self.field(of: &rest)), let parts = Self.number(Self.field(of: &rest)) else {
            throw .badRow("a row of \(table.rawValue) on \(day) does not say which part of its message it is")
        }
        sources[lastPosition].balance.add(
            sequence: sequence, part: UInt16(clamping: part), parts: UInt16(clamping: parts))
        // A message's rows follow each other.
        guard sources[lastPosition].lastSequence != sequence else { return }
        sources[lastPosition].lastSequence = sequence
        do { _ = try sources[lastPosition].sequences.insert(sequence) } catch {
            throw .badRow(
                "gateway \(sources[lastPosition].gateway), \(day): more than \(Self.maximumRanges) gaps in its sequences"
            )
        }
    }

    private static func position(of byte: UInt8, in bytes: UnsafeRawBufferPointer, from start: Int) -> Int? {
        guard let base = bytes.baseAddress, start < bytes.count,
            let found = memchr(base + start, Int32(byte), bytes.count - start)
        else { return nil }
        return UnsafeRawPointer(found) - base
    }

    /// What is before the next tab, which is taken as well.
    private static func field(of line: inout Slice<UnsafeRawBufferPointer>) -> Slice<UnsafeRawBufferPointer> {
        let field = line.prefix { $0 != UInt8(ascii: "\t") }
        line = line[field.endIndex...].dropFirst()
        return field
    }

    private static func number(_ digits: Slice<UnsafeRawBufferPointer>) -> UInt64? {
        // Sequences are of int8.
        guard (1...19).contains(digits.count) else { return nil }
        var value: UInt64 = 0
        for byte in digits {
            guard (UInt8(ascii: "0")...UInt8(ascii: "9")).contains(byte) else { return nil }
            value = value * 10 + UInt64(byte - UInt8(ascii: "0"))
        }
        return value
    }

    private mutating func find(
        _ name: Slice<UnsafeRawBufferPointer>, gateway: Slice<UnsafeRawBufferPointer>,
        epoch: Slice<UnsafeRawBufferPointer>, _ table: ArchiveTable
    ) throws(ArchiveError) {
        if name.count == lastName.count, name.elementsEqual(lastName) { return }
        lastName = Array(name)
        if let known = positions[lastName] {
            lastPosition = known
            return
        }
        guard !gateway.elementsEqual("\\N".utf8), !epoch.elementsEqual("\\N".utf8) else {
            lastName = []
            throw .badRow("a row of \(table.rawValue) on \(day) is of a source that the table source does not have")
        }
        lastPosition = sources.count
        positions[lastName] = lastPosition
        sources.append(
            Source(
                gateway: CopyText.unescaped(gateway),
                epoch: String(decoding: epoch.filter { $0 != UInt8(ascii: "-") }, as: UTF8.self),
                sequences: IntervalSet(maximumRanges: Self.maximumRanges)))
    }
}

/// COPY's text format (PostgreSQL's manual, COPY, "Text Format").
enum CopyText {
    static func unescaped(_ field: some Sequence<UInt8>) -> String {
        var bytes: [UInt8] = []
        var isEscaped = false
        for byte in field {
            if isEscaped {
                bytes.append(escapes[byte] ?? byte)
                isEscaped = false
            } else if byte == UInt8(ascii: "\\") {
                isEscaped = true
            } else {
                bytes.append(byte)
            }
        }
        return String(decoding: bytes, as: UTF8.self)
    }

    private static let escapes: [UInt8: UInt8] = [
        UInt8(ascii: "b"): 8, UInt8(ascii: "f"): 12, UInt8(ascii: "n"): 10, UInt8(ascii: "r"): 13,
        UInt8(ascii: "t"): 9, UInt8(ascii: "v"): 11,
    ]
}
