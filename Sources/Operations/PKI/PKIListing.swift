import FoundationEssentials
import Operations

/// What `sluice pki list` shows.
package struct PKIListing: Codable, Sendable, Equatable {
    package struct Line: Codable, Sendable, Equatable {
        package var kind: PeerRole.Kind
        package var id: String
        package var state: PKIIndex.State
        /// RFC 3339.
        package var notAfter: String
        /// Whole days until then; negative when past.
        package var daysLeft: Int
        package var serial: String
        package var revokedAt: String?
    }

    package var authorityNotAfter: String
    package var certificates: [Line]

    package init(_ directory: PKIDirectory, now: Int64) throws(PKIError) {
        authorityNotAfter = RFC3339.text(secondsSince1970: try directory.authorityNotAfter())
        certificates = try directory.entries().map { entry in
            Line(
                kind: entry.kind, id: entry.id, state: entry.state(at: now),
                notAfter: RFC3339.text(secondsSince1970: entry.notAfter),
                daysLeft: Int((Double(entry.notAfter - now) / 86_400).rounded(.down)), serial: entry.serial,
                revokedAt: entry.revokedAt.map(RFC3339.text(secondsSince1970:)))
        }
    }

    package func json() throws -> String {
        let encoder = JSONEncoder()
        encoder.outputFormatting = [.sortedKeys, .prettyPrinted]
        return String(decoding: try encoder.encode(self), as: UTF8.self) + "\n"
    }

    package func table() -> String {
        let header = ["KIND", "ID", "STATE", "EXPIRES", "DAYS", "SERIAL"]
        let rows = certificates.map {
            [$0.kind.rawValue, $0.id, $0.state.rawValue, $0.notAfter, "\($0.daysLeft)", $0.serial]
        }
        let widths = header.indices.map { column in ([header] + rows).map { $0[column].count }.max() ?? 0 }
        let lines = ([header] + rows).map { row in
            let cells = zip(row, widths).map { cell, width in
                cell + String(repeating: " ", count: width - cell.count)
            }
            var line = cells.joined(separator: "  ")
            while line.last == " " { line.removeLast() }
            return line
        }
        return (lines + ["The authority expires \(authorityNotAfter)."]).joined(separator: "\n") + "\n"
    }
}
