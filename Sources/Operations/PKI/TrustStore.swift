import FoundationEssentials
import Glibc
import NIOSSL
import Operations
import SwiftASN1
import X509

/// A file of the trust store that cannot be used.
package struct TrustError: Error, CustomStringConvertible {
    package var file: String
    package var reason: String

    package init(file: String, reason: String) {
        self.file = file
        self.reason = reason
    }

    package var description: String { "\(file): \(reason)" }
}

/// The authorities that a listener trusts and what they have revoked. A value: reload by loading a new one and swapping
/// it in its holder.
///
/// Every certificate of the authorities' file is an anchor by itself, and a peer's certificate must be signed by one of
/// them directly. Where an intermediate authority signs, put the intermediate into the file; the chain that a peer
/// sends is not looked at. That keeps the judgement the same on a resumed TLS session, where no chain is sent.
package struct TrustStore: Sendable {
    package struct Anchor: Sendable {
        package let certificate: Certificate
        /// Seconds since 1970.
        package let notBefore: Int64
        package let notAfter: Int64
    }

    /// The one that expires last comes first.
    package let anchors: [Anchor]
    package let lists: [RevocationList]

    package static let maximumAuthorityBytes = 1024 * 1024

    /// - Throws: where a certificate is no authority's.
    package init(authorities: [Certificate], lists: [RevocationList] = [], file: String = "") throws(TrustError) {
        var anchors: [Anchor] = []
        for certificate in authorities {
            guard case .isCertificateAuthority? = try? certificate.extensions.basicConstraints else {
                throw TrustError(
                    file: file,
                    reason: "\("\(certificate.subject)".printable) is no authority's certificate (CA:TRUE is missing)")
            }
            if let usage = try? certificate.extensions.keyUsage, !usage.keyCertSign {
                throw TrustError(
                    file: file, reason: "\("\(certificate.subject)".printable) must not sign certificates (keyUsage)")
            }
            anchors.append(
                Anchor(
                    certificate: certificate, notBefore: certificate.notValidBefore.wholeSeconds,
                    notAfter: certificate.notValidAfter.wholeSeconds))
        }
        guard !anchors.isEmpty else { throw TrustError(file: file, reason: "no certificate in it") }
        // Where an authority's certificate was renewed for the same key, the one that lasts longest is found first.
        self.anchors = anchors.sorted { $0.notAfter > $1.notAfter }
        self.lists = lists
    }

    /// - Parameters:
    ///   - clientCA: PEM, one or more certificates.
    ///   - crl: PEM, one or more lists, or one list as DER; each must be signed by one of the authorities.
    package static func load(clientCA: String, crl: String?) throws(TrustError) -> TrustStore {
        let authorities = try certificates(file: clientCA)
        return try TrustStore(
            authorities: authorities,
            lists: crl.map { file throws(TrustError) in
                try revocationLists(file: file, issuedBy: authorities)
            } ?? [], file: clientCA)
    }

    /// The anchor that has signed the certificate; `nil` where none has.
    package func issuer(of certificate: Certificate) -> Anchor? {
        anchors.first {
            $0.certificate.subject == certificate.issuer
                && $0.certificate.publicKey.isValidSignature(certificate.signature, for: certificate)
        }
    }

    /// Seconds since 1970; `nil` where the certificate is not revoked.
    package func revocationDate(of certificate: Certificate) -> Int64? {
        for list in lists where list.issuer == certificate.issuer {
            if let date = list.revocationDate(of: certificate.serialNumber) { return date }
        }
        return nil
    }

    /// Lists whose successor is overdue. They are still used: a stale list that refuses few is better than a plant
    /// that stands still; the daemons warn.
    package func overdueLists(at seconds: Int64) -> [RevocationList] { lists.filter { $0.isOverdue(at: seconds) } }

    /// For `TLSConfiguration.trustRoots`.
    package func nioCertificates() throws -> [NIOSSLCertificate] {
        try anchors.map { anchor in
            var serializer = DER.Serializer()
            try serializer.serialize(anchor.certificate)
            return try NIOSSLCertificate(bytes: serializer.serializedBytes, format: .der)
        }
    }
}

extension TrustStore {
    /// All certificates of a PEM file.
    static func certificates(file: String) throws(TrustError) -> [Certificate] {
        let documents = try pemDocuments(file: file, maximumBytes: maximumAuthorityBytes)
        var certificates: [Certificate] = []
        for document in documents where document.discriminator == Certificate.defaultPEMDiscriminator {
            do {
                certificates.append(try Certificate(pemDocument: document))
            } catch {
                throw TrustError(file: file, reason: "certificate \(certificates.count + 1) is damaged: \(error)")
            }
        }
        guard !certificates.isEmpty else {
            throw TrustError(file: file, reason: "no certificate in it (PEM with BEGIN CERTIFICATE is expected)")
        }
        return certificates
    }

    static func revocationLists(
        file: String, issuedBy authorities: [Certificate]
    ) throws(TrustError) -> [RevocationList] {
        // PEM is a third longer than DER.
        let bytes = try contents(file: file, maximumBytes: RevocationList.maximumBytes / 2 * 3)
        let encoded: [[UInt8]]
        if bytes.first == 0x30 {
            encoded = [bytes]
        } else {
            encoded = try pemDocuments(file: file, bytes: bytes).filter { $0.discriminator == "X509 CRL" }
                .map(\.derBytes)
        }
        guard !encoded.isEmpty else {
            throw TrustError(file: file, reason: "no revocation list in it (PEM with BEGIN X509 CRL, or DER)")
        }
        var lists: [RevocationList] = []
        for bytes in encoded {
            do {
                lists.append(try RevocationList(derEncoded: bytes, issuedBy: authorities))
            } catch {
                throw TrustError(file: file, reason: error.description)
            }
        }
        return lists
    }

    private static func pemDocuments(file: String, maximumBytes: Int) throws(TrustError) -> [PEMDocument] {
        try pemDocuments(file: file, bytes: contents(file: file, maximumBytes: maximumBytes))
    }

    private static func pemDocuments(file: String, bytes: [UInt8]) throws(TrustError) -> [PEMDocument] {
        do {
            return try PEMDocument.parseMultiple(pemString: String(decoding: bytes, as: UTF8.self))
        } catch {
            throw TrustError(file: file, reason: "it is no PEM: \(error)")
        }
    }

    private static func contents(file: String, maximumBytes: Int) throws(TrustError) -> [UInt8] {
        do {
            return try AtomicFile.read(file, maximumBytes: maximumBytes)
        } catch {
            throw TrustError(file: file, reason: String(cString: strerror(error.code)))
        }
    }
}
