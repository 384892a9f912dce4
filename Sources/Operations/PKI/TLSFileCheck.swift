/// What the form of a configuration does not tell of its certificates, and a start or a handshake would.
package struct TLSFileCheck: Sendable {
    package struct Finding: Sendable, Equatable {
        /// Of the section that names the files.
        package var key: String
        package var found: String
        package var allowed: String

        package init(key: String, found: String, allowed: String) {
            self.key = key
            self.found = found
            self.allowed = allowed
        }
    }

    package private(set) var findings: [Finding] = []

    /// A server that wants certificates of its clients.
    package init(certificate: String, key: String, clientCA: String, crl: String?) {
        pair(certificate: certificate, key: key, authority: clientCA)
        trust("clientCA", clientCA, crl)
        if let role = TLSProfile.role(ofCertificate: certificate), role.kind != .server {
            add("certificate", "the certificate of the \(role)", allowed: "a server's: clients would refuse it")
        }
    }

    /// A client with a certificate of its own.
    package init(certificate: String, key: String, ca: String) {
        pair(certificate: certificate, key: key, authority: ca)
        trust("ca", ca, nil)
    }

    private mutating func pair(certificate: String, key: String, authority: String) {
        do throws(TrustError) {
            try TLSProfile.checkPair(certificate: certificate, key: key, ca: authority)
        } catch {
            add("key", "\(error)", allowed: "the private key of the certificate")
        }
    }

    private mutating func trust(_ key: String, _ authority: String, _ crl: String?) {
        do throws(TrustError) {
            _ = try TrustStore.load(clientCA: authority, crl: nil)
        } catch {
            return add(key, "\(error)", allowed: "certificates of authorities")
        }
        do throws(TrustError) {
            _ = try TrustStore.load(clientCA: authority, crl: crl)
        } catch {
            add("crl", "\(error)", allowed: "a list that one of the authorities has signed")
        }
    }

    private mutating func add(_ key: String, _ found: String, allowed: String) {
        findings.append(Finding(key: key, found: found, allowed: allowed))
    }
}
