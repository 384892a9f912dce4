import Foundation

/// The design's arrows and the house's rules, each as a function from sources to what breaks it.
enum Rules {
    /// Folder of `Sources` → its modules.
    static func modules(_ files: [SourceTree.File]) -> [String: Set<String>] {
        files.reduce(into: [:]) { $0[$1.folder, default: []].insert($1.module) }
    }

    /// Core may use itself, the byte buffer and a collection; no socket, file, clock, log or Foundation.
    static let coreMayImport: Set = [
        "NIOCore", "DequeModule", "HeapModule", "HashTreeCollections", "OrderedCollections",
    ]

    /// Names by which the standard library, Glibc or NIO would tell the time, sleep or choose at random.
    static let impure = [
        "ContinuousClock", "SuspendingClock", "SystemRandomNumberGenerator", "Task.sleep", "clock_gettime",
        "NIODeadline.now", ".random(", "randomElement(", ".shuffled(", "print(",
    ]

    static func impureCore(_ files: [SourceTree.File]) -> [String] {
        let own = modules(files)["Core"] ?? []
        return files.filter { $0.folder == "Core" }.flatMap { file in
            file.imports.filter { !own.contains($0.module) && !coreMayImport.contains($0.module) }
                .map { "\(file.path):\($0.line): Core imports \($0.module)" }
                + impure.filter(file.text.contains).flatMap { name in
                    // A generator that comes as a parameter is the caller's choice.
                    file.lines.indices.filter { file.code($0).contains(name) && !file.code($0).contains("using:") }
                        .map { "\(file.path):\($0 + 1): Core uses \(name)" }
                }
        }
    }

    /// Whether sources of one folder and module may use a module of this project.
    static func allows(folder: String, module: String, toUse other: String, of otherFolder: String) -> Bool {
        if module == other { return true }
        return switch (folder, otherFolder) {
        case ("Core", "Core"), ("Operations", "Core"), ("Operations", "Operations"): true
        case ("Edge", "Core"), ("Edge", "Operations"), ("Cloud", "Core"), ("Cloud", "Operations"): true
        case ("Edge", "Edge"): Set([module, other]) != ["Gateway", "Uplink"]
        case ("Cloud", "Cloud"): true
        case ("Programs", "Programs"): false
        case ("Programs", _): true
        default: false
        }
    }

    static func brokenArrows(_ files: [SourceTree.File]) -> [String] {
        let folders = modules(files).reduce(into: [String: String]()) { result, entry in
            for module in entry.value { result[module] = entry.key }
        }
        return files.flatMap { file in
            file.imports.compactMap { used in
                guard let folder = folders[used.module],
                    !allows(folder: file.folder, module: file.module, toUse: used.module, of: folder)
                else { return nil }
                return "\(file.path):\(used.line): \(file.folder)/\(file.module) imports \(folder)/\(used.module)"
            }
        }
    }

    /// The same of the manifest, whose `room` and `program` lines name each target's folder and dependencies.
    static func brokenArrows(manifest: String) -> [String] {
        let room = /room\(\s*"(\w+)",\s*"(\w+)"(?:,\s*\[([^\]]*)\])?\s*\)/
        let program = /program\(\s*"([\w-]+)",\s*\[([^\]]*)\]\s*\)/
        var folders: [String: String] = [:]
        var targets: [(folder: String, name: String, uses: String)] = []
        for match in manifest.matches(of: room) {
            folders[String(match.output.2)] = String(match.output.1)
            targets.append((String(match.output.1), String(match.output.2), String(match.output.3 ?? "")))
        }
        for match in manifest.matches(of: program) {
            targets.append(("Programs", String(match.output.1), String(match.output.2)))
        }
        return targets.flatMap { target in
            target.uses.matches(of: /"([\w-]+)"/).compactMap { used in
                let other = String(used.output.1)
                guard let folder = folders[other],
                    !allows(folder: target.folder, module: target.name, toUse: other, of: folder)
                else { return nil }
                return "Package.swift: \(target.folder)/\(target.name) depends on \(folder)/\(other)"
            }
        }
    }

    static let needExplanation = [
        "try!", "as!", "fatalError(", "@unchecked Sendable", "nonisolated(unsafe)",
    ]

    static func unexplained(_ files: [SourceTree.File]) -> [String] {
        files.flatMap { file in
            needExplanation.filter(file.text.contains).flatMap { word in
                file.lines.indices.filter { file.code($0).contains(word) && !file.isExplained($0) }
                    .map { "\(file.path):\($0 + 1): \(word) without a comment that says why it is safe" }
            }
        }
    }

    /// Programs parse arguments and wire; what is longer decides something.
    static func longPrograms(_ files: [SourceTree.File], limit: Int = 300) -> [String] {
        files.filter { $0.folder == "Programs" && $0.lines.count > limit }
            .map { "\($0.path): \($0.lines.count) lines, more than \(limit)" }
    }

    static func unfinished(_ files: [SourceTree.File]) -> [String] {
        files.flatMap { file in
            file.text.matches(of: /\b(?:TODO|FIXME|XXX)\b/).map { "\(file.path): \($0.output)" }
        }
    }

    /// Prometheus' conventions: lower case, the product's prefix, no unit but a base unit.
    static func isMetricName(_ name: String) -> Bool {
        name.wholeMatch(of: /sluice(_[a-z][a-z0-9]*)+/) != nil
            && !["_milliseconds", "_ms", "_minutes", "_kb", "_kib"].contains { name.contains($0) }
    }
}
