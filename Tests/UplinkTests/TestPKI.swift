import Crypto
import Foundation
import NIOSSL
import SwiftASN1
import X509

/// A certificate authority of the test's own, made in memory.
struct TestAuthority {
    private let key = P256.Signing.PrivateKey()
    private let name: DistinguishedName
    let certificate: NIOSSLCertificate
    private let validity: (from: Date, until: Date)

    /// - Parameter start: seconds from now, of two hours of validity.
    init(_ commonName: String = "test authority", validFrom start: TimeInterval = -3_600) throws {
        validity = (Date(timeIntervalSinceNow: start), Date(timeIntervalSinceNow: start + 7_200))
        name = try DistinguishedName { CommonName(commonName) }
        let authority = try Certificate(
            version: .v3, serialNumber: .init(), publicKey: .init(key.publicKey),
            notValidBefore: validity.from, notValidAfter: validity.until,
            issuer: name, subject: name, signatureAlgorithm: .ecdsaWithSHA256,
            extensions: try Certificate.Extensions {
                Critical(BasicConstraints.isCertificateAuthority(maxPathLength: nil))
                Critical(KeyUsage(keyCertSign: true))
            }, issuerPrivateKey: .init(key))
        certificate = try Self.native(authority)
    }

    struct Identity {
        var certificate: NIOSSLCertificate
        var key: NIOSSLPrivateKey
    }

    func issue(uri: String, dns: String? = nil) throws -> Identity {
        let leafKey = P256.Signing.PrivateKey()
        var names: [GeneralName] = [.uniformResourceIdentifier(uri)]
        if let dns { names.append(.dnsName(dns)) }
        let leaf = try Certificate(
            version: .v3, serialNumber: .init(), publicKey: .init(leafKey.publicKey),
            notValidBefore: validity.from, notValidAfter: validity.until,
            issuer: name, subject: try DistinguishedName { CommonName(uri) }, signatureAlgorithm: .ecdsaWithSHA256,
            extensions: try Certificate.Extensions {
                Critical(BasicConstraints.notCertificateAuthority)
                SubjectAlternativeNames(names)
            }, issuerPrivateKey: .init(key))
        return Identity(
            certificate: try Self.native(leaf),
            key: try NIOSSLPrivateKey(bytes: Array(leafKey.derRepresentation), format: .der))
    }

    func client(_ identity: Identity) -> TLSConfiguration {
        var configuration = TLSConfiguration.makeClientConfiguration()
        configuration.trustRoots = .certificates([certificate])
        configuration.certificateChain = [.certificate(identity.certificate)]
        configuration.privateKey = .privateKey(identity.key)
        return configuration
    }

    func server(_ identity: Identity) -> TLSConfiguration {
        var configuration = TLSConfiguration.makeServerConfiguration(
            certificateChain: [.certificate(identity.certificate)], privateKey: .privateKey(identity.key))
        configuration.trustRoots = .certificates([certificate])
        configuration.certificateVerification = .noHostnameVerification
        return configuration
    }

    private static func native(_ certificate: Certificate) throws -> NIOSSLCertificate {
        var serializer = DER.Serializer()
        try serializer.serialize(certificate)
        return try NIOSSLCertificate(bytes: serializer.serializedBytes, format: .der)
    }
}

/// As the daemon's: a SAN URI of a server, else why not.
func serverRole(_ certificate: NIOSSLCertificate?) -> String? {
    guard let certificate, let parsed = try? Certificate(derEncoded: certificate.toDERBytes()),
        let names = try? parsed.extensions.subjectAlternativeNames
    else { return "no certificate that can be read" }
    let isServer = names.contains { name in
        if case .uniformResourceIdentifier(let uri) = name { uri.hasPrefix("sluice:server/") } else { false }
    }
    return isServer ? nil : "the certificate is no server's"
}
