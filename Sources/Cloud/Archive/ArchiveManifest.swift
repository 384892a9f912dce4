import FoundationEssentials
import NIOCore
import NIOFoundationCompat

/// What one archiving of a day wrote: the files of both tables with their digests, and which messages are in them. Kept
/// in the object store beside its files, as JSON; the archive can be read without the database.
package struct ArchiveManifest: Codable, Sendable, Equatable {
    package static let currentVersion = 1
    package static let maximumBytes = 64 * 1024 * 1024

    package struct File: Codable, Sendable, Equatable {
        package var table: ArchiveTable
        package var key: String
        package var rows: Int
        /// As stored.
        package var bytes: Int
        package var unpackedBytes: Int
        /// SHA-256 of the bytes as stored, in hexadecimal.
        package var digest: String
    }

    /// Messages of one gateway and epoch.
    package struct Source: Codable, Sendable, Equatable {
        package var gateway: String
        /// 32 hexadecimal digits.
        package var epoch: String
        /// Pairs of first and last sequence, in order.
        package var sequences: [[UInt64]]
        package var messages: UInt64
        package var rows: Int
        /// Events that hold a message whose rows PostgreSQL had refused.
        package var refused: Int
        /// `RowBalance` of the rows, 16 hexadecimal digits; manifests of older programs have none.
        package var balance: String?
    }

    package var version = ArchiveManifest.currentVersion
    /// `2026-11-27`
    package var day: String
    /// 0, then 1 and so on for addenda.
    package var number: Int
    package var measurementRows = 0
    package var eventRows = 0
    package var files: [File] = []
    package var sources: [Source] = []

    package init(day: ArchiveDay, number: Int) {
        self.day = day.description
        self.number = number
    }

    package var bytes: Int { files.reduce(0) { $0 + $1.bytes } }
    package var rows: Int { measurementRows + eventRows }

    func encoded() throws(ArchiveError) -> ByteBuffer {
        let encoder = JSONEncoder()
        encoder.outputFormatting = [.sortedKeys, .withoutEscapingSlashes]
        do {
            var bytes = ByteBuffer(data: try encoder.encode(self))
            bytes.writeString("\n")
            return bytes
        } catch { throw .compression("a manifest cannot be encoded: \(error)") }
    }

    /// - Throws: `badObject` where it is no manifest of this day and number.
    init(_ bytes: ByteBuffer, day: ArchiveDay, number: Int) throws(ArchiveError) {
        let key = ArchiveKeys.manifest(day, number)
        do {
            self = try JSONDecoder().decode(ArchiveManifest.self, from: Data(buffer: bytes))
        } catch { throw .badObject(key: key, reason: "it is no manifest") }
        guard version == Self.currentVersion else {
            throw .badObject(key: key, reason: "version \(version) is unknown: a newer program wrote it")
        }
        let isWhole =
            self.day == day.description && self.number == number
            && ArchiveTable.allCases.allSatisfy { table in
                let rows = table == .measurement ? measurementRows : eventRows
                return files.reduce(0) { $0 + ($1.table == table ? $1.rows : 0) } == rows
            }
            && files.allSatisfy { $0.key.hasPrefix(ArchiveKeys.folder(day)) && $0.bytes >= 0 && $0.unpackedBytes >= 0 }
            && sources.allSatisfy { source in
                source.sequences.allSatisfy { $0.count == 2 && $0[0] <= $0[1] && $0[1] <= UInt64(Int64.max) }
            }
        guard isWhole else { throw .badObject(key: key, reason: "it contradicts its name or itself") }
    }
}

/// Keys follow from what is kept, so a step that is repeated makes the same ones.
package enum ArchiveKeys {
    package static let root = "archive/"

    package static func folder(_ day: ArchiveDay) -> String { "\(root)\(day)/" }

    package static func manifest(_ day: ArchiveDay, _ number: Int) -> String {
        let digits = "\(number)"
        return "\(manifests(day))\(String(repeating: "0", count: max(0, 4 - digits.utf8.count)))\(digits).json"
    }

    static func manifests(_ day: ArchiveDay) -> String { "\(folder(day))manifest-" }

    /// By its content: another attempt with other rows makes another file.
    static func file(_ day: ArchiveDay, _ table: ArchiveTable, digest: String) -> String {
        "\(folder(day))\(table.rawValue)-\(digest.prefix(32)).tsv.zst"
    }

    static func day(ofKey key: String) -> ArchiveDay? {
        let parts = key.split(separator: "/")
        return parts.count == 3 && key.hasPrefix(root) ? ArchiveDay(parts[1]) : nil
    }

    /// `nil` where the key is none of a manifest of the day.
    static func number(ofManifest key: String, _ day: ArchiveDay) -> Int? {
        guard key.hasPrefix(manifests(day)), key.hasSuffix(".json"),
            let number = Int(key.dropFirst(manifests(day).count).dropLast(5)), manifest(day, number) == key
        else { return nil }
        return number
    }
}
