import Glibc
import Yams

/// Collects what is wrong while a configuration file is read, so that all of it is told at once.
package final class ConfigurationReport {
    package let file: String
    package private(set) var problems: [ConfigurationProblem] = []

    /// The folder of the credentials that systemd passes to a unit with `LoadCredential` (systemd.exec(5)).
    private let credentials: String?

    package init(file: String) {
        self.file = file
        credentials = getenv("CREDENTIALS_DIRECTORY").map { String(cString: $0) }
    }

    package func add(line: Int = 0, column: Int = 0, key: String, found: String, allowed: String) {
        problems.append(
            ConfigurationProblem(file: file, line: line, column: column, key: key, found: found, allowed: allowed))
    }

    /// - Throws: where anything was reported.
    package func finish() throws(ConfigurationProblems) {
        guard !problems.isEmpty else { return }
        // Stable, since keys of one line keep their order.
        let sorted = problems.enumerated().sorted { ($0.element.line, $0.offset) < ($1.element.line, $1.offset) }
        throw ConfigurationProblems(sorted.map(\.element))
    }

    /// How a path in the file names that folder.
    static let credentialsPrefix = "${CREDENTIALS_DIRECTORY}/"

    /// A path as the file means it: relative to the file's own folder, or to that of the credentials. It stays as it is
    /// where there are none, so that the problem shows it as it was written.
    package func resolve(_ path: String) -> String {
        if path.hasPrefix(Self.credentialsPrefix) {
            return credentials.map { "\($0)/\(path.dropFirst(Self.credentialsPrefix.count))" } ?? path
        }
        guard !path.hasPrefix("/") else { return path }
        guard let slash = file.lastIndex(of: "/") else { return path }
        return String(file[...slash]) + path
    }

    /// A text that names files, as a database's URL does; without credentials it stays as it is.
    func resolveCredentials(in text: String) -> String {
        guard let credentials else { return text }
        return text.split(separator: Self.credentialsPrefix, omittingEmptySubsequences: false)
            .joined(separator: "\(credentials)/")
    }
}

