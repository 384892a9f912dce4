import Foundation
import NIOSSL
import Operations
import PKI
import Testing

@Suite struct CertificateJudgeTests {
    let folder: Folder
    let pki: PKIDirectory

    init() async throws {
        folder = try Folder()
        pki = PKIDirectory(folder.path + "/pki")
        try pki.create(now: now)
    }

    private func judge() throws -> CertificateJudge {
        CertificateJudge(trust: try TrustStore.load(clientCA: pki.authorityCertificate, crl: pki.revocationList))
    }

    private func leaf(_ file: String) throws -> NIOSSLCertificate { try NIOSSLCertificate.fromPEMFile(file)[0] }

    private func refusal(_ result: Result<PeerIdentity, CertificateRefusal>) -> CertificateRefusal? {
        if case .failure(let refusal) = result { refusal } else { nil }
    }

    /// OpenSSL's certificates are valid from the second on in which they are made.
    private let soon = now + 300

    /// A certificate from OpenSSL, signed by the authority.
    private func foreign(_ subject: String, extensions: String = "") async throws -> NIOSSLCertificate {
        let base = folder.path + "/f"
        try await openssl("ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", base + ".key")
        try await openssl("req", "-new", "-key", base + ".key", "-subj", subject, "-out", base + ".csr")
        _ = try folder.write(extensions, to: "f.ext")
        let signed = try await openssl(
            "x509", "-req", "-in", base + ".csr", "-CA", pki.authorityCertificate, "-CAkey", pki.authorityKey,
            "-CAcreateserial", "-days", "10", "-extfile", base + ".ext", "-out", base + ".crt")
        try #require(signed.status == 0, "\(signed.output)")
        return try leaf(base + ".crt")
    }

    @Test func aDevicesCertificateIsTheDevice() throws {
        try pki.issue(.device, "pump-1")
        let identity = try judge().judge(try leaf(pki.file(.device, "pump-1")), expecting: .device, at: now).get()
        #expect(identity.role == (try PeerRole(.device, id: "pump-1")))
        #expect(identity.serial == (try pki.entries()[0].serial))
        #expect(identity.notAfter == now + 730 * 86_400)
    }

    @Test func aRoleIsNotAnother() throws {
        try pki.issue(.device, "pump-1")
        try pki.issue(.gateway, "plant-7")
        try pki.issueServer("edge")
        let kinds: [(PeerRole.Kind, String)] = [(.device, "pump-1"), (.gateway, "plant-7")]
        for (kind, id) in kinds {
            for expected in [PeerRole.Kind.device, .gateway] where expected != kind {
                let found = refusal(try judge().judge(try leaf(pki.file(kind, id)), expecting: expected, at: now))
                #expect(found == .wrongRole(found: "\(kind.rawValue) \(id)", expected: expected))
            }
        }
        // Another source of the id does not lift the role that the certificate states.
        let gateway = try leaf(pki.file(.gateway, "plant-7"))
        let sly = refusal(try judge().judge(gateway, expecting: .device, identity: .commonName, at: now))
        #expect(sly == .wrongRole(found: "gateway plant-7", expected: .device))
        let server = try leaf(pki.file(.server, "edge"))
        #expect(refusal(try judge().judge(server, expecting: .device, at: now)) == .wrongUsage(expected: "clientAuth"))
        #expect(throws: Never.self) { try judge().judge(server, expecting: .server, at: now).get() }
    }

