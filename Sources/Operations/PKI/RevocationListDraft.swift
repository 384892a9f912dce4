import Crypto
import FoundationEssentials
import SwiftASN1
import X509

/// A revocation list that is yet to be signed. Times are seconds since 1970.
struct RevocationListDraft {
    var issuer: Certificate
    var entries: [(serial: Certificate.SerialNumber, revokedAt: Int64)]
    /// Must ascend from list to list.
    var number: UInt64
    var thisUpdate: Int64
    var nextUpdate: Int64

    /// DER, signed with ECDSA and SHA-256.
    func signed(by key: P256.Signing.PrivateKey) throws -> [UInt8] {
        var body = DER.Serializer()
        try serializeBody(into: &body)
        let signature = try key.signature(for: body.serializedBytes).derRepresentation
        var list = DER.Serializer()
        try list.appendConstructedNode(identifier: .sequence) { coder in
            coder.serializeRawBytes(body.serializedBytes)
            try Self.serializeAlgorithm(into: &coder)
            try coder.serialize(ASN1BitString(bytes: ArraySlice(signature)))
        }
        return list.serializedBytes
    }

    private func serializeBody(into coder: inout DER.Serializer) throws {
        try coder.appendConstructedNode(identifier: .sequence) { coder in
            try coder.serialize(1)
            try Self.serializeAlgorithm(into: &coder)
            try coder.serialize(issuer.subject)
            try CertificateTime.serialize(thisUpdate, into: &coder)
            try CertificateTime.serialize(nextUpdate, into: &coder)
            // An empty list of entries must be absent (RFC 5280, 5.1.2.6).
            if !entries.isEmpty {
                try coder.appendConstructedNode(identifier: .sequence) { coder in
                    for entry in entries {
                        try coder.appendConstructedNode(identifier: .sequence) { coder in
                            try coder.serialize(entry.serial.bytes)
                            try CertificateTime.serialize(entry.revokedAt, into: &coder)
                        }
                    }
                }
            }
            try coder.appendConstructedNode(
                identifier: ASN1Identifier(tagWithNumber: 0, tagClass: .contextSpecific)
            ) { coder in
                try coder.appendConstructedNode(identifier: .sequence) { try serializeExtensions(into: &$0) }
            }
        }
    }

    private func serializeExtensions(into coder: inout DER.Serializer) throws {
        let identifier = try issuer.extensions.subjectKeyIdentifier?.keyIdentifier
        let authority = try Certificate.Extension(AuthorityKeyIdentifier(keyIdentifier: identifier), critical: false)
        var numberBytes = DER.Serializer()
        try numberBytes.serialize(number)
        for (oid, value) in [
            (authority.oid, authority.value), ([2, 5, 29, 20], ArraySlice(numberBytes.serializedBytes)),
        ] {
            try coder.appendConstructedNode(identifier: .sequence) { coder in
                try coder.serialize(oid)
                try coder.serialize(ASN1OctetString(contentBytes: value))
            }
        }
    }

    private static func serializeAlgorithm(into coder: inout DER.Serializer) throws {
        let ecdsaWithSHA256: ASN1ObjectIdentifier = [1, 2, 840, 10045, 4, 3, 2]
        try coder.appendConstructedNode(identifier: .sequence) { try $0.serialize(ecdsaWithSHA256) }
    }
}
