import Foundation
import Operations
import PKI
import Testing

@Suite struct PKIDirectoryTests {
    let folder: Folder
    let pki: PKIDirectory

    init() throws {
        folder = try Folder()
        pki = PKIDirectory(folder.path + "/pki")
        try pki.create(now: now)
    }

    private func mode(_ path: String) throws -> Int {
        try #require(FileManager.default.attributesOfItem(atPath: path)[.posixPermissions] as? Int)
    }

    @Test func opensslVerifiesWhatIsIssued() async throws {
        try pki.issue(.device, "pump-1", "a.b_c:d-e")
        try pki.issue(.gateway, "plant-7")
        try pki.issueServer("edge.example")
        for (file, purpose) in [
            (try pki.file(.device, "pump-1"), "sslclient"), (try pki.file(.device, "a.b_c:d-e"), "sslclient"),
            (try pki.file(.gateway, "plant-7"), "sslclient"), (try pki.file(.server, "edge.example"), "sslserver"),
        ] {
            let strict = try await openssl(
                "verify", "-x509_strict", "-purpose", purpose, "-CAfile", pki.authorityCertificate, "-crl_check",
                "-CRLfile", pki.revocationList, file)
            #expect(strict.status == 0, "\(strict.output)")
        }
        let other = try await openssl(
            "verify", "-purpose", "sslserver", "-CAfile", pki.authorityCertificate, try pki.file(.device, "pump-1"))
        #expect(other.status != 0)
    }

