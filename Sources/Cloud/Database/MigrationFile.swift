import Foundation

/// One step of the schema: `NNNN_name.up.sql` and the way back, `NNNN_name.down.sql`.
package struct MigrationFile: Sendable, Equatable {
    package var version: Int
    package var name: String
    package var up: String
    package var down: String

    package init(version: Int, name: String, up: String, down: String) {
        self.version = version
        self.name = name
        self.up = up
        self.down = down
    }

    /// SHA-256 of texts that the up file once had, from its first lines `-- formerly: HEX`. A database that has applied one
    /// of them is as one that applies the file now: such a change may only make it succeed where it failed.
    var former: [String] {
        let mark = "-- formerly: "
        return up.split(separator: "\n").prefix { $0.hasPrefix(mark) }.map { String($0.dropFirst(mark.count)) }
    }
}

package enum MigrationError: Error, Sendable, CustomStringConvertible {
    case noDirectory(tried: [String])
    case unreadable(path: String, reason: String)
    case badName(path: String)
    case missingHalf(path: String)
    case duplicateVersion(Int, String, String)
    case gap(missing: Int, path: String)
    case unknownVersion(Int, name: String, path: String)
    case changed(version: Int, name: String)
    case busy(seconds: Int)
    case endedTransaction(path: String)
    case noSuchTarget(Int, newest: Int)
    case failed(path: String, PostgresError)
    case database(PostgresError)

    package var description: String {
        switch self {
        case .noDirectory(let tried):
            "no migrations found; looked in \(tried.joined(separator: ", ")). Name their folder with --migrations DIR"
        case .unreadable(let path, let reason): "\(path) cannot be read: \(reason)"
        case .badName(let path):
            "\(path): a migration is named NNNN_name.up.sql or NNNN_name.down.sql, with four digits from 0001"
        case .missingHalf(let path): "\(path) is missing: every migration has an up and a down file"
        case .duplicateVersion(let version, let first, let second):
            "version \(version) is used twice: \(first) and \(second)"
        case .gap(let missing, let path): "version \(missing) is missing in \(path): versions follow each other from 1"
        case .unknownVersion(let version, let name, let path):
            "the database is at version \(version) (\(name)), which \(path) does not have: use the newer program"
        case .changed(let version, let name):
            "migration \(version) (\(name)) was changed after it had been applied (its checksum differs): "
                + "restore the file, and put the change into a new migration"
        case .busy(let seconds): "another migration has been running for \(seconds) s: wait for it, then repeat"
        case .endedTransaction(let path): "\(path) ends the transaction itself: remove its COMMIT or ROLLBACK"
        case .noSuchTarget(let version, let newest): "there is no version \(version): allowed are 0 to \(newest)"
        case .failed(let path, let error): "\(path) failed and was rolled back: \(error)"
        case .database(let error): error.description
        }
    }
}

extension MigrationFile {
    /// Looks in this order: the folder given; the variable `SLUICE_MIGRATIONS`; `cloud/migrations` under the working
    /// directory; `share/sluice/migrations` beside the program's folder; `cloud/migrations` in each folder above the
    /// program (a checkout's build folder lies within the checkout).
    package static func directory(given: String?) throws(MigrationError) -> String {
        if let given { return given }
        var candidates: [String] = []
        if let variable = ProcessInfo.processInfo.environment["SLUICE_MIGRATIONS"] { return variable }
        let files = FileManager.default
        candidates.append(files.currentDirectoryPath + "/cloud/migrations")
        if let program = try? files.destinationOfSymbolicLink(atPath: "/proc/self/exe") {
            var folder = URL(fileURLWithPath: program).deletingLastPathComponent()
            candidates.append(folder.deletingLastPathComponent().path + "/share/sluice/migrations")
            while folder.path != "/" {
                folder = folder.deletingLastPathComponent()
                candidates.append((folder.path == "/" ? "" : folder.path) + "/cloud/migrations")
            }
        }
        for candidate in candidates where files.fileExists(atPath: candidate) { return candidate }
        throw .noDirectory(tried: candidates)
    }

    /// All migrations of a folder, ascending; versions without a gap, each with both halves.
    package static func load(from path: String) throws(MigrationError) -> [MigrationFile] {
        let names: [String]
        do { names = try FileManager.default.contentsOfDirectory(atPath: path).sorted() } catch {
            throw .unreadable(path: path, reason: error.localizedDescription)
        }
        var files: [MigrationFile] = []
        for name in names where name.hasSuffix(".sql") {
            guard let (version, title, isUp) = parse(name) else { throw .badName(path: "\(path)/\(name)") }
            guard isUp else {
                let up = "\(name.dropLast(".down.sql".count)).up.sql"
                if !names.contains(up) { throw .missingHalf(path: "\(path)/\(up)") }
                continue
            }
            let down = "\(name.dropLast(".up.sql".count)).down.sql"
            if !names.contains(down) { throw .missingHalf(path: "\(path)/\(down)") }
            if let other = files.last, other.version == version {
                throw .duplicateVersion(version, "\(path)/\(other.fileName).up.sql", "\(path)/\(name)")
            }
            let expected = files.count + 1
            if version != expected { throw .gap(missing: expected, path: path) }
            files.append(
                MigrationFile(
                    version: version, name: title, up: try read("\(path)/\(name)"), down: try read("\(path)/\(down)")))
        }
        if files.isEmpty { throw .noDirectory(tried: [path]) }
        return files
    }

    package var fileName: String {
        let digits = String(version)
        return String(repeating: "0", count: max(0, 4 - digits.count)) + digits + "_" + name
    }

    private static func parse(_ file: String) -> (version: Int, name: String, isUp: Bool)? {
        let isUp = file.hasSuffix(".up.sql")
        guard isUp || file.hasSuffix(".down.sql") else { return nil }
        let stem = file.dropLast(isUp ? ".up.sql".count : ".down.sql".count)
        let digits = stem.prefix(4)
        guard digits.count == 4, let version = Int(digits), version > 0, stem.dropFirst(4).first == "_" else {
            return nil
        }
        let name = stem.dropFirst(5)
        guard !name.isEmpty else { return nil }
        return (version, String(name), isUp)
    }

    private static func read(_ path: String) throws(MigrationError) -> String {
        do { return try String(contentsOfFile: path, encoding: .utf8) } catch {
            throw .unreadable(path: path, reason: error.localizedDescription)
        }
    }
}
