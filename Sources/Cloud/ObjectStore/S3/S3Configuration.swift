import NIOSSL
import Operations

/// Where a bucket is and how its server is reached, checked.
struct S3Configuration: Sendable {
    /// `http` or `https`.
    let scheme: String
    /// `host` or `host:port`, with the bucket's name where it belongs into the host.
    let authority: String
    /// Before the key: empty or `/bucket`.
    let pathPrefix: String
    let region: String
    let bucket: String
    let keyPrefix: String
    let keys: S3KeySource
    let tls: TLSConfiguration

    init(_ configuration: CloudConfiguration.S3) throws(ObjectStoreError) {
        let endpoint = configuration.endpoint ?? "https://s3.\(configuration.region).amazonaws.com"
        let addressing = configuration.addressing ?? (configuration.endpoint == nil ? .host : .path)
        guard let separator = endpoint.firstRange(of: "://") else { throw .refused("\(endpoint) is no URL") }
        scheme = String(endpoint[..<separator.lowerBound])
        var host = String(endpoint[separator.upperBound...])
        // The default port is not in the header Host, which is signed.
        let defaultPort = scheme == "https" ? ":443" : ":80"
        if host.hasSuffix(defaultPort) { host.removeLast(defaultPort.count) }
        authority = addressing == .host ? "\(configuration.bucket).\(host)" : host
        pathPrefix = addressing == .host ? "" : "/\(configuration.bucket)"
        region = configuration.region
        bucket = configuration.bucket
        keyPrefix = configuration.prefix
        keys = S3KeySource(file: configuration.credentialsFile)
        tls = try Self.tls(configuration)
    }

    private static func tls(_ configuration: CloudConfiguration.S3) throws(ObjectStoreError) -> TLSConfiguration {
        var tls = TLSConfiguration.makeClientConfiguration()
        tls.minimumTLSVersion = .tlsv12
        tls.renegotiationSupport = .none
        do {
            if let ca = configuration.ca {
                tls.trustRoots = .certificates(try NIOSSLCertificate.fromPEMFile(ca))
            }
            if let certificate = configuration.certificate, let key = configuration.key {
                tls.certificateChain = try NIOSSLCertificate.fromPEMFile(certificate).map { .certificate($0) }
                tls.privateKey = .privateKey(try NIOSSLPrivateKey(file: key, format: .pem))
            }
        } catch {
            throw .refused("the certificates of objects.s3 cannot be read: \(error)")
        }
        return tls
    }
}
