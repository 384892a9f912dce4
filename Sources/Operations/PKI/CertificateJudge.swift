import FoundationEssentials
import NIOSSL
import Operations
import SwiftASN1
import X509

/// Who a certificate says that the peer is. Times are seconds since 1970.
package struct PeerIdentity: Sendable, Equatable {
    package let role: PeerRole
    /// Hexadecimal, as `openssl x509 -serial` prints it.
    package let serial: String
    /// Big-endian.
    package let serialBytes: [UInt8]
    package let notAfter: Int64
    /// Its own end, or that of the authority that has signed it.
    package let validUntil: Int64
}

/// Why a certificate is refused. Times are seconds since 1970.
package enum CertificateRefusal: Error, Equatable, Sendable {
    case noCertificate
    case malformed(String)
    case unknownIssuer(String)
    case issuerExpired(String, since: Int64)
    case notYetValid(until: Int64)
    case expired(since: Int64)
    case revoked(since: Int64)
    /// An authority's own certificate is nobody's identity.
    case isAuthority
    /// The extended key usage does not have what the peer uses it for.
    case wrongUsage(expected: String)
    case wrongRole(found: String, expected: PeerRole.Kind)
    case noIdentity(EdgeConfiguration.IdentitySource)
    case ambiguousIdentity(EdgeConfiguration.IdentitySource, found: [String])
    case unusableIdentity(IdentifierError)
    case unreadableRole(uri: String)

    /// A word for metrics' labels.
    package var label: String {
        switch self {
        case .noCertificate: "no_certificate"
        case .malformed: "malformed"
        case .unknownIssuer: "unknown_issuer"
        case .issuerExpired: "issuer_expired"
        case .notYetValid: "not_yet_valid"
        case .expired: "expired"
        case .revoked: "revoked"
        case .isAuthority: "is_authority"
        case .wrongUsage: "wrong_usage"
        case .wrongRole: "wrong_role"
        case .noIdentity, .ambiguousIdentity, .unusableIdentity, .unreadableRole: "no_identity"
        }
    }
}

extension CertificateRefusal: CustomStringConvertible {
    package var description: String {
        switch self {
        case .noCertificate: "no client certificate was sent"
        case .malformed(let what): "the certificate is damaged: \(what)"
        case .unknownIssuer(let name): "the certificate is not signed by a trusted authority; it names \(name)"
        case .issuerExpired(let name, let since):
            "the authority \(name) expired at \(RFC3339.text(secondsSince1970: since))"
        case .notYetValid(let until):
            "the certificate is valid from \(RFC3339.text(secondsSince1970: until)) on; is a clock wrong?"
        case .expired(let since): "the certificate expired at \(RFC3339.text(secondsSince1970: since))"
        case .revoked(let since): "the certificate was revoked at \(RFC3339.text(secondsSince1970: since))"
        case .isAuthority: "the certificate is an authority's own"
        case .wrongUsage(let expected): "the certificate's extended key usage lacks \(expected)"
        case .wrongRole(let found, let expected): "the certificate is for the \(found), not for a \(expected.rawValue)"
        case .noIdentity(let source): "the certificate has no \(source.phrase)"
        case .ambiguousIdentity(let source, let found):
            "the certificate has more than one \(source.phrase): \(found.joined(separator: ", "))"
        case .unusableIdentity(let error): "the certificate's identity cannot be used: \(error)"
        case .unreadableRole(let uri): "the certificate's role cannot be read: \(uri)"
        }
    }
}

extension EdgeConfiguration.IdentitySource {
    fileprivate var phrase: String {
        switch self {
        case .uri: "role (a SAN URI sluice:…)"
        case .commonName: "common name"
        case .subjectAltName: "subject alternative name (DNS or URI)"
        }
    }
}

