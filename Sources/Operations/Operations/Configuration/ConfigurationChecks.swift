import Glibc

/// What a configuration's values mean beyond their form.
enum Address {
    /// A literal IPv4 or IPv6 address.
    static func isLiteral(_ text: String) -> Bool { bytes(text) != nil }

    static func isLoopback(_ text: String) -> Bool {
        if text == "localhost" { return true }
        guard let bytes = bytes(text) else { return false }
        if bytes.count == 4 { return bytes[0] == 127 }
        if bytes.dropLast().allSatisfy({ $0 == 0 }) { return bytes[15] == 1 }
        // ::ffff:127.0.0.0/104
        return bytes[..<10].allSatisfy { $0 == 0 } && bytes[10] == 0xFF && bytes[11] == 0xFF && bytes[12] == 127
    }

    private static func bytes(_ text: String) -> [UInt8]? {
        for (family, length) in [(AF_INET, 4), (AF_INET6, 16)] {
            var bytes = [UInt8](repeating: 0, count: length)
            if inet_pton(family, text, &bytes) == 1 { return bytes }
        }
        return nil
    }
}

extension ConfigurationType<String> {
    static var address: Self {
        Self(allowed: "an IPv4 or IPv6 address, or localhost") { text in
            text == "localhost" || Address.isLiteral(text) ? text : nil
        }
    }

    /// An id as certificates have it, so that it can stand in topics, URIs and file names.
    static var identifier: Self {
        Self(allowed: "1 to 128 characters of A-Z a-z 0-9 . _ : -") { text in
            let isValid =
                (1...128).contains(text.utf8.count)
                && text.utf8.allSatisfy { byte in
                    (UInt8(ascii: "a")...UInt8(ascii: "z")).contains(byte | 0x20)
                        || (UInt8(ascii: "0")...UInt8(ascii: ":")).contains(byte)
                        || [UInt8(ascii: "."), UInt8(ascii: "_"), UInt8(ascii: "-")].contains(byte)
                }
            return isValid ? text : nil
        }
    }

    /// MQTT 5.0, 4.7: `+` and `#` fill a whole level, `#` is the last one.
    static var topicFilter: Self {
        Self(allowed: "a topic filter (+ and # fill a whole level, # is the last)") { text in
            guard (1...65_535).contains(text.utf8.count), !text.utf8.contains(0) else { return nil }
            let levels = text.split(separator: "/", omittingEmptySubsequences: false)
            for (position, level) in levels.enumerated() {
                if level.contains("+") && level != "+" { return nil }
                if level.contains("#") && (level != "#" || position != levels.count - 1) { return nil }
            }
            return text
        }
    }

    /// A filter in which `%d` stands for the device id.
    static var accessTopic: Self {
        Self(allowed: topicFilter.allowed + "; %d is the device id") { text in
            topicFilter.parse(replacingDevice(in: text)) == nil ? nil : text
        }
    }

    /// `https://host[:port]`, without path, user or query.
    static var httpsURL: Self {
        Self(allowed: "a URL as https://host:port, without a path") { text in
            guard text.hasPrefix("https://") else { return nil }
            let rest = text.dropFirst("https://".count)
            let authority = rest.hasSuffix("/") ? rest.dropLast() : rest
            return HostAndPort(authority) == nil ? nil : "https://" + authority
        }
    }

    /// `host:port`, as Kafka's clients take it.
    static var hostAndPort: Self {
        Self(allowed: "an address as host:port") { text in HostAndPort(text[...])?.port == nil ? nil : text }
    }

    private static func replacingDevice(in text: String) -> String {
        var result = ""
        var rest = text[...]
        while let first = rest.first {
            let isDevice = rest.hasPrefix("%d")
            result.append(isDevice ? "d" : first)
            rest = rest.dropFirst(isDevice ? 2 : 1)
        }
        return result
    }
}

struct HostAndPort {
    var host: Substring
    var port: Int?

    /// `[::1]:443`, `name:443`, `name`.
    init?(_ text: Substring) {
        if text.first == "[" {
            guard let end = text.firstIndex(of: "]") else { return nil }
            host = text[text.index(after: text.startIndex)..<end]
            guard Address.isLiteral(String(host)) else { return nil }
            let rest = text[text.index(after: end)...]
            guard rest.isEmpty || rest.first == ":" else { return nil }
            if !rest.isEmpty {
                guard let number = Self.port(rest.dropFirst()) else { return nil }
                port = number
            }
            return
        }
        let parts = text.split(separator: ":", omittingEmptySubsequences: false)
        guard parts.count <= 2, !parts[0].isEmpty else { return nil }
        host = parts[0]
        let isName = host.utf8.allSatisfy { byte in
            (UInt8(ascii: "a")...UInt8(ascii: "z")).contains(byte | 0x20)
                || (UInt8(ascii: "0")...UInt8(ascii: "9")).contains(byte)
                || [UInt8(ascii: "."), UInt8(ascii: "-"), UInt8(ascii: "_")].contains(byte)
        }
        guard isName else { return nil }
        if parts.count == 2 {
            guard let number = Self.port(parts[1]) else { return nil }
            port = number
        }
    }

