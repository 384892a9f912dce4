import Crypto
import FoundationEssentials
import Operations
import SwiftASN1
import X509

/// Why a certificate revocation list cannot be used.
package enum RevocationListError: Error, Equatable, CustomStringConvertible {
    case tooLarge(bytes: Int)
    case malformed(String)
    case unsupported(String)
    case unknownIssuer(String)
    case badSignature(issuer: String)

    package var description: String {
        switch self {
        case .tooLarge(let bytes):
            "the revocation list has \(bytes) bytes, allowed are \(RevocationList.maximumBytes)"
        case .malformed(let what): "the revocation list is damaged: \(what)"
        case .unsupported(let what): "the revocation list uses what is not supported: \(what)"
        case .unknownIssuer(let name): "the revocation list is of \(name), which is none of the trusted authorities"
        case .badSignature(let issuer):
            "the revocation list's signature is not that of \(issuer): it was changed, or another key signed it"
        }
    }
}

/// A certificate revocation list (RFC 5280, 5) whose signature has been verified. Times are seconds since 1970.
///
/// Complete lists only: a delta or an indirect list marks itself by a critical extension and is refused.
package struct RevocationList: Sendable, Equatable {
    package static let maximumBytes = 16 * 1024 * 1024

    package let issuer: DistinguishedName
    package let thisUpdate: Int64
    package let nextUpdate: Int64?
    /// Big-endian, as in the extension.
    package let number: [UInt8]?
    private let revoked: [ArraySlice<UInt8>: Int64]

    package var count: Int { revoked.count }

    /// When the serial was revoked; `nil` where it was not.
    package func revocationDate(of serial: Certificate.SerialNumber) -> Int64? { revoked[serial.bytes] }

    package func contains(_ serial: Certificate.SerialNumber) -> Bool { revoked[serial.bytes] != nil }

    /// The issuer has promised a newer list by now.
    package func isOverdue(at seconds: Int64) -> Bool { nextUpdate.map { $0 < seconds } ?? false }

    /// - Parameter authorities: one of them must have issued and signed the list.
    package init(derEncoded bytes: [UInt8], issuedBy authorities: [Certificate]) throws(RevocationListError) {
        guard bytes.count <= Self.maximumBytes else { throw .tooLarge(bytes: bytes.count) }
        let parsed: SignedRevocationList
        do {
            parsed = try SignedRevocationList(derEncoded: bytes)
        } catch let error as RevocationListError {
            throw error
        } catch {
            throw .malformed("\(error)")
        }
        let named = authorities.filter { $0.subject == parsed.issuer }
        guard !named.isEmpty else { throw .unknownIssuer("\(parsed.issuer)".printable) }
        guard
            named.contains(where: {
                $0.publicKey.isValidSignature(
                    parsed.signature, for: parsed.signedBytes, signatureAlgorithm: parsed.algorithm)
            })
        else { throw .badSignature(issuer: "\(parsed.issuer)".printable) }
        issuer = parsed.issuer
        thisUpdate = parsed.thisUpdate
        nextUpdate = parsed.nextUpdate
        number = parsed.number
        revoked = parsed.revoked
    }
}

/// `CertificateList` of RFC 5280, 5.1, before its signature is known to be right.
struct SignedRevocationList: DERParseable {
    let issuer: DistinguishedName
    let thisUpdate: Int64
    let nextUpdate: Int64?
    let number: [UInt8]?
    let revoked: [ArraySlice<UInt8>: Int64]
    let signedBytes: ArraySlice<UInt8>
    let algorithm: Certificate.SignatureAlgorithm
    let signature: ArraySlice<UInt8>

    init(derEncoded root: ASN1Node) throws {
        guard root.identifier == .sequence, case .constructed(let parts) = root.content else {
            throw RevocationListError.malformed("it is no sequence")
        }
        var iterator = parts.makeIterator()
        guard let body = iterator.next(), let outerAlgorithm = iterator.next(), let signatureNode = iterator.next(),
            iterator.next() == nil
        else { throw RevocationListError.malformed("it has not three parts") }
        let bits = try ASN1BitString(derEncoded: signatureNode)
        guard bits.paddingBits == 0 else { throw RevocationListError.malformed("the signature is no whole bytes") }
        signature = bits.bytes
        signedBytes = body.encodedBytes
        let contents = try Contents(body: body)
        guard contents.algorithm == outerAlgorithm.encodedBytes else {
            throw RevocationListError.malformed("two different signature algorithms")
        }
        algorithm = try Self.algorithm(outerAlgorithm)
        (issuer, thisUpdate, nextUpdate) = (contents.issuer, contents.thisUpdate, contents.nextUpdate)
        (number, revoked) = (contents.number, contents.revoked)
    }

    func serialize(into coder: inout DER.Serializer) throws {}

