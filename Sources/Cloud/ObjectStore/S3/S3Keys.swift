import Glibc
import Operations

/// An access key. It shows nothing of itself but its id, in logs, dumps and errors.
struct S3Keys: Sendable, Equatable, CustomStringConvertible, CustomReflectable {
    var id: String
    var secret: String
    /// Of temporary keys.
    var sessionToken: String?

    var description: String { "the access key \(id)" }
    var customMirror: Mirror { Mirror(self, children: ["id": id]) }
}

/// Where the access key is read, for each request anew, so that a replaced one counts at once.
struct S3KeySource: Sendable {
    private static let maximumBytes = 64 * 1024
    /// Among systemd's credentials.
    static let credential = "s3-credentials"

    /// As the configuration names it.
    let file: String?
    private let environment: @Sendable (String) -> String?

    init(
        file: String?,
        environment: @escaping @Sendable (String) -> String? = { name in getenv(name).map { String(cString: $0) } }
    ) {
        self.file = file
        self.environment = environment
    }

    func keys() throws(ObjectStoreError) -> S3Keys {
        if let file { return try read(file) }
        if let folder = environment("CREDENTIALS_DIRECTORY") {
            let file = "\(folder)/\(Self.credential)"
            if AtomicFile.exists(file) { return try read(file) }
        }
        guard let id = environment("AWS_ACCESS_KEY_ID"), let secret = environment("AWS_SECRET_ACCESS_KEY"),
            !id.isEmpty, !secret.isEmpty
        else {
            throw .refused(
                "there is no access key: set objects.s3.credentialsFile, or pass systemd's credential "
                    + "\(Self.credential), or set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY")
        }
        let token = environment("AWS_SESSION_TOKEN")
        return try checked(S3Keys(id: id, secret: secret, sessionToken: token), from: "the environment")
    }

    private func read(_ file: String) throws(ObjectStoreError) -> S3Keys {
        let bytes: [UInt8]
        do {
            bytes = try AtomicFile.read(file, maximumBytes: Self.maximumBytes)
        } catch { throw .refused("the access key: \(error)") }
        return try checked(Self.parse(String(decoding: bytes, as: UTF8.self), file: file), from: file)
    }

    /// Lines `name = value`; of sections, `[default]` alone counts. Lines that begin with # or ; are comments.
    private static func parse(_ text: String, file: String) throws(ObjectStoreError) -> S3Keys {
        var values: [Substring: String] = [:]
        var counts = true
        for line in text.split(whereSeparator: \.isNewline) {
            let line = trimmed(line)
            if line.isEmpty || line.hasPrefix("#") || line.hasPrefix(";") { continue }
            if line.hasPrefix("[") {
                counts = line == "[default]"
                continue
            }
            guard counts, let equals = line.firstIndex(of: "=") else { continue }
            values[trimmed(line[..<equals])] = String(trimmed(line[line.index(after: equals)...]))
        }
        guard let id = values["aws_access_key_id"], let secret = values["aws_secret_access_key"], !id.isEmpty,
            !secret.isEmpty
        else {
            throw .refused("\(file) has no lines aws_access_key_id = … and aws_secret_access_key = …")
        }
        return S3Keys(id: id, secret: secret, sessionToken: values["aws_session_token"])
    }

    private static func trimmed(_ text: Substring) -> Substring {
        let start = text.drop(while: \.isWhitespace)
        return start[..<(start.lastIndex { !$0.isWhitespace }.map { start.index(after: $0) } ?? start.startIndex)]
    }

    /// They become header values.
    private func checked(_ keys: S3Keys, from place: String) throws(ObjectStoreError) -> S3Keys {
        let all = [keys.id, keys.secret, keys.sessionToken ?? ""]
        guard all.allSatisfy({ $0.utf8.allSatisfy { (0x21...0x7E).contains($0) } }) else {
            throw .refused("the access key of \(place) has characters that none has")
        }
        var keys = keys
        if keys.sessionToken?.isEmpty == true { keys.sessionToken = nil }
        return keys
    }
}
