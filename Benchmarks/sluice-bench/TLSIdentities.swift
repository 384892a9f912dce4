import NIOSSL

/// Whom the broker must be signed by, and which certificate each device shows.
struct TLSIdentities: Sendable {
    private let roots: [NIOSSLCertificate]
    private let identity: Identity

    private enum Identity: Sendable {
        case none
        case folder(String)
        case shared([NIOSSLCertificate], NIOSSLPrivateKey)
    }

    /// `nil` where no option asks for TLS.
    init?(pki: String?, ca: String?, certificate: String?, key: String?) throws {
        guard let caFile = ca ?? pki.map({ $0 + "/ca.crt" }) else {
            guard certificate == nil else {
                throw LoadError(description: "--certificate needs --ca or --pki: whom shall the broker be signed by?")
            }
            return nil
        }
        roots = try Self.reading(caFile) { try NIOSSLCertificate.fromPEMFile(caFile) }
        if let certificate, let key {
            identity = .shared(
                try Self.reading(certificate) { try NIOSSLCertificate.fromPEMFile(certificate) },
                try Self.reading(key) { try NIOSSLPrivateKey(file: key, format: .pem) })
        } else if let pki {
            identity = .folder(pki + "/devices")
        } else {
            identity = .none
        }
    }

    func context(device: String) throws -> NIOSSLContext {
        var configuration = TLSConfiguration.makeClientConfiguration()
        configuration.trustRoots = .certificates(roots)
        switch identity {
        case .none: break
        case .shared(let chain, let key):
            configuration.certificateChain = chain.map { .certificate($0) }
            configuration.privateKey = .privateKey(key)
        case .folder(let folder):
            let file = "\(folder)/\(device)"
            let chain = try Self.reading(file + ".crt") { try NIOSSLCertificate.fromPEMFile(file + ".crt") }
            configuration.certificateChain = chain.map { .certificate($0) }
            configuration.privateKey = .privateKey(
                try Self.reading(file + ".key") { try NIOSSLPrivateKey(file: file + ".key", format: .pem) })
        }
        return try NIOSSLContext(configuration: configuration)
    }

    private static func reading<Value>(_ file: String, _ read: () throws -> Value) throws -> Value {
        do { return try read() } catch { throw LoadError(description: "\(file) cannot be read as PEM: \(error)") }
    }
}
