/// Reads `objects: { folder: … }` or `objects: { s3: … }`.
struct ObjectsReader {
    let root: ConfigurationSection
    let checkingFiles: Bool

    func objects() -> CloudConfiguration.Objects? {
        guard let section = root.section("objects") else { return nil }
        let (folder, s3) = (section.section("folder"), section.section("s3"))
        defer { section.finish() }
        if section.has("folder") == section.has("s3") {
            section.problem(
                "folder", found: section.has("s3") ? "folder and s3" : "neither folder nor s3",
                allowed: "exactly one of them")
            return nil
        }
        if let s3 { return self.s3(s3).map { .s3($0) } }
        guard let folder else { return nil }
        let path = folder.requirePath("path", checking: nil)
        folder.finish()
        return path.map { .folder($0) }
    }

    private func s3(_ section: ConfigurationSection) -> CloudConfiguration.S3? {
        defer { section.finish() }
        let bucket = section.require("bucket", .bucket)
        var s3 = CloudConfiguration.S3(bucket: bucket ?? "")
        section.read("endpoint", into: &s3.endpoint, ConfigurationType.httpURL.optional())
        section.read("region", into: &s3.region, .region)
        section.read("prefix", into: &s3.prefix, .objectPrefix)
        section.read(
            "addressing", into: &s3.addressing, ConfigurationType<CloudConfiguration.S3.Addressing>.word.optional())
        s3.credentialsFile = section.path("credentialsFile")
        s3.ca = section.path("ca")
        s3.certificate = section.path("certificate")
        s3.key = section.path("key")
        if (s3.certificate == nil) != (s3.key == nil) {
            section.problem(
                s3.key == nil ? "key" : "certificate", found: "nothing", allowed: "certificate and key, or neither")
        }
        for secret in ["accessKey", "secretKey", "accessKeyId", "secretAccessKey"] where section.keys.contains(secret) {
            _ = section.has(secret)
            section.problem(secret, found: "a secret", allowed: "it in credentialsFile, readable by the daemon alone")
        }
        checkFiles(section, s3)
        return bucket == nil ? nil : s3
    }

    private func checkFiles(_ section: ConfigurationSection, _ s3: CloudConfiguration.S3) {
        guard checkingFiles else { return }
        if let file = s3.credentialsFile {
            do {
                _ = try AtomicFile.read(file, maximumBytes: 1 << 20)
            } catch {
                section.problem("credentialsFile", found: error.description, allowed: "a readable file")
            }
        }
        if let file = s3.ca { section.check("ca", file, holds: .certificate) }
        if let file = s3.certificate { section.check("certificate", file, holds: .certificate) }
        if let file = s3.key { section.check("key", file, holds: .privateKey) }
    }
}

extension ConfigurationType<String> {
    /// Amazon's rules for the names of new buckets, as far as they are about characters.
    fileprivate static var bucket: Self {
        Self(allowed: "3 to 63 characters of a-z 0-9 . -, the first and last a letter or digit") { text in
            let isSmall = { (byte: UInt8) in
                (UInt8(ascii: "a")...UInt8(ascii: "z")).contains(byte)
                    || (UInt8(ascii: "0")...UInt8(ascii: "9")).contains(byte)
            }
            let bytes = Array(text.utf8)
            guard (3...63).contains(bytes.count), isSmall(bytes[0]), isSmall(bytes[bytes.count - 1]) else { return nil }
            return bytes.allSatisfy { isSmall($0) || $0 == UInt8(ascii: ".") || $0 == UInt8(ascii: "-") } ? text : nil
        }
    }

    fileprivate static var region: Self {
        Self(allowed: "1 to 64 characters of a-z 0-9 -") { text in
            (1...64).contains(text.utf8.count)
                && text.utf8.allSatisfy { byte in
                    (UInt8(ascii: "a")...UInt8(ascii: "z")).contains(byte)
                        || (UInt8(ascii: "0")...UInt8(ascii: "9")).contains(byte) || byte == UInt8(ascii: "-")
                } ? text : nil
        }
    }

    /// What stands before objects' keys; see `ObjectKey` for the characters.
    fileprivate static var objectPrefix: Self {
        Self(allowed: "at most 200 characters of A-Z a-z 0-9 . _ - = and /, with a / at the end") { text in
            guard (1...200).contains(text.utf8.count), text.hasSuffix("/") else { return nil }
            let parts = text.dropLast().split(separator: "/", omittingEmptySubsequences: false)
            return parts.allSatisfy { part in
                !part.isEmpty && part != "." && part != ".."
                    && part.utf8.allSatisfy { byte in
                        (UInt8(ascii: "a")...UInt8(ascii: "z")).contains(byte | 0x20)
                            || (UInt8(ascii: "0")...UInt8(ascii: "9")).contains(byte)
                            || ".-=".utf8.contains(byte) || byte == UInt8(ascii: "_")
                    }
            } ? text : nil
        }
    }

    /// `http[s]://host[:port]`, without path, user or query.
    fileprivate static var httpURL: Self {
        Self(allowed: "a URL as https://host:port, without a path") { text in
            for scheme in ["https://", "http://"] where text.hasPrefix(scheme) {
                let rest = text.dropFirst(scheme.count)
                let authority = rest.hasSuffix("/") ? rest.dropLast() : rest
                return HostAndPort(authority) == nil ? nil : scheme + authority
            }
            return nil
        }
    }
}