/// Judges a peer's certificate at CONNECT and at each HTTP request: a resumed TLS session skips the handshake's checks.
///
/// It looks at the leaf alone; see `TrustStore` for what that means where intermediate authorities sign.
package struct CertificateJudge: Sendable {
    package let trust: TrustStore

    package init(trust: TrustStore) { self.trust = trust }

    /// - Parameters:
    ///   - certificate: the leaf, as `NIOSSLHandler.peerCertificate` has it; `nil` where the peer sent none.
    ///   - kind: what the peer must be.
    ///   - source: which field is the id. A `sluice:` URI in the certificate must be of the expected kind whatever the
    ///     source is.
    ///   - seconds: now, since 1970.
    package func judge(
        _ certificate: NIOSSLCertificate?, expecting kind: PeerRole.Kind,
        identity source: EdgeConfiguration.IdentitySource = .uri, at seconds: Int64
    ) -> Result<PeerIdentity, CertificateRefusal> {
        guard let certificate else { return .failure(.noCertificate) }
        do throws(CertificateRefusal) {
            let leaf = try Self.parse(certificate)
            return .success(try judge(leaf, expecting: kind, identity: source, at: seconds))
        } catch {
            return .failure(error)
        }
    }

    func judge(
        _ leaf: Certificate, expecting kind: PeerRole.Kind, identity source: EdgeConfiguration.IdentitySource,
        at seconds: Int64
    ) throws(CertificateRefusal) -> PeerIdentity {
        let issuer = try signer(of: leaf)
        // Before the time: an operator who revoked a certificate expects to read that.
        if let date = trust.revocationDate(of: leaf) { throw .revoked(since: date) }
        try Self.checkTime(of: leaf, issuer: issuer, at: seconds)
        try Self.checkUse(of: leaf, expecting: kind)
        let role = try Self.role(of: leaf, expecting: kind, identity: source)
        return PeerIdentity(
            role: role, serial: leaf.serialNumber.hexadecimal, serialBytes: Array(leaf.serialNumber.bytes),
            notAfter: leaf.notValidAfter.wholeSeconds,
            validUntil: min(leaf.notValidAfter.wholeSeconds, issuer.notAfter))
    }

    /// The handshake's part: the signature is right. Time, revocation and role are judged later, where the reason can
    /// be logged with the device's id and told to a client of MQTT 5.0.
    @discardableResult
    func signer(of leaf: Certificate) throws(CertificateRefusal) -> TrustStore.Anchor {
        guard let issuer = trust.issuer(of: leaf) else { throw .unknownIssuer("\(leaf.issuer)".printable) }
        return issuer
    }

    static func parse(_ certificate: NIOSSLCertificate) throws(CertificateRefusal) -> Certificate {
        do {
            return try Certificate(derEncoded: certificate.toDERBytes())
        } catch {
            throw .malformed("\(error)".printable)
        }
    }

    private static func checkTime(
        of leaf: Certificate, issuer: TrustStore.Anchor, at seconds: Int64
    ) throws(CertificateRefusal) {
        let (notBefore, notAfter) = (leaf.notValidBefore.wholeSeconds, leaf.notValidAfter.wholeSeconds)
        guard seconds >= notBefore else { throw .notYetValid(until: notBefore) }
        guard seconds <= notAfter else { throw .expired(since: notAfter) }
        guard seconds <= issuer.notAfter else {
            throw .issuerExpired("\(issuer.certificate.subject)".printable, since: issuer.notAfter)
        }
    }

    private static let understood: [ASN1ObjectIdentifier] = [
        .X509ExtensionID.basicConstraints, .X509ExtensionID.keyUsage, .X509ExtensionID.extendedKeyUsage,
        .X509ExtensionID.subjectAlternativeName,
    ]

    private static func checkUse(of leaf: Certificate, expecting kind: PeerRole.Kind) throws(CertificateRefusal) {
        for found in leaf.extensions where found.critical && !understood.contains(found.oid) {
            throw .malformed("it has the critical extension \(found.oid), which is not understood")
        }
        do {
            if case .isCertificateAuthority? = try leaf.extensions.basicConstraints {
                throw CertificateRefusal.isAuthority
            }
            let usage: ExtendedKeyUsage.Usage = kind == .server ? .serverAuth : .clientAuth
            if let usages = try leaf.extensions.extendedKeyUsage, !usages.contains(usage), !usages.contains(.any) {
                throw CertificateRefusal.wrongUsage(expected: kind == .server ? "serverAuth" : "clientAuth")
            }
        } catch let refusal as CertificateRefusal {
            throw refusal
        } catch {
            throw .malformed("\(error)".printable)
        }
    }

    private static func role(
        of leaf: Certificate, expecting kind: PeerRole.Kind, identity source: EdgeConfiguration.IdentitySource
    ) throws(CertificateRefusal) -> PeerRole {
        let names = try alternativeNames(of: leaf)
        let uris = names.compactMap { name -> String? in
            if case .uniformResourceIdentifier(let uri) = name, PeerRole.isRole(uri: uri) { uri } else { nil }
        }
        guard uris.count <= 1 else { throw .ambiguousIdentity(.uri, found: uris.prefix(4).map(\.printable)) }
        var stated: PeerRole?
        if let uri = uris.first {
            guard let role = PeerRole(uri: uri) else { throw .unreadableRole(uri: uri.printable) }
            guard role.kind == kind else { throw .wrongRole(found: role.description, expected: kind) }
            stated = role
        }
        let candidates: [String]
        switch source {
        case .uri:
            guard let stated else { throw .noIdentity(.uri) }
            return stated
        case .commonName: candidates = commonNames(of: leaf)
        case .subjectAltName:
            candidates = names.compactMap { name in
                switch name {
                case .dnsName(let dns): dns
                case .uniformResourceIdentifier(let uri) where !PeerRole.isRole(uri: uri): uri
                default: nil
                }
            }
        }
        guard let id = candidates.first else { throw .noIdentity(source) }
        guard candidates.count == 1 else {
            throw .ambiguousIdentity(source, found: candidates.prefix(4).map(\.printable))
        }
        do {
            return try PeerRole(kind, id: id)
        } catch {
            throw .unusableIdentity(error)
        }
    }

    private static func alternativeNames(of leaf: Certificate) throws(CertificateRefusal) -> [GeneralName] {
        do {
            return try leaf.extensions.subjectAlternativeNames.map(Array.init) ?? []
        } catch {
            throw .malformed("\(error)".printable)
        }
    }

    private static func commonNames(of leaf: Certificate) -> [String] {
        leaf.subject.flatMap { $0 }.filter { $0.type == .RDNAttributeType.commonName }.compactMap { String($0.value) }
    }
}

extension Certificate.SerialNumber {
    /// Upper case, two digits a byte, as OpenSSL prints it.
    package var hexadecimal: String {
        bytes.map { byte in
            let text = String(byte, radix: 16, uppercase: true)
            return text.count == 1 ? "0" + text : text
        }.joined()
    }

    package init?(hexadecimal text: String) {
        guard !text.isEmpty, text.utf8.count % 2 == 0, text.utf8.count <= 64 else { return nil }
        var bytes: [UInt8] = []
        var rest = text[...]
        while !rest.isEmpty {
            guard let byte = UInt8(rest.prefix(2), radix: 16) else { return nil }
            bytes.append(byte)
            rest = rest.dropFirst(2)
        }
        self.init(bytes: bytes)
    }
}
