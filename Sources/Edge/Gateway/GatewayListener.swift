import MQTTSession
import NIOConcurrencyHelpers
import NIOCore
import NIOSSL
import Operations
import PKI

/// Why a certificate does not open a session.
struct IdentityRefusal: Error {
    var reason: CloseReason
    var description: String
    var certificate: String?

    init(_ refusal: CertificateRefusal, certificate: String? = nil) {
        reason = CloseReason(refusal)
        description = "The certificate is refused: \(refusal.description)."
        self.certificate = certificate
    }
}

/// A listener's share of the work on a connection: who the client is, by which trust.
final class GatewayListener: Sendable {
    let name: String
    let endpoint: EdgeConfiguration.Endpoint
    let tls: EdgeConfiguration.TLS?
    let maximumConnections: Int
    private let identitySource: EdgeConfiguration.IdentitySource
    private let trust: TrustHolder?
    /// The lock is held for a copy only.
    private let context: NIOLockedValueBox<Context?>

    /// What TLS was made from. A context cannot change its chain, so it is made anew when one of its files has changed, and
    /// only then: devices resume their sessions across a reload that brings a new CRL.
    private struct Context: Sendable {
        var tls: NIOSSLContext
        var files: [[UInt8]]
    }

    init(_ listener: EdgeConfiguration.Listener, configuration: EdgeConfiguration) throws(GatewayError) {
        endpoint = listener.endpoint
        name = "\(listener.endpoint.address):\(listener.endpoint.port)"
        tls = listener.tls
        maximumConnections = configuration.global.connections
        identitySource = configuration.identity
        do {
            let loaded = try tls.map { try TrustStore.load(clientCA: $0.clientCA, crl: $0.crl) }
            trust = loaded.map(TrustHolder.init)
            context = NIOLockedValueBox(nil)
            if let loaded { try makeContext(trust: loaded) }
        } catch {
            throw .tls(listener: name, "\(error)")
        }
    }

    /// Reads certificate, key, client CA and CRL again; on an error the old trust stays in force.
    func reload() throws(GatewayError) {
        guard let tls, let trust else { return }
        do {
            let loaded = try TrustStore.load(clientCA: tls.clientCA, crl: tls.crl)
            try makeContext(trust: loaded)
            trust.swap(loaded)
        } catch {
            throw .tls(listener: name, "\(error)")
        }
    }

    private func makeContext(trust: TrustStore) throws {
        guard let tls else { return }
        let files = try [tls.certificate, tls.key, tls.clientCA].map {
            try AtomicFile.read($0, maximumBytes: TrustStore.maximumAuthorityBytes)
        }
        guard context.withLockedValue({ $0?.files }) != files else { return }
        let configuration = try TLSProfile.server(certificate: tls.certificate, key: tls.key, trust: trust)
        let made = Context(tls: try NIOSSLContext(configuration: configuration), files: files)
        context.withLockedValue { $0 = made }
    }

    /// The TLS handler of a new connection; `nil` without TLS.
    ///
    /// - Parameter refused: the certificate that ended the handshake, before the error comes through the pipeline.
    func makeTLSHandler(
        refused: @escaping @Sendable (CertificateRefusal) -> Void
    ) -> NIOSSLServerHandler? {
        guard let trust, let context = context.withLockedValue({ $0?.tls }) else { return nil }
        return NIOSSLServerHandler(
            context: context, customVerificationCallback: TLSProfile.verification(trust: trust, refused: refused))
    }

    /// Judged at CONNECT, not in the handshake alone: a resumed TLS session skips verification.
    ///
    /// - Parameter seconds: now, since 1970.
    func identify(_ certificate: NIOSSLCertificate?, at seconds: Int64) -> Result<ClientIdentity, IdentityRefusal> {
        guard let trust else { return .success(ClientIdentity(deviceID: nil, isLocal: true)) }
        switch trust.judge.judge(certificate, expecting: .device, identity: identitySource, at: seconds) {
        case .success(let peer):
            return .success(ClientIdentity(deviceID: peer.role.id, isLocal: false))
        case .failure(let refusal):
            return .failure(IdentityRefusal(refusal, certificate: certificate.map { "\($0)" }))
        }
    }
}

extension CloseReason {
    init(_ refusal: CertificateRefusal) {
        switch refusal {
        case .expired, .notYetValid, .issuerExpired: self = .certificateExpired
        case .revoked: self = .certificateRevoked
        case .wrongRole, .isAuthority, .wrongUsage: self = .wrongRole
        case .noCertificate, .malformed, .unknownIssuer, .noIdentity, .ambiguousIdentity, .unusableIdentity,
            .unreadableRole:
            self = .certificateUnknown
        }
    }
}

package enum GatewayError: Error, Sendable, Equatable {
    /// A listener's certificate, key, CA or CRL cannot be used.
    case tls(listener: String, String)
    case bind(listener: String, String)
    case buffer(String)
}

extension GatewayError: CustomStringConvertible {
    package var description: String {
        switch self {
        case .tls(let listener, let what): "The listener \(listener) has no TLS: \(what)"
        case .bind(let listener, let what):
            "The listener \(listener) cannot be bound: \(what). Is the port taken, or the address not of this host?"
        case .buffer(let what): "The buffer cannot be used any more: \(what)"
        }
    }
}