    private static func port(_ text: Substring) -> Int? {
        Int(text).flatMap { (1...65_535).contains($0) ? $0 : nil }
    }
}

/// What a PEM file must have in it.
enum PEMContent: String {
    case certificate = "CERTIFICATE"
    case privateKey = "PRIVATE KEY"
    case revocationList = "X509 CRL"

    var allowed: String {
        switch self {
        case .certificate: "a readable PEM file with a certificate"
        case .privateKey: "a readable PEM file with a private key that is not encrypted"
        case .revocationList: "a readable revocation list, PEM or DER"
        }
    }
}

extension ConfigurationSection {
    /// A path, resolved against the file's folder.
    func path(_ key: String) -> String? { value(key, .text).map(report.resolve) }

    func requirePath(_ key: String, checking content: PEMContent?) -> String? {
        guard let path = require(key, .text).map(report.resolve) else { return nil }
        if let content { check(key, path, holds: content) }
        return path
    }

    /// A file that is there or may be made; the directory may be made with the daemon's start.
    func checkMayHold(_ key: String, _ path: String) {
        var status = stat()
        guard stat(path, &status) == 0, status.st_mode & S_IFMT != S_IFREG else { return }
        problem(key, found: "\(path.shown), which is no regular file", allowed: "a file of its own")
    }

    func check(_ key: String, _ path: String, holds content: PEMContent) {
        guard !path.hasPrefix(ConfigurationReport.credentialsPrefix) else {
            problem(
                key, found: "\(path.shown), but systemd has passed no credentials",
                allowed: "\(content.allowed); to check as the unit would: systemd-run --pipe --wait "
                    + "-p LoadCredential=keys:/etc/sluice/keys PROGRAM --config FILE --check")
            return
        }
        let bytes: [UInt8]
        do {
            bytes = try AtomicFile.read(path, maximumBytes: 24 * 1024 * 1024)
        } catch {
            problem(key, found: "\(path.shown) (\(String(cString: strerror(error.code))))", allowed: content.allowed)
            return
        }
        if content == .revocationList && bytes.first == 0x30 { return }
        let text = String(decoding: bytes, as: UTF8.self)
        let lines = text.split(whereSeparator: \.isNewline).filter { $0.hasPrefix("-----BEGIN ") }
        let isEncrypted = text.contains("ENCRYPTED")
        let ending = "\(content.rawValue)-----"
        guard lines.contains(where: { $0.hasSuffix(ending) }), content != .privateKey || !isEncrypted else {
            let found = isEncrypted ? "an encrypted key" : lines.isEmpty ? "no PEM" : "other PEM"
            problem(key, found: "\(path.shown), \(found) in it", allowed: content.allowed)
            return
        }
    }

    func port(_ key: String, into port: inout Int) { read(key, into: &port, .integer(0...65_535)) }

    /// `{ address, port }`
    func endpoint(into endpoint: inout EdgeConfiguration.Endpoint) {
        read("address", into: &endpoint.address, .address)
        port("port", into: &endpoint.port)
    }

    /// `tls: { certificate, key, clientCA, crl }`
    ///
    /// - Parameter checkingFiles: whether the files must be there.
    func tls(checkingFiles: Bool) -> EdgeConfiguration.TLS? {
        let certificate = requirePath("certificate", checking: checkingFiles ? .certificate : nil)
        let key = requirePath("key", checking: checkingFiles ? .privateKey : nil)
        let clientCA = requirePath("clientCA", checking: checkingFiles ? .certificate : nil)
        let crl = path("crl")
        if let crl, checkingFiles { check("crl", crl, holds: .revocationList) }
        finish()
        guard let certificate, let key, let clientCA else { return nil }
        return EdgeConfiguration.TLS(certificate: certificate, key: key, clientCA: clientCA, crl: crl)
    }

    func log() -> EdgeConfiguration.Log {
        var log = EdgeConfiguration.Log()
        read("level", into: &log.level, .word)
        finish()
        return log
    }
}