    @Test func certificatesSayWhatTheyAre() async throws {
        try pki.issue(.device, "pump-1")
        try pki.issueServer("edge")
        let device = try await openssl("x509", "-noout", "-text", "-in", try pki.file(.device, "pump-1")).output
        for expected in [
            "URI:sluice:device/pump-1", "Subject: CN = pump-1", "CA:FALSE", "Digital Signature",
            "TLS Web Client Authentication", "prime256v1", "ecdsa-with-SHA256", "X509v3 Authority Key Identifier",
        ] { #expect(device.contains(expected), "\(expected)") }
        #expect(!device.contains("TLS Web Server Authentication"))
        let server = try await openssl("x509", "-noout", "-text", "-in", try pki.file(.server, "edge")).output
        for expected in [
            "URI:sluice:server/edge", "DNS:localhost", "IP Address:127.0.0.1", "IP Address:0:0:0:0:0:0:0:1",
            "TLS Web Server Authentication",
        ] { #expect(server.contains(expected), "\(expected)") }
        let authority = try await openssl("x509", "-noout", "-text", "-in", pki.authorityCertificate).output
        #expect(authority.contains("CA:TRUE, pathlen:0") && authority.contains("Certificate Sign, CRL Sign"))
    }

    @Test func anIdOf128BytesWorks() async throws {
        let id = String(repeating: "x", count: 128)
        try pki.issue(.device, id)
        #expect(
            try await openssl("verify", "-CAfile", pki.authorityCertificate, try pki.file(.device, id)).status == 0)
    }

    @Test func keysAreForTheOwnerAlone() throws {
        try pki.issue(.device, "pump-1")
        #expect(try mode(pki.authorityKey) == 0o600)
        #expect(try mode(pki.keyFile(.device, "pump-1")) == 0o600)
        #expect(try mode(pki.file(.device, "pump-1")) == 0o644)
        #expect(try mode(pki.path) == 0o700)
        #expect(try mode(pki.path + "/devices") == 0o700)
        let names = try FileManager.default.contentsOfDirectory(atPath: pki.path + "/devices").sorted()
        #expect(names == ["pump-1.crt", "pump-1.key"])
    }

    @Test func nothingIsOverwrittenWithoutForce() throws {
        try pki.issue(.device, "pump-1")
        let before = try contents(pki.keyFile(.device, "pump-1"))
        let error = #expect(throws: PKIError.self) { try pki.issue(.device, "pump-0", "pump-1") }
        #expect(error?.description.contains("devices/pump-1.key is there already; --force") == true)
        #expect(!FileManager.default.fileExists(atPath: try pki.file(.device, "pump-0")))
        #expect(try pki.entries().count == 1)
        #expect(try contents(pki.keyFile(.device, "pump-1")) == before)
        #expect(throws: PKIError.self) { try pki.create(now: now) }

        try pki.issue(.device, "pump-1", force: true)
        #expect(try contents(pki.keyFile(.device, "pump-1")) != before)
        #expect(try pki.entries().count == 2)
    }

    @Test func aFreshAuthorityForgetsWhatTheOldOneIssued() async throws {
        try pki.issue(.device, "pump-1")
        let before = try contents(pki.authorityCertificate)
        try pki.create(force: true, now: now)
        #expect(try contents(pki.authorityCertificate) != before)
        #expect(try pki.entries().isEmpty)
        let verdict = try await openssl("verify", "-CAfile", pki.authorityCertificate, try pki.file(.device, "pump-1"))
        #expect(verdict.status != 0)
    }

    @Test func revocationReachesOpenSSLThroughTheList() async throws {
        try pki.issue(.device, "pump-1", "pump-2")
        let empty = try await openssl("crl", "-verify", "-CAfile", pki.authorityCertificate, "-in", pki.revocationList)
        #expect(empty.output.contains("verify OK"))
        #expect(try pki.revoke("pump-1", now: now).map(\.id) == ["pump-1"])
        // A second time is no error, and the list is written again.
        #expect(try pki.revoke("pump-1", now: now + 5).isEmpty)
        let list = try await openssl(
            "crl", "-verify", "-text", "-CAfile", pki.authorityCertificate, "-in", pki.revocationList)
        #expect(list.output.contains("verify OK"))
        #expect(list.output.contains("X509v3 CRL Number: \n                3"), "\(list.output)")
        #expect(list.output.contains("Version 2"))
        let serial = try #require(try pki.entries().first?.serial)
        #expect(list.output.contains("Serial Number: \(serial)"))
        for (id, status) in [("pump-1", false), ("pump-2", true)] {
            let verdict = try await openssl(
                "verify", "-CAfile", pki.authorityCertificate, "-crl_check", "-CRLfile", pki.revocationList,
                try pki.file(.device, id))
            #expect((verdict.status == 0) == status, "\(verdict.output)")
        }
    }

    @Test func revokingWorksAfterTheFileIsGoneAndReachesEveryCertificateOfTheId() throws {
        try pki.issue(.device, "pump-1")
        try pki.issue(.device, "pump-1", force: true)
        try FileManager.default.removeItem(atPath: try pki.file(.device, "pump-1"))
        #expect(try pki.revoke("pump-1", now: now).count == 2)
    }

    @Test func aSerialNamesOneCertificate() throws {
        try pki.issue(.device, "pump-1")
        try pki.issue(.device, "pump-1", force: true)
        let serial = try pki.entries()[0].serial
        #expect(try pki.revoke(serial.lowercased(), now: now).map(\.serial) == [serial])
    }

    @Test func anIdOfTwoKindsNeedsTheKind() throws {
        try pki.issue(.device, "seven")
        try pki.issue(.gateway, "seven")
        let error = #expect(throws: PKIError.self) { try pki.revoke("seven", now: now) }
        #expect(error?.description == "seven is the id of a device and of a gateway; say which with --kind")
        #expect(try pki.revoke("seven", kind: .gateway, now: now).map(\.kind) == [.gateway])
        #expect(throws: PKIError.self) { try pki.revoke("eight", now: now) }
    }

    @Test(arguments: ["", "a/b", "a b", "a+b", "ü", "a\nb", String(repeating: "x", count: 129)])
    func unusableIdsAreRefused(id: String) {
        #expect(throws: IdentifierError.self) { try PeerRole(.device, id: id) }
    }

    @Test func daysAreBounded() throws {
        #expect(throws: PKIError.self) { try pki.issue(.device, "a", days: 0) }
        let error = #expect(throws: PKIError.self) { try pki.issue(.device, "a", days: 20_000) }
        #expect(error?.description.contains("longer than the authority lives") == true)
        // Without a wish the authority's end bounds the certificate.
        let late = now + Int64(PKIDirectory.authorityDays - 10) * 86_400
        try pki.issue(.device, "b", at: late)
        #expect(try pki.entries().first?.notAfter == pki.authorityNotAfter())
        #expect(throws: PKIError.self) { try pki.issue(.device, "c", "c") }
    }

    @Test func namesOfServersAreChecked() throws {
        for bad in ["", "a..b", "-a.b", "a b", "*", "ä.de"] {
            #expect(throws: PKIError.self, "\(bad)") { try ServerName.dns(bad) }
        }
        #expect(throws: Never.self) { try ServerName.dns("*.example.com") }
        #expect(throws: PKIError.self) { try ServerName.address("127.0.0.256") }
    }

    @Test func withoutAnAuthorityTheErrorSaysWhatToDo() throws {
        let empty = PKIDirectory(folder.path)
        let error = #expect(throws: PKIError.self) { try empty.issue(.device, "a") }
        #expect(error?.description.contains("sluice pki init --directory \(folder.path)") == true)
    }

    @Test func damageIsNamedWithItsFile() throws {
        try Data("{}".utf8).write(to: URL(fileURLWithPath: pki.path + "/index.json"))
        #expect(throws: PKIError.self) { try pki.entries() }
        try Data("nonsense".utf8).write(to: URL(fileURLWithPath: pki.authorityKey))
        let error = #expect(throws: PKIError.self) { try pki.issue(.device, "a") }
        #expect(error?.description.contains("ca.key is damaged") == true)
        let other = PKIDirectory(folder.path + "/other")
        try other.create(now: now)
        try FileManager.default.removeItem(atPath: pki.authorityKey)
        try FileManager.default.copyItem(atPath: other.authorityKey, toPath: pki.authorityKey)
        let foreign = #expect(throws: PKIError.self) { try pki.issue(.device, "a") }
        #expect(foreign?.description.contains("the key does not belong to") == true)
    }

    @Test func listingShowsStates() throws {
        try pki.issue(.device, "old", days: 1)
        try pki.issue(.device, "good", "bad", days: 100)
        try pki.revoke("bad", now: now)
        let listing = try PKIListing(pki, now: now + 2 * 86_400)
        #expect(listing.certificates.map(\.state) == [.expired, .valid, .revoked])
        #expect(listing.certificates.map(\.daysLeft) == [-1, 98, 98])
        let table = listing.table().split(separator: "\n")
        #expect(table.first?.hasPrefix("KIND    ID    STATE    EXPIRES") == true)
        #expect(table.count == 5)
        let decoded = try JSONDecoder().decode(PKIListing.self, from: Data(listing.json().utf8))
        #expect(decoded == listing)
    }

    @Test func theListCanBeRenewed() throws {
        try pki.renewRevocationList(days: 90, now: now)
        let trust = try TrustStore.load(clientCA: pki.authorityCertificate, crl: pki.revocationList)
        #expect(trust.lists.first?.nextUpdate == now + 90 * 86_400)
        #expect(trust.lists.first?.number == [2])
    }

    @Test func thePrivateKeyBelongsToItsCertificate() async throws {
        try pki.issue(.device, "pump-1")
        let fromKey = try await openssl("pkey", "-pubout", "-in", try pki.keyFile(.device, "pump-1"))
        let fromCertificate = try await openssl("x509", "-noout", "-pubkey", "-in", try pki.file(.device, "pump-1"))
        #expect(fromKey.output == fromCertificate.output && fromKey.output.contains("BEGIN PUBLIC KEY"))
    }
}
