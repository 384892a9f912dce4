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
    /// Subject and serial number, for the log.
    var certificate: String?
}

/// A listener's share of the work on a connection: who the client is, by which trust.
final class GatewayListener: Sendable {
    /// What can change on reload, swapped as one.
    struct Trust: Sendable {
        var context: NIOSSLContext
        var judge: CertificateJudge
    }

    let name: String
    let endpoint: EdgeConfiguration.Endpoint
    let tls: EdgeConfiguration.TLS?
    let maximumConnections: Int
    private let identitySource: EdgeConfiguration.IdentitySource
    // The lock guards a small value; it is held for a copy only.
    private let trust: NIOLockedValueBox<Trust?>

    init(_ listener: EdgeConfiguration.Listener, configuration: EdgeConfiguration) throws(GatewayError) {
        endpoint = listener.endpoint
        name = "\(listener.endpoint.address):\(listener.endpoint.port)"
        tls = listener.tls
        maximumConnections = configuration.global.connections
        identitySource = configuration.identity
        trust = NIOLockedValueBox(nil)
        try reload()
    }

    /// Reads certificate, key, client CA and CRL again; on an error the old trust stays in force.
    func reload() throws(GatewayError) {
        guard let tls else { return }
        do {
            let store = try TrustStore.load(clientCA: tls.clientCA, crl: tls.crl)
            let context = try NIOSSLContext(
                configuration: TLSProfile.edgeListener(certificate: tls.certificate, key: tls.key, trust: store))
            let judge = CertificateJudge(trust: store)
            trust.withLockedValue { $0 = Trust(context: context, judge: judge) }
        } catch {
            throw .tls(listener: name, "\(error)")
        }
    }

    var context: NIOSSLContext? { trust.withLockedValue { $0?.context } }

    /// Judged at CONNECT, not in the handshake alone: a resumed TLS session skips verification.
    func identify(_ certificate: NIOSSLCertificate?) -> Result<ClientIdentity, IdentityRefusal> {
        guard tls != nil else { return .success(ClientIdentity(deviceID: nil, isLocal: true)) }
        guard let certificate, let judge = trust.withLockedValue({ $0?.judge }) else {
            return .failure(IdentityRefusal(reason: .certificateUnknown, description: "No client certificate came."))
        }
        switch judge.judge(certificate, expecting: .device, identity: identitySource, at: EdgeClock.wallTime()) {
        case .success(let peer):
            return .success(ClientIdentity(deviceID: peer.id, isLocal: false))
        case .failure(let refusal):
            return .failure(
                IdentityRefusal(
                    reason: CloseReason(refusal), description: refusal.description,
                    certificate: CertificateJudge.summary(of: certificate)))
        }
    }
}

package enum GatewayError: Error, Sendable, Equatable {
    /// A listener's certificate, key, CA or CRL cannot be used.
    case tls(listener: String, String)
    case bind(listener: String, String)
    case buffer(String)
}
