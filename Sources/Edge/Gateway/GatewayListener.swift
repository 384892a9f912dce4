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

/// Who a client has proved to be, and for how long.
struct AdmittedClient {
    var identity: ClientIdentity
    /// Of its certificate; big-endian.
    var serial: [UInt8] = []
    /// Seconds since 1970; `.max` without a certificate.
    var validUntil: Int64 = .max
}

/// A listener's share of the work on a connection: who the client is, by which trust.
final class GatewayListener: Sendable {
    let name: String
    let endpoint: EdgeConfiguration.Endpoint
    let tls: EdgeConfiguration.TLS?
    private let identitySource: EdgeConfiguration.IdentitySource
    private let trust: TrustHolder?
    /// The lock is held for a copy only.
    private let state: NIOLockedValueBox<State>

    private struct State: Sendable {
        var context: Context?
        /// Why the last reading failed.
        var failure: String?
    }

    /// What TLS was made from. A context cannot change its chain, so it is made anew when one of its files has changed, and
    /// only then: devices resume their sessions across a reload that brings a new CRL.
    private struct Context: Sendable {
        var tls: NIOSSLContext
        var files: [[UInt8]]
        /// Of the server's certificate; seconds since 1970.
        var notAfter: Int64
    }

    init(_ listener: EdgeConfiguration.Listener, configuration: EdgeConfiguration) throws(GatewayError) {
        endpoint = listener.endpoint
        name = "\(listener.endpoint.address):\(listener.endpoint.port)"
        tls = listener.tls
        identitySource = configuration.identity
        do {
            let loaded = try tls.map { try TrustStore.load(clientCA: $0.clientCA, crl: $0.crl) }
            trust = loaded.map(TrustHolder.init)
            state = NIOLockedValueBox(State())
            if let loaded { try makeContext(trust: loaded) }
        } catch {
            throw .tls(listener: name, "\(error)")
        }
    }

    /// Reads certificate, key, client CA and CRL again; on an error what was in force stays. To be called by one task at a
    /// time, as it blocks on files.
    ///
    /// - Returns: what changed for the clients that are connected.
    func reload() -> Result<TrustStore.Change, GatewayError> {
        guard let tls, let trust else { return .success(.none) }
        do {
            let loaded = try TrustStore.load(clientCA: tls.clientCA, crl: tls.crl)
            try makeContext(trust: loaded)
            let change = loaded.change(from: trust.trust)
            trust.swap(loaded)
            state.withLockedValue { $0.failure = nil }
            return .success(change)
        } catch {
            state.withLockedValue { $0.failure = "\(error)" }
            return .failure(.tls(listener: name, "\(error)"))
        }
    }

    private func makeContext(trust: TrustStore) throws {
        guard let tls else { return }
        let files = try [tls.certificate, tls.key, tls.clientCA].map {
            try AtomicFile.read($0, maximumBytes: TrustStore.maximumAuthorityBytes)
        }
        guard state.withLockedValue({ $0.context?.files }) != files else { return }
        let configuration = try TLSProfile.server(certificate: tls.certificate, key: tls.key, trust: trust)
        let made = Context(
            tls: try NIOSSLContext(configuration: configuration), files: files,
            notAfter: try TrustStore.expiry(ofCertificate: tls.certificate))
        state.withLockedValue { $0.context = made }
    }

    /// The TLS handler of a new connection; `nil` without TLS.
    ///
    /// - Parameter refused: the certificate that ended the handshake, before the error comes through the pipeline.
    func makeTLSHandler(
        refused: @escaping @Sendable (CertificateRefusal) -> Void
    ) -> NIOSSLServerHandler? {
        guard let trust, let context = state.withLockedValue({ $0.context?.tls }) else { return nil }
        return NIOSSLServerHandler(
            context: context, customVerificationCallback: TLSProfile.verification(trust: trust, refused: refused))
    }

    /// Judged at CONNECT, not in the handshake alone: a resumed TLS session skips verification.
    ///
    /// - Parameter seconds: now, since 1970.
    func identify(_ certificate: NIOSSLCertificate?, at seconds: Int64) -> Result<AdmittedClient, IdentityRefusal> {
        guard let trust else {
            return .success(AdmittedClient(identity: ClientIdentity(deviceID: nil, isLocal: true)))
        }
        switch trust.judge.judge(certificate, expecting: .device, identity: identitySource, at: seconds) {
        case .success(let peer):
            return .success(
                AdmittedClient(
                    identity: ClientIdentity(deviceID: peer.role.id, isLocal: false), serial: peer.serialBytes,
                    validUntil: peer.validUntil))
        case .failure(let refusal):
            return .failure(IdentityRefusal(refusal, certificate: certificate.map { "\($0)" }))
        }
    }

    /// Whether a revocation list names the certificate of that serial: a quick look, not a judgement.
    func names(serial: [UInt8]) -> Bool { trust?.trust.names(serial: serial) ?? false }
}

/// What a listener's certificates are worth, for metrics, the health report and the log.
extension GatewayListener {
    /// Something that an operator should look at.
    enum Concern: Hashable {
        case cannotReload(String)
        case expires(at: Int64)
        case listOverdue(since: Int64)

        var text: String {
            switch self {
            case .cannotReload(let error): "its certificates cannot be read again, and the old ones stay: \(error)"
            case .expires(let time): "the server's certificate expires at \(RFC3339.text(secondsSince1970: time))"
            case .listOverdue(let time):
                "the revocation list was due to be replaced at \(RFC3339.text(secondsSince1970: time)); it is still used"
            }
        }
    }

    /// Seconds before the server's certificate expires at which it becomes a concern.
    static let renewalTime: Int64 = 7 * 86_400

    /// Seconds since 1970; `nil` without TLS.
    var certificateNotAfter: Int64? { state.withLockedValue { $0.context?.notAfter } }

    /// Seconds since 1970; `nil` without a list, or where it does not say.
    var listNextUpdate: Int64? { trust?.trust.nextUpdate }

    /// - Parameter seconds: now, since 1970.
    func concerns(at seconds: Int64) -> [Concern] {
        var found: [Concern] = []
        if let failure = state.withLockedValue({ $0.failure }) { found.append(.cannotReload(failure)) }
        if let end = certificateNotAfter, end - seconds < Self.renewalTime { found.append(.expires(at: end)) }
        if let due = listNextUpdate, due < seconds { found.append(.listOverdue(since: due)) }
        return found
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
