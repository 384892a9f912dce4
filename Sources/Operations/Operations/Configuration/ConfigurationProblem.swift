/// One thing that is wrong in a configuration file.
package struct ConfigurationProblem: Error, Equatable, Sendable {
    package var file: String
    /// From 1; 0 where the file as a whole is meant.
    package var line: Int
    /// From 1; 0 where the file as a whole is meant.
    package var column: Int
    /// The path of keys, as `listeners[0].tls.key`; empty where the file as a whole is meant.
    package var key: String
    package var found: String
    package var allowed: String

    package init(file: String, line: Int, column: Int, key: String, found: String, allowed: String) {
        self.file = file
        self.line = line
        self.column = column
        self.key = key
        self.found = found
        self.allowed = allowed
    }
}

extension ConfigurationProblem: CustomStringConvertible {
    package var description: String {
        let place = line > 0 ? "\(file):\(line): " : "\(file): "
        return place + (key.isEmpty ? "" : "\(key): ") + "found \(found), allowed \(allowed)"
    }
}

/// All that is wrong in a configuration file, in the order of its lines.
package struct ConfigurationProblems: Error, Equatable, Sendable, CustomStringConvertible {
    package var problems: [ConfigurationProblem]

    package init(_ problems: [ConfigurationProblem]) { self.problems = problems }

    package var description: String { problems.map(\.description).joined(separator: "\n") }
}
