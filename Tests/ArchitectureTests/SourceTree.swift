import Foundation

/// The package's sources as this checkout holds them.
struct SourceTree {
    struct File {
        /// Below `Sources`, as `Core/MQTTWire/Packet.swift`.
        let path: String
        let text: String
        let lines: [String]

        init(path: String, text: String) {
            self.path = path
            self.text = text
            lines = text.components(separatedBy: "\n")
        }

        var folder: String { part(0) }
        var module: String { part(1) }

        private func part(_ index: Int) -> String {
            let parts = path.split(separator: "/")
            return index < parts.count ? String(parts[index]) : ""
        }

        /// Modules that the file imports, with the line's number from 1.
        var imports: [(module: String, line: Int)] {
            let pattern =
                /^\s*(?:@\w+(?:\([^)]*\))?\s+)*(?:(?:public|package|internal|private|fileprivate)\s+)?import\s+(?:(?:struct|class|enum|protocol|func|var|let|typealias)\s+)?(\w+)/
            return lines.enumerated().compactMap { index, line in
                guard line.contains("import") else { return nil }
                return (try? pattern.firstMatch(in: line)).map { (String($0.output.1), index + 1) }
            }
        }

        /// The line's code without its comment. Good enough for what is looked for here: a `//` in a string hides only
        /// the rest of that line.
        func code(_ index: Int) -> Substring {
            let line = lines[index]
            guard let comment = line.range(of: "//") else { return line[...] }
            return line[..<comment.lowerBound]
        }

        /// Whether a comment stands on the line or right above it.
        func isExplained(_ index: Int) -> Bool {
            if lines[index].contains("//") { return true }
            guard index > 0 else { return false }
            return lines[index - 1].trimmingCharacters(in: .whitespaces).hasPrefix("//")
        }
    }

    static let root = URL(fileURLWithPath: #filePath)
        .deletingLastPathComponent().deletingLastPathComponent().deletingLastPathComponent()

    static func text(_ path: String) throws -> String {
        try String(contentsOf: root.appendingPathComponent(path), encoding: .utf8)
    }

    static func manifest() throws -> String { try text("Package.swift") }

    static func sources() throws -> [File] { try swift(below: "Sources") }

    /// With paths below the folder.
    static func swift(below folder: String) throws -> [File] {
        let names = try FileManager.default.subpathsOfDirectory(atPath: root.appendingPathComponent(folder).path)
        return try names.filter { $0.hasSuffix(".swift") }.sorted().map { name in
            File(path: name, text: try text(folder + "/" + name))
        }
    }
}
