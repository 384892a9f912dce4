import Crypto
import FoundationEssentials
import Glibc
import Operations
import SwiftASN1
import X509

/// An authority in a folder: `ca.crt`, `ca.key`, `crl.pem`, `index.json`, and `devices`, `gateways` and `servers` with
/// a `.crt` and a `.key` for each id. Times are seconds since 1970.
///
/// Each change is made under a lock on the folder. The index is written before what it speaks of, so that every
/// certificate that exists can be revoked.
package struct PKIDirectory: Sendable {
    package static let maximumDays = 36_500
    package static let authorityDays = 3_650
    package static let certificateDays = 730
    package static let revocationListDays = 30

    package let path: String

    package init(_ path: String) { self.path = path }

    package var authorityCertificate: String { "\(path)/ca.crt" }
    package var authorityKey: String { "\(path)/ca.key" }
    package var revocationList: String { "\(path)/crl.pem" }
    var indexFile: String { "\(path)/index.json" }

    package func certificate(_ role: PeerRole) -> String { "\(folder(role.kind))/\(role.id).crt" }
    package func key(_ role: PeerRole) -> String { "\(folder(role.kind))/\(role.id).key" }
    func folder(_ kind: PeerRole.Kind) -> String { "\(path)/\(kind.rawValue)s" }

    /// Makes the authority and an empty revocation list.
    ///
    /// - Parameter force: replaces an authority that is there; what it has issued is worth nothing from then on.
    /// - Throws: `exists` where an authority is there and `force` is not given.
    package func create(
        name: String = "Sluice CA", days: Int = authorityDays, listDays: Int = revocationListDays, force: Bool = false,
        now: Int64
    ) throws(PKIError) {
        try Self.check(days: days)
        try Self.check(days: listDays)
        for folder in [path] + PeerRole.Kind.allCases.map(folder) { try Self.makeDirectory(folder) }
        try withLock { () throws(PKIError) in
            if !force {
                for file in [authorityKey, authorityCertificate] where AtomicFile.exists(file) { throw .exists(file) }
            }
            let authority = try Self.library { try CertificateAuthority.create(name: name, now: now, days: days) }
            var index = PKIIndex()
            // The key first: a certificate without its key would look like an authority.
            try write(authority.key.pemRepresentation, to: authorityKey, mode: 0o600, force: force)
            try write(Self.pem(authority.certificate), to: authorityCertificate, mode: 0o644, force: force)
            try writeRevocationList(&index, authority: authority, days: listDays, now: now)
            try sync([path])
        }
    }

    package struct Request: Sendable {
        package var role: PeerRole
        /// Of a server: DNS names and addresses.
        package var names: [ServerName]

        package init(role: PeerRole, names: [ServerName] = []) {
            self.role = role
            self.names = names
        }
    }

    /// Issues one certificate with a fresh key for each request. Nothing is written where one of the files exists and
    /// `force` is not given.
    ///
    /// - Parameter days: `nil` is two years, or the authority's end where that comes first.
    package func issue(
        _ requests: [Request], days: Int? = nil, force: Bool = false, now: Int64
    ) throws(PKIError) {
        if let days { try Self.check(days: days) }
        let names = requests.map { "\($0.role)" }
        for (position, name) in names.enumerated() where names[..<position].contains(name) { throw .duplicate(name) }
        try requireAuthority()
        try withLock { () throws(PKIError) in
            let authority = try loadAuthority()
            let authorityEnd = authority.certificate.notValidAfter.wholeSeconds
            let wanted = now + Int64(days ?? Self.certificateDays) * 86_400
            if let days, wanted > authorityEnd { throw .outlivesAuthority(days: days, authorityNotAfter: authorityEnd) }
            if !force {
                for file in requests.flatMap({ [key($0.role), certificate($0.role)] }) where AtomicFile.exists(file) {
                    throw .exists(file)
                }
            }
            let notBefore = max(
                now - CertificateAuthority.backdating, authority.certificate.notValidBefore.wholeSeconds)
            let notAfter = min(wanted, authorityEnd)
            let issued = try Self.library {
                try requests.map { request in
                    try authority.issue(
                        request.role, names: request.names.map(\.general), notBefore: notBefore, notAfter: notAfter)
                }
            }
            var index = try PKIIndex.read(indexFile)
            for (request, made) in zip(requests, issued) {
                index.entries.append(
                    PKIIndex.Entry(
                        kind: request.role.kind, id: request.role.id, serial: made.certificate.serialNumber.hexadecimal,
                        notBefore: notBefore, notAfter: notAfter))
            }
            try index.write(indexFile)
            try sync([path])
            for (request, made) in zip(requests, issued) {
                try write(made.key.pemRepresentation, to: key(request.role), mode: 0o600, force: force)
                try write(Self.pem(made.certificate), to: certificate(request.role), mode: 0o644, force: force)
            }
            try sync(Set(requests.map { folder($0.role.kind) }).sorted())
        }
    }

    /// Revokes every certificate of the id that is not revoked yet, or the one with the serial, and writes the list.
    ///
    /// - Parameter name: an id, or a serial in hexadecimal.
    /// - Returns: what was revoked now; empty where all were already. The list is written in any case.
    @discardableResult
    package func revoke(
        _ name: String, kind: PeerRole.Kind? = nil, listDays: Int = revocationListDays, now: Int64
    ) throws(PKIError) -> [PKIIndex.Entry] {
        try Self.check(days: listDays)
        try requireAuthority()
        return try withLock { () throws(PKIError) in
            let authority = try loadAuthority()
            var index = try PKIIndex.read(indexFile)
            let matches = index.entries.indices.filter { position in
                let entry = index.entries[position]
                return (entry.id == name || entry.serial == name.uppercased()) && (kind == nil || entry.kind == kind)
            }
            guard !matches.isEmpty else { throw .unknown(id: name.printable, directory: path) }
            let kinds = PeerRole.Kind.allCases.filter { kind in matches.contains { index.entries[$0].kind == kind } }
            guard kinds.count == 1 else { throw .ambiguous(id: name, kinds: kinds) }
            var revoked: [PKIIndex.Entry] = []
            for position in matches where index.entries[position].revokedAt == nil {
                index.entries[position].revokedAt = now
                revoked.append(index.entries[position])
            }
            try writeRevocationList(&index, authority: authority, days: listDays, now: now)
            try sync([path])
            return revoked
        }
    }

    /// Writes the list anew with a later `nextUpdate`.
    package func renewRevocationList(days: Int = revocationListDays, now: Int64) throws(PKIError) {
        try Self.check(days: days)
        try requireAuthority()
        try withLock { () throws(PKIError) in
            let authority = try loadAuthority()
            var index = try PKIIndex.read(indexFile)
            try writeRevocationList(&index, authority: authority, days: days, now: now)
            try sync([path])
        }
    }

    /// Everything that was issued, in order.
    package func entries() throws(PKIError) -> [PKIIndex.Entry] {
        try requireAuthority()
        return try PKIIndex.read(indexFile).entries
    }

    /// When the authority itself expires.
    package func authorityNotAfter() throws(PKIError) -> Int64 {
        try requireAuthority()
        do {
            return try TrustStore.certificates(file: authorityCertificate)[0].notValidAfter.wholeSeconds
        } catch {
            throw .damaged(file: error.file, reason: error.reason)
        }
    }
}

