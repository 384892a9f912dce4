import Operations
import PKI

/// `--check` looks into the certificates too. A start does not end for it: files that are renewed do not change all at once.
enum TLSCheck {
    static func check(_ configuration: EdgeConfiguration, file: String) throws(ConfigurationProblems) {
        var problems: [ConfigurationProblem] = []
        func add(_ section: String, _ findings: [TLSFileCheck.Finding]) {
            problems += findings.map {
                ConfigurationProblem(
                    file: file, line: 0, column: 0, key: "\(section).\($0.key)", found: $0.found, allowed: $0.allowed)
            }
        }
        for (index, listener) in configuration.listeners.enumerated() {
            guard let tls = listener.tls else { continue }
            let check = TLSFileCheck(
                certificate: tls.certificate, key: tls.key, clientCA: tls.clientCA, crl: tls.crl)
            add("listeners[\(index)].tls", check.findings)
        }
        if let uplink = configuration.uplink {
            add(
                "uplink",
                TLSFileCheck(certificate: uplink.certificate, key: uplink.key, ca: uplink.ca).findings)
            if let role = TLSProfile.role(ofCertificate: uplink.certificate),
                role.kind != .gateway || role.id != configuration.gatewayID
            {
                add(
                    "uplink",
                    [
                        .init(
                            key: "certificate",
                            found: "the certificate of the \(role), and the cloud goes by that",
                            allowed: "one of the gateway \(configuration.gatewayID), as gateway.id says")
                    ])
            }
        }
        guard problems.isEmpty else { throw ConfigurationProblems(problems) }
    }
}
