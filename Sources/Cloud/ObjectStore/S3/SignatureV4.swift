import Crypto
import Operations

/// AWS Signature Version 4 of a request's headers ("Authenticating Requests: Using the Authorization Header").
struct SignatureV4 {
    static let algorithm = "AWS4-HMAC-SHA256"

    let region: String
    let service: String
    let keys: S3Keys

    /// What is signed of a request.
    struct Request {
        var method: String
        /// As it is sent, percent-encoded once; S3 does not encode it again.
        var path: String
        /// Names and values, not encoded.
        var query: [(name: String, value: String)] = []
        /// With `host` and every `x-amz-` header. Values without line breaks.
        var headers: [(name: String, value: String)]
        /// SHA-256 of the body in hexadecimal.
        var payloadDigest: String
    }

    /// The value of the header `Authorization`.
    ///
    /// - Parameter time: as in the header `x-amz-date`, `20130524T000000Z`.
    func authorization(_ request: Request, time: String) -> String {
        let headers = Self.canonicalHeaders(request.headers)
        let names = headers.map(\.name).joined(separator: ";")
        let canonical = [
            request.method, request.path, Self.query(request.query),
            headers.map { "\($0.name):\($0.value)\n" }.joined(), names, request.payloadDigest,
        ].joined(separator: "\n")
        let date = String(time.prefix(8))
        let scope = "\(date)/\(region)/\(service)/aws4_request"
        let text = [Self.algorithm, time, scope, Self.digest(of: canonical.utf8)].joined(separator: "\n")
        let signature = Self.authenticate(text, with: signingKey(date: date))
        return "\(Self.algorithm) Credential=\(keys.id)/\(scope),SignedHeaders=\(names),"
            + "Signature=\(Self.hexadecimal(signature))"
    }

    /// `20130524T000000Z`
    static func time(secondsSince1970 seconds: Int64) -> String {
        RFC3339.text(secondsSince1970: seconds).filter { $0 != "-" && $0 != ":" }
    }

    static func digest(of bytes: some Sequence<UInt8>) -> String {
        var hash = SHA256()
        // In one piece where the sequence has its bytes side by side.
        if bytes.withContiguousStorageIfAvailable({ hash.update(bufferPointer: UnsafeRawBufferPointer($0)) }) == nil {
            hash.update(data: Array(bytes))
        }
        return hexadecimal(hash.finalize())
    }

    /// The canonical query string, which is also what is sent.
    static func query(_ items: [(name: String, value: String)]) -> String {
        items.map { (encoded($0.name), encoded($0.value)) }
            .sorted { $0.0 == $1.0 ? $0.1.precedesByBytes($1.1) : $0.0.precedesByBytes($1.0) }
            .map { "\($0.0)=\($0.1)" }.joined(separator: "&")
    }

    /// RFC 3986: all but the unreserved characters.
    ///
    /// - Parameter keepingSlashes: for a path.
    static func encoded(_ text: String, keepingSlashes: Bool = false) -> String {
        var result = ""
        for byte in text.utf8 {
            switch byte {
            case UInt8(ascii: "A")...UInt8(ascii: "Z"), UInt8(ascii: "a")...UInt8(ascii: "z"),
                UInt8(ascii: "0")...UInt8(ascii: "9"), UInt8(ascii: "-"), UInt8(ascii: "."), UInt8(ascii: "_"),
                UInt8(ascii: "~"):
                result.unicodeScalars.append(Unicode.Scalar(byte))
            case UInt8(ascii: "/") where keepingSlashes: result.append("/")
            default:
                let digits = String(byte, radix: 16, uppercase: true)
                result += digits.utf8.count == 1 ? "%0\(digits)" : "%\(digits)"
            }
        }
        return result
    }

    static func hexadecimal(_ bytes: some Sequence<UInt8>) -> String {
        let digits = Array("0123456789abcdef".utf8)
        var text: [UInt8] = []
        for byte in bytes {
            text.append(digits[Int(byte >> 4)])
            text.append(digits[Int(byte & 15)])
        }
        return String(decoding: text, as: UTF8.self)
    }

    /// Names in small letters and in order; values without spaces around them and with single ones within. The values of
    /// a name that is there more than once stand in one line.
    private static func canonicalHeaders(
        _ headers: [(name: String, value: String)]
    ) -> [(name: String, value: String)] {
        var values: [String: [String]] = [:]
        for header in headers {
            let value = header.value.split(separator: " ", omittingEmptySubsequences: true).joined(separator: " ")
            values[header.name.lowercased(), default: []].append(value)
        }
        return values.sorted { $0.key.precedesByBytes($1.key) }.map { ($0.key, $0.value.joined(separator: ",")) }
    }

    private func signingKey(date: String) -> SymmetricKey {
        var key = SymmetricKey(data: Array("AWS4\(keys.secret)".utf8))
        for part in [date, region, service, "aws4_request"] {
            key = SymmetricKey(data: Array(Self.authenticate(part, with: key)))
        }
        return key
    }

    private static func authenticate(_ text: String, with key: SymmetricKey) -> HMAC<SHA256>.MAC {
        HMAC<SHA256>.authenticationCode(for: Array(text.utf8), using: key)
    }
}