extension PKIDirectory {
    private static func check(days: Int) throws(PKIError) {
        guard (1...maximumDays).contains(days) else { throw .badDays(days) }
    }

    private func requireAuthority() throws(PKIError) {
        guard AtomicFile.exists(authorityCertificate) else { throw .noAuthority(directory: path) }
    }

    private func loadAuthority() throws(PKIError) -> CertificateAuthority {
        let certificate: Certificate
        do {
            certificate = try TrustStore.certificates(file: authorityCertificate)[0]
        } catch {
            throw .damaged(file: error.file, reason: error.reason)
        }
        let bytes: [UInt8]
        do {
            bytes = try AtomicFile.read(authorityKey, maximumBytes: 64 * 1024)
        } catch {
            throw .file(error)
        }
        let key: P256.Signing.PrivateKey
        do {
            key = try P256.Signing.PrivateKey(pemRepresentation: String(decoding: bytes, as: UTF8.self))
        } catch {
            throw .damaged(file: authorityKey, reason: "no P-256 private key in PEM")
        }
        guard Certificate.PublicKey(key.publicKey) == certificate.publicKey else {
            throw .damaged(file: authorityKey, reason: "the key does not belong to \(authorityCertificate)")
        }
        return CertificateAuthority(certificate: certificate, key: key)
    }

    /// The index first: a revocation that only the list knew would be lost with the next list.
    private func writeRevocationList(
        _ index: inout PKIIndex, authority: CertificateAuthority, days: Int, now: Int64
    ) throws(PKIError) {
        index.listNumber += 1
        try index.write(indexFile)
        let draft = RevocationListDraft(
            issuer: authority.certificate,
            entries: index.entries.compactMap { entry in
                guard let revokedAt = entry.revokedAt, let serial = Certificate.SerialNumber(hexadecimal: entry.serial)
                else { return nil }
                return (serial, revokedAt)
            },
            number: index.listNumber, thisUpdate: now - CertificateAuthority.backdating,
            nextUpdate: now + Int64(days) * 86_400)
        let encoded = try Self.library { try draft.signed(by: authority.key) }
        try write(
            PEMDocument(type: "X509 CRL", derBytes: encoded).pemString + "\n", to: revocationList, mode: 0o644,
            force: true)
    }

    private static func pem(_ certificate: Certificate) throws(PKIError) -> String {
        try library { try certificate.serializeAsPEM().pemString + "\n" }
    }

    private func write(_ text: String, to path: String, mode: mode_t, force: Bool) throws(PKIError) {
        let ended = text.hasSuffix("\n") ? text : text + "\n"
        do {
            try AtomicFile.write([UInt8](ended.utf8), to: path, mode: mode, replacing: force)
        } catch {
            if error.code == EEXIST { throw .exists(path) }
            throw .file(error)
        }
    }

    private func sync(_ folders: [String]) throws(PKIError) {
        do {
            for folder in folders { try AtomicFile.syncDirectory(folder) }
        } catch {
            throw .file(error)
        }
    }

    private static func makeDirectory(_ path: String) throws(PKIError) {
        guard mkdir(path, 0o700) == 0 || errno == EEXIST else {
            throw .file(FileError(path: path, operation: "create", code: errno))
        }
    }

    /// One command at a time; the lock goes with the process.
    private func withLock<Value>(_ body: () throws(PKIError) -> Value) throws(PKIError) -> Value {
        let descriptor = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC)
        guard descriptor >= 0 else { throw .file(FileError(path: path, operation: "open", code: errno)) }
        defer { close(descriptor) }
        guard flock(descriptor, LOCK_EX | LOCK_NB) == 0 else { throw .busy(path) }
        // Closing alone would not do while a forked child still holds a copy of the descriptor.
        defer { flock(descriptor, LOCK_UN) }
        return try body()
    }

    private static func library<Value>(_ body: () throws -> Value) throws(PKIError) -> Value {
        do {
            return try body()
        } catch {
            throw .library("\(error)")
        }
    }
}
