import Foundation
import Operations
import SyncModel

/// Reads simulators' journals line by line. Read once before everything else, and once more at the end: what was
/// published meanwhile may be in the tables already, what was acknowledged meanwhile need not be.
package struct JournalAudit: Sendable {
    package struct Failure: Error, Sendable, CustomStringConvertible {
        package let description: String
    }

    private let paths: [String]
    /// Bytes read of each so far.
    private var offsets: [String: UInt64] = [:]
    private static let chunk = 1024 * 1024

    package init(paths: [String]) { self.paths = paths }

    /// - Parameter acknowledgements: whether they count.
    package mutating func read(into tally: inout AuditTally, acknowledgements: Bool) throws(Failure) {
        for path in paths { try read(path, into: &tally, acknowledgements: acknowledgements) }
    }

    private mutating func read(
        _ path: String, into tally: inout AuditTally, acknowledgements: Bool
    ) throws(Failure) {
        guard let file = FileHandle(forReadingAtPath: path) else {
            throw Failure(description: "\(path) cannot be opened: name a journal of sluice simulate")
        }
        defer { try? file.close() }
        var offset = offsets[path] ?? 0
        var rest = Data()
        do {
            try file.seek(toOffset: offset)
            while let data = try file.read(upToCount: Self.chunk), !data.isEmpty {
                rest.append(data)
                // A line without its end is still being written.
                guard let end = rest.lastIndex(of: UInt8(ascii: "\n")) else { continue }
                for line in rest[...end].split(separator: UInt8(ascii: "\n")) {
                    try apply(line, path, offset, &tally, acknowledgements)
                }
                offset += UInt64(end - rest.startIndex + 1)
                rest = Data(rest[rest.index(after: end)...])
            }
        } catch let failure as Failure {
            throw failure
        } catch {
            throw Failure(description: "\(path) cannot be read: \(error)")
        }
        offsets[path] = offset
    }

    private func apply(
        _ text: Data, _ path: String, _ offset: UInt64, _ tally: inout AuditTally, _ acknowledgements: Bool
    ) throws(Failure) {
        let line: JournalLine
        do { line = try JSONDecoder().decode(JournalLine.self, from: text) } catch {
            throw Failure(
                description: "\(path), near byte \(offset): no line of a journal: "
                    + String(decoding: text.prefix(80), as: UTF8.self))
        }
        guard let n = UInt64(exactly: line.n) else {
            throw Failure(description: "\(path), near byte \(offset): n is \(line.n), it must not be negative")
        }
        switch line.event {
        case .publish: tally.published(line.device, n: n, qos: line.qos)
        case .resend: tally.resent(line.device, n: n)
        case .acknowledge: if acknowledgements { tally.acknowledged(line.device, n: n) }
        case .refuse: break
        }
    }
}