    /// SHA-1 and MD5 are left out on purpose.
    private static func algorithm(_ node: ASN1Node) throws -> Certificate.SignatureAlgorithm {
        let identifier = try DER.sequence(node, identifier: .sequence) { nodes in
            let identifier = try ASN1ObjectIdentifier(derEncoded: &nodes)
            _ = nodes.next()
            return identifier
        }
        switch identifier {
        case [1, 2, 840, 10045, 4, 3, 2]: return .ecdsaWithSHA256
        case [1, 2, 840, 10045, 4, 3, 3]: return .ecdsaWithSHA384
        case [1, 2, 840, 10045, 4, 3, 4]: return .ecdsaWithSHA512
        case .AlgorithmIdentifier.sha256WithRSAEncryption: return .sha256WithRSAEncryption
        case .AlgorithmIdentifier.sha384WithRSAEncryption: return .sha384WithRSAEncryption
        case .AlgorithmIdentifier.sha512WithRSAEncryption: return .sha512WithRSAEncryption
        case [1, 3, 101, 112]: return .ed25519
        default: throw RevocationListError.unsupported("the signature algorithm \(identifier)")
        }
    }
}

/// `TBSCertList`.
private struct Contents {
    var algorithm: ArraySlice<UInt8> = []
    var issuer = DistinguishedName()
    var thisUpdate: Int64 = 0
    var nextUpdate: Int64?
    var number: [UInt8]?
    var revoked: [ArraySlice<UInt8>: Int64] = [:]

    init(body: ASN1Node) throws {
        guard body.identifier == .sequence, case .constructed(let nodes) = body.content else {
            throw RevocationListError.malformed("its body is no sequence")
        }
        var iterator = nodes.makeIterator()
        var next = iterator.next()
        if let node = next, node.identifier == .integer {
            // Version 2 is encoded as 1; a list without a version has no extensions and is good as well.
            guard try Int(derEncoded: node) == 1 else {
                throw RevocationListError.unsupported("another version than 2")
            }
            next = iterator.next()
        }
        guard let algorithmNode = next, let issuerNode = iterator.next(), let thisNode = iterator.next() else {
            throw RevocationListError.malformed("issuer or date is missing")
        }
        algorithm = algorithmNode.encodedBytes
        issuer = try DistinguishedName(derEncoded: issuerNode)
        thisUpdate = try CertificateTime.seconds(derEncoded: thisNode)
        next = iterator.next()
        if let node = next, CertificateTime.isTime(node) {
            nextUpdate = try CertificateTime.seconds(derEncoded: node)
            next = iterator.next()
        }
        if let node = next, node.identifier == .sequence {
            try readEntries(node)
            next = iterator.next()
        }
        if let node = next {
            try readExtensions(node)
            next = iterator.next()
        }
        guard next == nil else { throw RevocationListError.malformed("something follows its extensions") }
    }

    private mutating func readEntries(_ node: ASN1Node) throws {
        guard case .constructed(let entries) = node.content else {
            throw RevocationListError.malformed("its entries are no sequence")
        }
        for entry in entries {
            guard case .constructed(let fields) = entry.content else {
                throw RevocationListError.malformed("an entry is no sequence")
            }
            var iterator = fields.makeIterator()
            guard let serialNode = iterator.next(), let dateNode = iterator.next() else {
                throw RevocationListError.malformed("an entry has no serial or no date")
            }
            let serial = Certificate.SerialNumber(bytes: try ArraySlice<UInt8>(derEncoded: serialNode))
            if let extensions = iterator.next() { try refuseCritical(extensions, known: [[2, 5, 29, 21]]) }
            revoked[serial.bytes] = try CertificateTime.seconds(derEncoded: dateNode)
        }
    }

    private mutating func readExtensions(_ node: ASN1Node) throws {
        guard node.identifier == ASN1Identifier(tagWithNumber: 0, tagClass: .contextSpecific),
            case .constructed(let inner) = node.content, let list = Array(inner).first
        else { throw RevocationListError.malformed("its extensions are not where they belong") }
        let cRLNumber: ASN1ObjectIdentifier = [2, 5, 29, 20]
        try refuseCritical(list, known: [cRLNumber, [2, 5, 29, 35]])
        for (identifier, _, value) in try Self.extensions(list) where identifier == cRLNumber {
            number = Array(try ArraySlice<UInt8>(derEncoded: DER.parse(value)))
        }
    }

    /// RFC 5280, 5.2: a list with a critical extension that is not understood must not be used.
    private func refuseCritical(_ node: ASN1Node, known: [ASN1ObjectIdentifier]) throws {
        for (identifier, isCritical, _) in try Self.extensions(node) where isCritical && !known.contains(identifier) {
            throw RevocationListError.unsupported("the critical extension \(identifier)")
        }
    }

    private static func extensions(
        _ node: ASN1Node
    ) throws -> [(identifier: ASN1ObjectIdentifier, isCritical: Bool, value: ArraySlice<UInt8>)] {
        guard node.identifier == .sequence, case .constructed(let nodes) = node.content else {
            throw RevocationListError.malformed("its extensions are no sequence")
        }
        return try nodes.map { node in
            try DER.sequence(node, identifier: .sequence) { fields in
                let identifier = try ASN1ObjectIdentifier(derEncoded: &fields)
                let isCritical = try DER.decodeDefault(&fields, defaultValue: false)
                return (identifier, isCritical, try ASN1OctetString(derEncoded: &fields).bytes)
            }
        }
    }
}
