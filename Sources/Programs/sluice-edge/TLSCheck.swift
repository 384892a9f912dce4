import Operations
import PKI

/// What a configuration's form does not tell of its certificates, and a handshake would.
enum TLSCheck {
    static func check(_ configuration: EdgeConfiguration, file: String) throws(ConfigurationProblems) {
        var problems: [ConfigurationProblem] = []
        func problem(_ key: String, _ found: String, allowed: String) {
            problems.append(
                ConfigurationProblem(file: file, line: 0, column: 0, key: key, found: found, allowed: allowed))
        }
        func check(_ section: String, certificate: String, key: String, authority: String) {
            do throws(TrustError) {
                try TLSProfile.checkPair(certificate: certificate, key: key, ca: authority)
            } catch {
                problem("\(section).key", "\(error)", allowed: "the private key of the certificate")
            }
        }
        for (index, listener) in configuration.listeners.enumerated() {
            guard let tls = listener.tls else { continue }
            check("listeners[\(index)].tls", certificate: tls.certificate, key: tls.key, authority: tls.clientCA)
        }
        if let uplink = configuration.uplink {
            check("uplink", certificate: uplink.certificate, key: uplink.key, authority: uplink.ca)
            if let role = TLSProfile.role(ofCertificate: uplink.certificate),
                role.kind != .gateway || role.id != configuration.gatewayID
            {
                problem(
                    "uplink.certificate", "the certificate of the \(role), and the cloud goes by that",
                    allowed: "one of the gateway \(configuration.gatewayID), as gateway.id says")
            }
        }
        guard problems.isEmpty else { throw ConfigurationProblems(problems) }
    }
}