    @Test func timeIsThatOfTheCaller() throws {
        try pki.issue(.device, "pump-1", days: 1)
        let certificate = try leaf(pki.file(.device, "pump-1"))
        let end = now + 86_400
        #expect(throws: Never.self) { try judge().judge(certificate, expecting: .device, at: end).get() }
        #expect(throws: Never.self) { try judge().judge(certificate, expecting: .device, at: now - 300).get() }
        let late = refusal(try judge().judge(certificate, expecting: .device, at: end + 1))
        #expect(late == .expired(since: end))
        #expect(late?.description.hasPrefix("the certificate expired at 20") == true)
        #expect(
            refusal(try judge().judge(certificate, expecting: .device, at: now - 301)) == .notYetValid(until: now - 300)
        )
    }

    /// The uplink's judgement while the system's clock is wrong, when the TLS library checks nothing.
    @Test func aServerIsJudgedByNameChainAndTheTimeThatIsGiven() async throws {
        try pki.issueServer("cloud", dns: ["cloud.example"], ip: ["10.0.0.1"])
        let trust = try TrustStore.load(clientCA: pki.authorityCertificate, crl: nil)
        let certificate = try leaf(pki.file(.server, "cloud"))
        func refusal(_ host: String, _ trust: TrustStore, at time: Int64) async -> String? {
            await TLSProfile.refusal(ofServer: certificate, host: host, trust: trust, at: time)
        }
        for host in ["cloud.example", "10.0.0.1"] { #expect(await refusal(host, trust, at: now) == nil) }
        for host in ["other.example", "example", "10.0.0.2", "::1"] {
            #expect(await refusal(host, trust, at: now)?.contains("not good for \(host)") == true)
        }
        #expect(await refusal("cloud.example", trust, at: 0) != nil, "1970")
        #expect(await refusal("cloud.example", trust, at: now + 50 * 365 * 86_400) != nil)
        let other = PKIDirectory(folder.path + "/other")
        try other.create(now: now)
        let stranger = try TrustStore.load(clientCA: other.authorityCertificate, crl: nil)
        #expect(await refusal("cloud.example", stranger, at: now)?.contains("no trusted authority") == true)
        #expect(await TLSProfile.refusal(ofServer: nil, host: "cloud.example", trust: trust, at: now) != nil)
    }

    @Test func anExpiredAuthoritySignsNobody() async throws {
        // The leaf outlives its authority only where another tool signed it.
        try pki.create(days: 5, force: true, now: now)
        let certificate = try await foreign("/CN=a", extensions: "subjectAltName=URI:sluice:device/a")
        let found = refusal(try judge().judge(certificate, expecting: .device, at: now + 6 * 86_400))
        guard case .issuerExpired = found else {
            Issue.record("\(String(describing: found))")
            return
        }
    }

    @Test func aRevokedCertificateIsRefused() throws {
        try pki.issue(.device, "pump-1", "pump-2")
        try pki.revoke("pump-1", now: now)
        let judge = try judge()
        #expect(
            refusal(judge.judge(try leaf(pki.file(.device, "pump-1")), expecting: .device, at: now))
                == .revoked(since: now))
        #expect(throws: Never.self) {
            try judge.judge(leaf(pki.file(.device, "pump-2")), expecting: .device, at: now).get()
        }
    }

    @Test func anotherAuthorityIsRefused() throws {
        let other = PKIDirectory(folder.path + "/other")
        try other.create(now: now)
        try other.issue(.device, "pump-1")
        let found = refusal(try judge().judge(try leaf(other.file(.device, "pump-1")), expecting: .device, at: now))
        guard case .unknownIssuer(let name)? = found else {
            Issue.record("\(String(describing: found))")
            return
        }
        #expect(name.contains("Sluice CA"))
    }

    @Test func anAuthoritysNameWithoutItsKeyIsRefused() async throws {
        let subject = try await openssl(
            "x509", "-noout", "-subject", "-nameopt", "RFC2253", "-in", pki.authorityCertificate)
        let name = subject.output.dropFirst("subject=".count).split(separator: ",").map {
            $0.trimmingCharacters(in: .whitespacesAndNewlines)
        }
        let path = "/" + name.reversed().joined(separator: "/")
        let base = folder.path + "/forged"
        try await openssl(
            "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj", path, "-addext",
            "subjectAltName=URI:sluice:device/pump-1", "-keyout", base + ".key", "-out", base + ".crt")
        let found = refusal(try judge().judge(try leaf(base + ".crt"), expecting: .device, at: now))
        guard case .unknownIssuer = found else {
            Issue.record("\(String(describing: found))")
            return
        }
    }

    @Test func theAuthorityItselfIsNobody() throws {
        let found = refusal(
            try judge().judge(
                try leaf(pki.authorityCertificate), expecting: .device, identity: .commonName, at: now))
        #expect(found == .isAuthority)
    }

    @Test func foreignFieldsCanBeTheId() async throws {
        let certificate = try await foreign("/O=Maker/CN=press-3", extensions: "subjectAltName=DNS:press-3.plant")
        let judge = try judge()
        #expect(
            try judge.judge(certificate, expecting: .device, identity: .commonName, at: soon).get().role.id == "press-3"
        )
        #expect(
            try judge.judge(certificate, expecting: .device, identity: .subjectAltName, at: soon).get().role.id
                == "press-3.plant")
        #expect(refusal(judge.judge(certificate, expecting: .device, at: soon)) == .noIdentity(.uri))
    }

    @Test(arguments: [
        ("subjectAltName=URI:sluice:device/a,URI:sluice:gateway/b", "more than one role"),
        ("subjectAltName=URI:sluice:device/a,URI:sluice:device/b", "more than one role"),
        ("subjectAltName=URI:sluice:robot/a", "role cannot be read"),
        ("subjectAltName=URI:SLUICE:device/", "role cannot be read"),
        ("subjectAltName=URI:sluice:device/a%2Fb", "role cannot be read"),
        ("subjectAltName=URI:sluice:device/a%4", "role cannot be read"),
        ("subjectAltName=URI:sluice:device/a\nextendedKeyUsage=codeSigning", "lacks clientAuth"),
        ("subjectAltName=URI:sluice:device/a\nnameConstraints=critical,permitted;DNS:x", "critical extension"),
        ("", "no role"),
    ])
    func oddCertificatesAreRefusedWithAReason(extensions: String, reason: String) async throws {
        let found = refusal(
            try await judge().judge(foreign("/CN=a", extensions: extensions), expecting: .device, at: soon))
        #expect(found?.description.contains(reason) == true, "\(String(describing: found))")
    }

    @Test func percentEncodingIsRead() async throws {
        let certificate = try await foreign("/CN=a", extensions: "subjectAltName=URI:sluice:device/a%3Ab%2E1")
        #expect(try judge().judge(certificate, expecting: .device, at: soon).get().role.id == "a:b.1")
    }

    @Test(arguments: [
        ("/CN=a\\+b", "cannot be used"), ("/CN=a\\/#", "cannot be used"), ("/CN=a/CN=b", "more than one"),
    ])
    func commonNamesThatWouldBreakTopicsAreRefused(subject: String, reason: String) async throws {
        let found = refusal(
            try await judge().judge(foreign(subject), expecting: .device, identity: .commonName, at: soon))
        #expect(found?.description.contains(reason) == true, "\(String(describing: found))")
    }

    @Test func noCertificateIsNoPeer() throws {
        #expect(refusal(try judge().judge(nil, expecting: .device, at: now)) == .noCertificate)
    }

    @Test func everyRefusalHasAWordAndASentence() {
        let all: [CertificateRefusal] = [
            .noCertificate, .malformed("x"), .unknownIssuer("x"), .issuerExpired("x", since: 0), .notYetValid(until: 0),
            .expired(since: 0), .revoked(since: 0), .isAuthority, .wrongUsage(expected: "clientAuth"),
            .wrongRole(found: "gateway x", expected: .device), .noIdentity(.subjectAltName),
            .ambiguousIdentity(.commonName, found: ["a", "b"]), .unusableIdentity(.empty), .unreadableRole(uri: "x"),
        ]
        for refusal in all {
            #expect(!refusal.label.contains(" ") && refusal.description.contains(" "))
        }
    }
}