/// A map of a configuration file. Every key that is asked for is known; `finish` reports the others.
package final class ConfigurationSection {
    package let report: ConfigurationReport
    /// The keys that lead here, with a trailing dot; empty at the root.
    private let prefix: String
    private let mark: Mark?
    private let pairs: [(key: String, keyMark: Mark?, value: Node)]
    private var known: [String] = []

    package static let maximumBytes = 1024 * 1024

    /// Reads a file and hands out its root.
    ///
    /// - Throws: where the file cannot be read, is no YAML or has no map at its root.
    package static func load(file: String) throws(ConfigurationProblems) -> ConfigurationSection {
        let report = ConfigurationReport(file: file)
        if let root = root(report) { return root }
        throw ConfigurationProblems(report.problems)
    }

    private static func root(_ report: ConfigurationReport) -> ConfigurationSection? {
        let bytes: [UInt8]
        do {
            bytes = try AtomicFile.read(report.file, maximumBytes: maximumBytes)
        } catch {
            let reason = error.code == EFBIG ? "more than \(Quantity.bytes(maximumBytes))" : "no readable file"
            report.add(
                key: "", found: "\(reason) (\(String(cString: strerror(error.code))))", allowed: "a YAML file")
            return nil
        }
        guard let text = String(validating: bytes, as: UTF8.self) else {
            report.add(key: "", found: "bytes that are no UTF-8", allowed: "a YAML file in UTF-8")
            return nil
        }
        do {
            guard let node = try Yams.compose(yaml: text) else {
                return ConfigurationSection(report: report, prefix: "", mark: nil, pairs: [])
            }
            guard case .mapping(let mapping) = node else {
                report.add(
                    line: node.mark?.line ?? 0, column: node.mark?.column ?? 0, key: "", found: node.kind,
                    allowed: "a map of keys at the root")
                return nil
            }
            return ConfigurationSection(report: report, prefix: "", mapping: mapping)
        } catch {
            reportSyntax(error, to: report)
            return nil
        }
    }

    private static func reportSyntax(_ error: any Error, to report: ConfigurationReport) {
        switch error as? YamlError {
        case .scanner(_, let problem, let mark, _), .parser(_, let problem, let mark, _),
            .composer(_, let problem, let mark, _):
            report.add(
                line: mark.line, column: mark.column, key: "", found: "a mistake in the YAML (\(problem))",
                allowed: "well-formed YAML")
        case .duplicatedKeysInMapping(let duplicates, let context):
            report.add(
                line: context.mark.line, column: context.mark.column,
                key: duplicates.joined(separator: ", "), found: "the key more than once in one map", allowed: "it once")
        case .reader(let problem, _, _, _):
            report.add(key: "", found: "a character that YAML forbids (\(problem))", allowed: "well-formed YAML")
        default: report.add(key: "", found: "\(error)", allowed: "well-formed YAML")
        }
    }

    private init(
        report: ConfigurationReport, prefix: String, mark: Mark?, pairs: [(key: String, keyMark: Mark?, value: Node)]
    ) {
        self.report = report
        self.prefix = prefix
        self.mark = mark
        self.pairs = pairs
    }

    private convenience init(report: ConfigurationReport, prefix: String, mapping: Node.Mapping) {
        var pairs: [(key: String, keyMark: Mark?, value: Node)] = []
        for (key, value) in mapping {
            if case .scalar(let scalar) = key {
                pairs.append((scalar.string, scalar.mark, value))
            } else {
                report.add(
                    line: key.mark?.line ?? 0, column: key.mark?.column ?? 0, key: String(prefix.dropLast()),
                    found: "\(key.kind) as a key", allowed: "a word")
            }
        }
        self.init(report: report, prefix: prefix, mark: mapping.mark, pairs: pairs)
    }

    /// The keys in the file, known or not, in their order; for maps whose keys are names.
    package var keys: [String] { pairs.map(\.key) }

    package func has(_ key: String) -> Bool { node(key) != nil }

    /// The value, where the key is there and its value is allowed; a value that is not is reported.
    package func value<Value>(_ key: String, _ type: ConfigurationType<Value>) -> Value? {
        node(key).flatMap { parse($0, key: key, type) }
    }

    /// Leaves `target`, the default, as it is where the key is absent.
    package func read<Value>(_ key: String, into target: inout Value, _ type: ConfigurationType<Value>) {
        if let value = value(key, type) { target = value }
    }

    /// Reports an absent key as well.
    package func require<Value>(_ key: String, _ type: ConfigurationType<Value>) -> Value? {
        guard has(key) else {
            problem(key, found: "nothing", allowed: type.allowed)
            return nil
        }
        return value(key, type)
    }

    /// A list of scalars; `nil` where the key is absent or no list. Elements that are not allowed are reported.
    package func list<Value>(_ key: String, _ type: ConfigurationType<Value>) -> [Value]? {
        guard let node = node(key) else { return nil }
        guard case .sequence(let sequence) = node else {
            problem(key, found: node.shown, allowed: "a list, each \(type.allowed)")
            return nil
        }
        return sequence.enumerated().compactMap { parse($0.element, key: "\(key)[\($0.offset)]", type) }
    }

    /// A map within this one; `nil` where it is absent or no map.
    package func section(_ key: String) -> ConfigurationSection? {
        node(key).flatMap { section($0, key: key) }
    }

    /// A list of maps; `nil` where the key is absent or no list.
    package func sections(_ key: String) -> [ConfigurationSection]? {
        guard let node = node(key) else { return nil }
        guard case .sequence(let sequence) = node else {
            problem(key, found: node.shown, allowed: "a list of maps")
            return nil
        }
        return sequence.enumerated().compactMap { section($0.element, key: "\(key)[\($0.offset)]") }
    }

    /// Reports with the place of the key, or of this map where the key is absent.
    package func problem(_ key: String, found: String, allowed: String) {
        let value = pairs.first { $0.key == key || key.hasPrefix("\($0.key)[") }
        var place = value?.value.mark ?? value?.keyMark ?? mark
        // An absent key of a list's element points at its list.
        if let value, key != value.key, case .sequence(let sequence) = value.value,
            let index = Int(key.dropFirst(value.key.count + 1).prefix { $0.isNumber }), index < sequence.count
        {
            place = sequence[index].mark ?? place
        }
        report.add(
            line: place?.line ?? 0, column: place?.column ?? 0, key: prefix + key, found: found, allowed: allowed)
    }

    /// Reports every key that nobody asked for.
    package func finish() {
        for pair in pairs where !known.contains(pair.key) {
            report.add(
                line: pair.keyMark?.line ?? 0, column: pair.keyMark?.column ?? 0, key: prefix + pair.key.shown,
                found: "an unknown key", allowed: known.joined(separator: ", "))
        }
    }

    private func node(_ key: String) -> Node? {
        if !known.contains(key) { known.append(key) }
        return pairs.first { $0.key == key }?.value
    }

    private func section(_ node: Node, key: String) -> ConfigurationSection? {
        guard case .mapping(let mapping) = node else {
            problem(key, found: node.shown, allowed: "a map of keys")
            return nil
        }
        return ConfigurationSection(report: report, prefix: "\(prefix)\(key).", mapping: mapping)
    }

    private func parse<Value>(_ node: Node, key: String, _ type: ConfigurationType<Value>) -> Value? {
        guard case .scalar(let scalar) = node, !node.isNothing, let value = type.parse(scalar.string) else {
            problem(key, found: node.shown, allowed: type.allowed)
            return nil
        }
        return value
    }
}

extension Node {
    fileprivate var kind: String {
        switch self {
        case .scalar: "a single value"
        case .mapping: "a map"
        case .sequence: "a list"
        case .alias: "an alias"
        }
    }

    /// `key:` with nothing after it, `~` or `null`; in quotes they are texts.
    fileprivate var isNothing: Bool {
        guard case .scalar(let scalar) = self, scalar.style == .plain else { return false }
        return ["", "~", "null"].contains(scalar.string)
    }

    fileprivate var shown: String {
        guard case .scalar(let scalar) = self else { return kind }
        return isNothing ? "nothing" : scalar.string.shown
    }
}

extension String {
    /// At most 80 characters, on one line.
    package var shown: String {
        let scalars = unicodeScalars.prefix(80).map { scalar -> Character in
            scalar.properties.generalCategory == .control ? "\u{FFFD}" : Character(scalar)
        }
        return String(scalars) + (unicodeScalars.count > 80 ? "…" : "")
    }
}
