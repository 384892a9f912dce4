import FoundationEssentials
import Glibc
import NIOCore
import NIOSSL
import Operations
import Synchronization
@_spi(FixedExpiryValidationTime) import X509

/// Holds the trust store that is in force; a reload swaps it, connections that follow see the new one.
package final class TrustHolder: Sendable {
    private let current: Mutex<TrustStore>

    package init(_ trust: TrustStore) { current = Mutex(trust) }

    package var trust: TrustStore { current.withLock { $0 } }
    package var judge: CertificateJudge { CertificateJudge(trust: trust) }

    package func swap(_ trust: TrustStore) { current.withLock { $0 = trust } }
}

/// TLS as Sluice speaks it: 1.3, and 1.2 with ECDHE and an AEAD cipher.
package enum TLSProfile {
    /// In BoringSSL's notation; TLS 1.3's suites are all AEAD and not configurable.
    package static let cipherSuites = "ECDHE+AESGCM:ECDHE+CHACHA20"

    /// For a listener that demands a client certificate: the edge's MQTT listeners and ingest. Use it together with
    /// `verification(trust:refused:)`, which replaces the library's own check.
    ///
    /// - Parameters:
    ///   - certificate: PEM file, the leaf first, then what the clients need to reach their root.
    ///   - key: PEM file.
    package static func server(
        certificate: String, key: String, trust: TrustStore
    ) throws(TrustError) -> TLSConfiguration {
        var configuration = TLSConfiguration.makeServerConfiguration(
            certificateChain: try chain(file: certificate), privateKey: try privateKey(file: key))
        restrict(&configuration)
        // Under `.none` the library would neither demand a certificate nor call the verification back.
        configuration.certificateVerification = .noHostnameVerification
        configuration.trustRoots = .certificates(try anchors(of: trust, file: certificate))
        return configuration
    }

    /// For the uplink: the server's name is checked against its certificate, by the library.
    ///
    /// - Parameter ca: PEM file of the authorities that may have signed the server's certificate.
    package static func client(certificate: String, key: String, ca: String) throws(TrustError) -> TLSConfiguration {
        var configuration = TLSConfiguration.makeClientConfiguration()
        restrict(&configuration)
        configuration.certificateVerification = .fullVerification
        configuration.trustRoots = .certificates(try nioCertificates(file: ca))
        configuration.certificateChain = try chain(file: certificate)
        configuration.privateKey = try privateKey(file: key)
        return configuration
    }

    /// What a handshake demands of a client's certificate: the signature of a trusted authority, no more. One that is
    /// expired, revoked or of another role comes through, so that the judge at CONNECT can log why it is refused and
    /// say so to the client; it never gets further than that.
    ///
    /// - Parameter refused: called on the event loop for a certificate that ends the handshake.
    package static func verification(
        trust holder: TrustHolder, refused: @escaping @Sendable (CertificateRefusal) -> Void = { _ in }
    ) -> @Sendable ([NIOSSLCertificate], EventLoopPromise<NIOSSLVerificationResult>) -> Void {
        { certificates, promise in
            do throws(CertificateRefusal) {
                guard let leaf = certificates.first else { throw .noCertificate }
                try holder.judge.signer(of: CertificateJudge.parse(leaf))
                promise.succeed(.certificateVerified)
            } catch {
                refused(error)
                promise.succeed(.failed)
            }
        }
    }

    /// What the library checks of a server's certificate, by another clock than the system's: the way to one of the
    /// authorities, at the time of judgement, and the name. The role is the judge's business.
    ///
    /// - Parameters:
    ///   - host: as in the URL, a name or an address.
    ///   - seconds: the time of judgement, since 1970.
    /// - Returns: why the certificate is refused; `nil` where it is good.
    package static func refusal(
        ofServer certificate: NIOSSLCertificate?, host: String, trust: TrustStore, at seconds: Int64
    ) async -> String? {
        guard let certificate else { return CertificateRefusal.noCertificate.description }
        let leaf: Certificate
        do throws(CertificateRefusal) {
            leaf = try CertificateJudge.parse(certificate)
        } catch {
            return error.description
        }
        let isAddress = (try? SocketAddress(ipAddress: host, port: 0)) != nil
        var verifier = Verifier(rootCertificates: CertificateStore(trust.anchors.map(\.certificate))) {
            RFC5280Policy(fixedExpiryValidationTime: Date(secondsSince1970: seconds))
            ServerIdentityPolicy(serverHostname: isAddress ? nil : host, serverIP: isAddress ? host : nil)
        }
        switch await verifier.validate(leaf: leaf, intermediates: CertificateStore([])) {
        case .validCertificate: return nil
        case .couldNotValidate(let failures):
            let reasons = failures.map { "\($0.policyFailureReason)".printable }
            return "the server's certificate is not good for \(host): "
                + (reasons.isEmpty ? "no trusted authority has signed it" : reasons.joined(separator: "; "))
        }
    }

    private static func restrict(_ configuration: inout TLSConfiguration) {
        configuration.minimumTLSVersion = .tlsv12
        configuration.cipherSuites = cipherSuites
        configuration.renegotiationSupport = .none
    }

    private static func anchors(of trust: TrustStore, file: String) throws(TrustError) -> [NIOSSLCertificate] {
        do {
            return try trust.nioCertificates()
        } catch {
            throw TrustError(file: file, reason: "an authority's certificate is refused by the TLS library: \(error)")
        }
    }

    private static func chain(file: String) throws(TrustError) -> [NIOSSLCertificateSource] {
        try nioCertificates(file: file).map { .certificate($0) }
    }

    private static func nioCertificates(file: String) throws(TrustError) -> [NIOSSLCertificate] {
        let bytes = try read(file)
        let certificates: [NIOSSLCertificate]
        do {
            certificates = try NIOSSLCertificate.fromPEMBytes(bytes)
        } catch {
            throw TrustError(file: file, reason: "no certificate can be read in it (PEM is expected): \(error)")
        }
        guard !certificates.isEmpty else { throw TrustError(file: file, reason: "no certificate in it") }
        return certificates
    }

    private static func privateKey(file: String) throws(TrustError) -> NIOSSLPrivateKeySource {
        let bytes = try read(file)
        do {
            return .privateKey(try NIOSSLPrivateKey(bytes: bytes, format: .pem))
        } catch {
            throw TrustError(
                file: file, reason: "no private key can be read in it (unencrypted PEM is expected): \(error)")
        }
    }

    private static func read(_ file: String) throws(TrustError) -> [UInt8] {
        do {
            return try AtomicFile.read(file, maximumBytes: TrustStore.maximumAuthorityBytes)
        } catch {
            throw TrustError(file: file, reason: String(cString: strerror(error.code)))
        }
    }
}
