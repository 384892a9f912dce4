/// What a certificate entitles its holder to be, as a SAN URI says it: `sluice:device/ID`, `sluice:gateway/ID` or
/// `sluice:server/NAME`.
package struct PeerRole: Hashable, Sendable {
    package enum Kind: String, Sendable, CaseIterable, Codable {
        case device, gateway, server
    }

    package let kind: Kind
    package let id: String

    package init(_ kind: Kind, id: String) throws(IdentifierError) {
        try PeerIdentifier.check(id)
        self.kind = kind
        self.id = id
    }

    /// The letters of an identifier need no percent-encoding in a URI's path (RFC 3986, 3.3).
    package var uri: String { "sluice:\(kind.rawValue)/\(id)" }
}

extension PeerRole: CustomStringConvertible {
    package var description: String { "\(kind.rawValue) \(id)" }
}

/// Why a text cannot be an id of a device, a gateway or a server.
package enum IdentifierError: Error, Equatable, CustomStringConvertible {
    case empty
    case tooLong(bytes: Int)
    case badCharacter(id: String)

    package var description: String {
        switch self {
        case .empty: "an id must not be empty"
        case .tooLong(let bytes): "an id has 1 to \(PeerIdentifier.maximumBytes) bytes, this one has \(bytes)"
        case .badCharacter(let id): "the id \"\(id)\" has a character other than A-Z a-z 0-9 . _ : -"
        }
    }
}

/// Ids become parts of topics, file names, log lines and URIs, so their alphabet is small: no slash, no wildcard, no
/// space, nothing that a terminal would interpret.
package enum PeerIdentifier {
    package static let maximumBytes = 128

    package static func check(_ id: String) throws(IdentifierError) {
        let bytes = id.utf8
        guard !bytes.isEmpty else { throw .empty }
        guard bytes.count <= maximumBytes else { throw .tooLong(bytes: bytes.count) }
        guard bytes.allSatisfy(isAllowed) else { throw .badCharacter(id: id.printable) }
    }

    private static func isAllowed(_ byte: UInt8) -> Bool {
        switch byte {
        case UInt8(ascii: "A")...UInt8(ascii: "Z"), UInt8(ascii: "a")...UInt8(ascii: "z"),
            UInt8(ascii: "0")...UInt8(ascii: "9"), UInt8(ascii: "."), UInt8(ascii: "_"), UInt8(ascii: ":"),
            UInt8(ascii: "-"):
            true
        default: false
        }
    }
}

extension PeerRole {
    package static let scheme = "sluice:"

    /// Schemes are compared without regard to case (RFC 3986, 3.1).
    package static func isRole(uri: String) -> Bool {
        uri.utf8.count >= scheme.utf8.count && uri.prefix(scheme.count).lowercased() == scheme
    }

    /// `nil` where the URI has the scheme but is no role: an unknown kind, no id, a broken escape, a forbidden letter.
    package init?(uri: String) {
        guard PeerRole.isRole(uri: uri) else { return nil }
        let parts = uri.dropFirst(PeerRole.scheme.count).split(
            separator: "/", maxSplits: 1, omittingEmptySubsequences: false)
        guard parts.count == 2, let kind = Kind(rawValue: String(parts[0])), let id = parts[1].percentDecoded,
            let role = try? PeerRole(kind, id: id)
        else { return nil }
        self = role
    }
}

extension Substring {
    /// `nil` where a `%` is not followed by two hexadecimal digits, or the bytes are no UTF-8.
    fileprivate var percentDecoded: String? {
        var decoded: [UInt8] = []
        var rest = utf8[...]
        while let byte = rest.popFirst() {
            guard byte == UInt8(ascii: "%") else {
                decoded.append(byte)
                continue
            }
            guard let high = rest.popFirst()?.hexadecimalValue, let low = rest.popFirst()?.hexadecimalValue else {
                return nil
            }
            decoded.append(high << 4 | low)
        }
        return String(validating: decoded, as: UTF8.self)
    }
}

extension UInt8 {
    fileprivate var hexadecimalValue: UInt8? {
        switch self {
        case UInt8(ascii: "0")...UInt8(ascii: "9"): self - UInt8(ascii: "0")
        case UInt8(ascii: "a")...UInt8(ascii: "f"): self - UInt8(ascii: "a") + 10
        case UInt8(ascii: "A")...UInt8(ascii: "F"): self - UInt8(ascii: "A") + 10
        default: nil
        }
    }
}

extension String {
    /// For error texts: at most 80 characters, control characters replaced, since a foreign certificate wrote it.
    package var printable: String {
        let text = unicodeScalars.prefix(80).map { scalar -> Character in
            scalar.properties.generalCategory == .control ? "\u{FFFD}" : Character(scalar)
        }
        return String(text) + (unicodeScalars.count > 80 ? "…" : "")
    }
}
