import NIOSSL
import X509

/// What files of a configuration can be asked before anybody connects.
extension TLSProfile {
    /// Fails where a handshake would, for a reason that lies in the files themselves.
    package static func checkPair(certificate: String, key: String, ca: String) throws(TrustError) {
        let configuration = try client(certificate: certificate, key: key, ca: ca)
        do {
            _ = try NIOSSLContext(configuration: configuration)
        } catch {
            throw TrustError(file: key, reason: "it is not the key of the certificate in \(certificate) (\(error))")
        }
    }

    /// What a certificate says of its holder; `nil` where it has no role of ours, or cannot be read.
    package static func role(ofCertificate file: String) -> PeerRole? {
        guard let leaf = try? TrustStore.certificates(file: file).first,
            let names = try? leaf.extensions.subjectAlternativeNames
        else { return nil }
        return names.lazy.compactMap { name -> PeerRole? in
            if case .uniformResourceIdentifier(let uri) = name { PeerRole(uri: uri) } else { nil }
        }.first
    }
}
