import Foundation
import PKI
import SwiftASN1
import Testing
import X509

@Suite struct RevocationListTests {
    let folder: Folder
    let pki: PKIDirectory

    init() async throws {
        folder = try Folder()
        pki = PKIDirectory(folder.path + "/pki")
        try pki.create(now: now)
    }

    private func authorities() throws -> [Certificate] {
        [try Certificate(pemEncoded: contents(pki.authorityCertificate))]
    }

    private func listBytes() throws -> [UInt8] {
        try PEMDocument(pemString: contents(pki.revocationList)).derBytes
    }

    /// A list made by `openssl ca`, with an authority of its own in `name`.
    private func opensslList(extensions: String = "", revoke: Bool = true) async throws -> (ca: String, list: String) {
        let base = folder.path
        let configuration = try folder.write(
            """
            [ca]
            default_ca = d
            [d]
            database = \(base)/index.txt
            crlnumber = \(base)/crlnumber
            default_md = sha256
            crl_extensions = e
            [e]
            authorityKeyIdentifier = keyid
            \(extensions)
            """, to: "ca.cnf")
        _ = try folder.write(
            revoke ? "R\t350101000000Z\t260101000000Z,keyCompromise\t0A1B2C\tunknown\t/CN=x\n" : "", to: "index.txt")
        _ = try folder.write("01\n", to: "crlnumber")
        try await openssl(
            "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=foreign", "-days", "30", "-keyout",
            "\(base)/f.key", "-out", "\(base)/f.crt")
        let made = try await openssl(
            "ca", "-gencrl", "-config", configuration, "-keyfile", "\(base)/f.key", "-cert", "\(base)/f.crt",
            "-crldays", "7", "-out", "\(base)/f.crl")
        try #require(made.status == 0, "\(made.output)")
        return ("\(base)/f.crt", "\(base)/f.crl")
    }

    @Test func aListOfOpenSSLIsRead() async throws {
        let (ca, list) = try await opensslList()
        let trust = try TrustStore.load(clientCA: ca, crl: list)
        let read = try #require(trust.lists.first)
        #expect(read.contains(Certificate.SerialNumber(bytes: [0x0A, 0x1B, 0x2C])))
        #expect(!read.contains(Certificate.SerialNumber(bytes: [0x0A, 0x1B, 0x2D])))
        #expect(read.revocationDate(of: Certificate.SerialNumber(bytes: [0x0A, 0x1B, 0x2C])) == 1_767_225_600)
        #expect(read.count == 1)
        #expect(!read.isOverdue(at: now) && read.isOverdue(at: now + 8 * 86_400))
    }

    @Test func derIsReadAsWell() async throws {
        let (ca, list) = try await opensslList()
        try await openssl("crl", "-in", list, "-outform", "DER", "-out", "\(folder.path)/f.der")
        #expect(try TrustStore.load(clientCA: ca, crl: "\(folder.path)/f.der").lists.first?.count == 1)
    }

    @Test func anEmptyListIsRead() async throws {
        let (ca, list) = try await opensslList(revoke: false)
        #expect(try TrustStore.load(clientCA: ca, crl: list).lists.first?.count == 0)
    }

    @Test func aCriticalExtensionThatIsNotUnderstoodIsRefused() async throws {
        let (ca, list) = try await opensslList(
            extensions: "issuingDistributionPoint = critical,@i\n[i]\nonlyuser = TRUE")
        let error = #expect(throws: TrustError.self) { try TrustStore.load(clientCA: ca, crl: list) }
        #expect(error?.description.contains("the critical extension 2.5.29.28") == true)
    }

    @Test func aListOfAnotherAuthorityIsRefused() async throws {
        let (_, list) = try await opensslList()
        let error = #expect(throws: TrustError.self) {
            try TrustStore.load(clientCA: pki.authorityCertificate, crl: list)
        }
        #expect(error?.file == list)
        #expect(error?.reason.contains("CN=foreign, which is none of the trusted authorities") == true)
    }

    @Test func aChangedListIsRefused() throws {
        try pki.issue(.device, "pump-1")
        try pki.revoke("pump-1", now: now)
        let bytes = try listBytes()
        let authorities = try authorities()
        #expect(throws: Never.self) { try RevocationList(derEncoded: bytes, issuedBy: authorities) }
        // Whatever bit is turned, the list is refused: as damaged, of another issuer, or with a wrong signature.
        for position in bytes.indices {
            var changed = bytes
            changed[position] ^= 0x01
            #expect(throws: RevocationListError.self, "byte \(position)") {
                try RevocationList(derEncoded: changed, issuedBy: authorities)
            }
        }
        for length in stride(from: 0, to: bytes.count, by: 11) {
            #expect(throws: RevocationListError.self, "length \(length)") {
                try RevocationList(derEncoded: Array(bytes[..<length]), issuedBy: authorities)
            }
        }
    }

    @Test func aListOfAnAuthorityWithTheSameNameIsRefused() async throws {
        for name in ["one", "two"] {
            try await openssl(
                "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj", "/CN=same",
                "-keyout", "\(folder.path)/\(name).key", "-out", "\(folder.path)/\(name).crt")
        }
        _ = try folder.write("", to: "i.txt")
        let configuration = try folder.write(
            "[ca]\ndefault_ca=d\n[d]\ndatabase=\(folder.path)/i.txt\ndefault_md=sha256\n", to: "c.cnf")
        try await openssl(
            "ca", "-gencrl", "-config", configuration, "-keyfile", "\(folder.path)/one.key", "-cert",
            "\(folder.path)/one.crt", "-crldays", "7", "-out", "\(folder.path)/one.crl")
        #expect(throws: Never.self) {
            try TrustStore.load(clientCA: "\(folder.path)/one.crt", crl: "\(folder.path)/one.crl")
        }
        let error = #expect(throws: TrustError.self) {
            try TrustStore.load(clientCA: "\(folder.path)/two.crt", crl: "\(folder.path)/one.crl")
        }
        #expect(error?.reason.contains("signature is not that of CN=same") == true)
    }

    @Test func unreadableFilesAreNamed() throws {
        let missing = #expect(throws: TrustError.self) { try TrustStore.load(clientCA: "/nowhere.crt", crl: nil) }
        #expect(missing?.description == "/nowhere.crt: No such file or directory")
        let garbage = try folder.write("hello", to: "garbage")
        #expect(throws: TrustError.self) { try TrustStore.load(clientCA: garbage, crl: nil) }
        #expect(throws: TrustError.self) { try TrustStore.load(clientCA: pki.authorityCertificate, crl: garbage) }
        try pki.issue(.device, "pump-1")
        let leaf = #expect(throws: TrustError.self) {
            try TrustStore.load(clientCA: pki.file(.device, "pump-1"), crl: nil)
        }
        #expect(leaf?.reason.contains("is no authority's certificate") == true)
    }

    @Test func severalEntriesAndABound() throws {
        let devices = (0..<20).map { "d\($0)" }
        try pki.issue(devices.map { PKIDirectory.Request(role: try PeerRole(.device, id: $0)) }, now: now)
        for device in devices.prefix(3) { try pki.revoke(device, now: now) }
        let list = try RevocationList(derEncoded: try listBytes(), issuedBy: try authorities())
        #expect(list.count == 3)
        #expect(throws: RevocationListError.tooLarge(bytes: RevocationList.maximumBytes + 1)) {
            try RevocationList(
                derEncoded: [UInt8](repeating: 0, count: RevocationList.maximumBytes + 1), issuedBy: authorities())
        }
    }
}
