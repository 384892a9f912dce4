import Foundation
import Operations

/// A configuration file in a folder of its own, removed with the last reference.
final class TemporaryFile: Sendable {
    let folder: String
    let path: String

    init(_ text: String, name: String = "c.yaml") throws {
        folder = NSTemporaryDirectory() + "sluice-operations-" + UUID().uuidString
        path = folder + "/" + name
        try FileManager.default.createDirectory(atPath: folder, withIntermediateDirectories: true)
        try Data(text.utf8).write(to: URL(fileURLWithPath: path))
    }

    deinit { try? FileManager.default.removeItem(atPath: folder) }

    func add(_ text: String, name: String) throws {
        try Data(text.utf8).write(to: URL(fileURLWithPath: folder + "/" + name))
    }
}

/// The root of the repository.
let repository = URL(fileURLWithPath: #filePath).deletingLastPathComponent().deletingLastPathComponent()
    .deletingLastPathComponent().path

/// The problems of loading a file, each without its file's name.
func problems(_ load: () throws -> Void) -> [String] {
    do {
        try load()
        return []
    } catch let error as ConfigurationProblems {
        return error.problems.map { problem in
            String(problem.description.dropFirst(problem.file.count + 1))
        }
    } catch {
        return ["another error: \(error)"]
    }
}

func edgeProblems(_ text: String, checkingFiles: Bool = false) throws -> [String] {
    let file = try TemporaryFile(text)
    return problems { _ = try EdgeConfiguration.load(file: file.path, checkingFiles: checkingFiles) }
}

func edge(_ text: String) throws -> EdgeConfiguration {
    let file = try TemporaryFile(text)
    return try EdgeConfiguration.load(file: file.path, checkingFiles: false)
}

func cloudProblems(_ text: String, role: CloudRole = .all, checkingFiles: Bool = false) throws -> [String] {
    let file = try TemporaryFile(text)
    return problems { _ = try CloudConfiguration.load(file: file.path, role: role, checkingFiles: checkingFiles) }
}
