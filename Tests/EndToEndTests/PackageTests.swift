import Foundation
import Testing

extension EndToEnd {
    /// The Debian package and the units in it. It is made from the tests' own programs, without a release build.
    @Suite(.serialized) struct PackageTests {
        private let root: URL

        init() throws {
            root = FileManager.default.temporaryDirectory.appendingPathComponent("sluice-root-\(UUID().uuidString)")
            for folder in ["updates", "info", "triggers"] {
                try FileManager.default.createDirectory(
                    at: root.appendingPathComponent("var/lib/dpkg/\(folder)"), withIntermediateDirectories: true)
            }
            for file in ["status", "available"] {
                try Data().write(to: root.appendingPathComponent("var/lib/dpkg/\(file)"))
            }
        }

        /// What is in the root beside dpkg's own tables and the accounts.
        private func files() throws -> Set<String> {
            let all = try #require(FileManager.default.enumerator(atPath: root.path))
            return Set(
                all.compactMap { $0 as? String }.filter { path in
                    var isFolder: ObjCBool = false
                    _ = FileManager.default.fileExists(
                        atPath: root.appendingPathComponent(path).path, isDirectory: &isFolder)
                    return !isFolder.boolValue && !path.hasPrefix("var/lib/dpkg/")
                        && !["passwd", "group", "shadow", "gshadow", ".pwd.lock"].map { "etc/\($0)" }.contains(path)
                })
        }

        private func dpkg(_ arguments: String...) async throws {
            let result = try await run(
                "dpkg", ["--root=\(root.path)", "--force-depends", "--force-script-chrootless"] + arguments, within: 60)
            #expect(result.status == 0, "\(result.output)")
        }

        @Test func thePackageInstallsRunsAndLeavesNothing() async throws {
            defer { try? FileManager.default.removeItem(at: root) }
            let output = root.appendingPathComponent("out")
            let binaries = URL(fileURLWithPath: Binaries.path("sluice")).deletingLastPathComponent().path
            let made = try await run(
                Repository.path("scripts/package.sh"),
                ["--binaries", binaries, "--output", output.path, "--fast"], within: 120)
            #expect(made.status == 0, "\(made.output)")
            let package = try #require(
                try FileManager.default.contentsOfDirectory(atPath: output.path).first { $0.hasSuffix(".deb") })
            try await dpkg("--install", output.appendingPathComponent(package).path)
            try FileManager.default.removeItem(at: output)

            let installed = try files()
            for program in ["sluice", "sluice-edge", "sluice-cloud"] {
                #expect(installed.contains("usr/bin/\(program)"))
            }
            let passwd = try String(contentsOf: root.appendingPathComponent("etc/passwd"), encoding: .utf8)
            #expect(passwd.contains("sluice:x:") && passwd.contains("nologin"))
            let attributes = try FileManager.default.attributesOfItem(
                atPath: root.appendingPathComponent("etc/sluice/keys").path)
            #expect(attributes[.posixPermissions] as? Int == 0o700)
            #expect(attributes[.ownerAccountID] as? Int == 0)

            let check = try await run(
                root.path + "/usr/bin/sluice-edge",
                ["--config", root.path + "/etc/sluice/sluice-edge.yaml", "--check"])
            #expect(check.status == 0, "\(check.output)")
            let steps = try await run(root.path + "/usr/bin/sluice", ["migrate", "--help"])
            #expect(steps.status == 0 && !steps.output.isEmpty, "\(steps.output)")
            try await verifyUnits()

            // What an operator and the daemon have made stays when the package is removed, and goes with a purge.
            try Data().write(to: root.appendingPathComponent("etc/sluice/keys/edge.key"))
            try Data().write(to: root.appendingPathComponent("var/lib/sluice/buffer.db"))
            try await dpkg("--remove", "sluice")
            #expect(
                try files() == [
                    "etc/sluice/sluice-edge.yaml", "etc/sluice/sluice-cloud.yaml", "etc/sluice/keys/edge.key",
                    "var/lib/sluice/buffer.db",
                ])
            try await dpkg("--purge", "sluice")
            #expect(try files() == [])
        }

        /// Silent, since systemd-analyze exits with 0 for an unknown key. The programs are where the root is.
        private func verifyUnits() async throws {
            for unit in ["sluice-edge.service", "sluice-cloud.service"] {
                let installed = root.appendingPathComponent("usr/lib/systemd/system/\(unit)")
                let text = try String(contentsOf: installed, encoding: .utf8)
                    .replacingOccurrences(of: "/usr/bin/", with: root.path + "/usr/bin/")
                let folder = root.appendingPathComponent("units")
                try FileManager.default.createDirectory(at: folder, withIntermediateDirectories: true)
                defer { try? FileManager.default.removeItem(at: folder) }
                let file = folder.appendingPathComponent(unit)
                try text.write(to: file, atomically: true, encoding: .utf8)
                let result = try await run("systemd-analyze", ["verify", "--man=no", file.path])
                #expect(result.status == 0 && result.output.isEmpty, "\(result.output)")
            }
        }

        @Test(arguments: ["sluice-edge.service", "sluice-cloud.service"])
        func theUnitsAreSandboxed(unit: String) async throws {
            try? FileManager.default.removeItem(at: root)
            let result = try await run(
                "systemd-analyze",
                [
                    "security", "--offline=true", "--threshold=20", "--no-pager",
                    Repository.path("systemd/\(unit)"),
                ])
            #expect(result.status == 0, "\(result.output)")
        }
    }
}
