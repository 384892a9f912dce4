import ArgumentParser
import FoundationEssentials
import Operations
import PKI

struct PKICommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "pki", abstract: "Certificates for devices, gateways and servers.",
        subcommands: [
            PKIInit.self, PKIServer.self, PKIGateway.self, PKIDevice.self, PKIRevoke.self, PKIRenewList.self,
            PKIList.self,
        ])
}

struct PKIOptions: ParsableArguments {
    @Option(name: [.customShort("D"), .long], help: "The folder of the authority.")
    var directory = "./pki"

    var store: PKIDirectory { PKIDirectory(directory) }
    var now: Int64 { Int64(Date().timeIntervalSince1970) }
}

struct IssueOptions: ParsableArguments {
    @OptionGroup var pki: PKIOptions

    @Option(help: "How long it is valid; by default \(PKIDirectory.certificateDays), or as long as the authority.")
    var days: Int?

    @Flag(help: "Replace files that are there. The certificates in them stay valid until they are revoked.")
    var force = false

    func issue(_ kind: PeerRole.Kind, ids: [String], names: [ServerName] = []) throws {
        // An unusable id is thrown as it is: its description says what an id may be.
        let requests = try ids.map { PKIDirectory.Request(role: try PeerRole(kind, id: $0), names: names) }
        try pki.store.issue(requests, days: days, force: force, now: pki.now)
        for request in requests {
            print("\(pki.store.certificate(request.role))\n\(pki.store.key(request.role))")
        }
    }
}

struct PKIInit: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "init", abstract: "Make an authority with an empty revocation list.")

    @OptionGroup var pki: PKIOptions
    @Option(help: "The authority's name; a piece of its key's digest is added.")
    var name = "Sluice CA"
    @Option(help: "How long the authority is valid.")
    var days = PKIDirectory.authorityDays
    @Option(help: "In how many days the revocation list is overdue.")
    var crlDays = PKIDirectory.revocationListDays
    @Flag(help: "Replace an authority that is there; all certificates that it issued become worthless.")
    var force = false

    func run() async throws {
        try pki.store.create(name: name, days: days, listDays: crlDays, force: force, now: pki.now)
        print("\(pki.store.authorityCertificate)\n\(pki.store.authorityKey)\n\(pki.store.revocationList)")
    }
}

struct PKIServer: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "server", abstract: "Issue a certificate for a server: an edge's listeners, or the cloud's.")

    @OptionGroup var issue: IssueOptions
    @Argument(help: "The server's name, which is also its file's.")
    var name: String
    @Option(help: "A DNS name by which clients reach it; may be repeated. By default NAME.")
    var dns: [String] = []
    @Option(help: "An address by which clients reach it; may be repeated.")
    var ip: [String] = []

    func run() async throws {
        let dnsNames = dns.isEmpty && ip.isEmpty ? [name] : dns
        try issue.issue(
            .server, ids: [name],
            names: try dnsNames.map(ServerName.dns) + ip.map(ServerName.address))
    }
}

struct PKIGateway: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "gateway", abstract: "Issue a certificate with which a gateway posts to the cloud.")

    @OptionGroup var issue: IssueOptions
    @Argument(help: "The gateway's id, as in its configuration.")
    var id: String

    func run() async throws { try issue.issue(.gateway, ids: [id]) }
}

struct PKIDevice: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "device", abstract: "Issue certificates for devices.")

    @OptionGroup var issue: IssueOptions
    @Argument(help: "The devices' ids.")
    var ids: [String]

    func run() async throws { try issue.issue(.device, ids: ids) }
}

extension PeerRole.Kind: ExpressibleByArgument {}

struct PKIRevoke: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "revoke", abstract: "Revoke certificates and write the revocation list.",
        discussion: "All certificates of the id are revoked; a serial names one of them.")

    @OptionGroup var pki: PKIOptions
    @Argument(help: "A device's or gateway's id, a server's name, or a serial.")
    var name: String
    @Option(help: "Which of several with the same id.")
    var kind: PeerRole.Kind?
    @Option(help: "In how many days the revocation list is overdue.")
    var crlDays = PKIDirectory.revocationListDays

    func run() async throws {
        let revoked = try pki.store.revoke(name, kind: kind, listDays: crlDays, now: pki.now)
        for entry in revoked { print("revoked \(entry.kind.rawValue) \(entry.id), serial \(entry.serial)") }
        if revoked.isEmpty { print("all certificates of \(name) were revoked already") }
        print("written \(pki.store.revocationList)")
    }
}

struct PKIRenewList: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "crl", abstract: "Write the revocation list anew, before it is overdue.")

    @OptionGroup var pki: PKIOptions
    @Option(help: "In how many days the revocation list is overdue.")
    var crlDays = PKIDirectory.revocationListDays

    func run() async throws {
        try pki.store.renewRevocationList(days: crlDays, now: pki.now)
        print("written \(pki.store.revocationList)")
    }
}

struct PKIList: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "list", abstract: "What was issued, and when it expires.")

    @OptionGroup var pki: PKIOptions
    @Flag(help: "As JSON.")
    var json = false

    func run() async throws {
        let listing = try PKIListing(pki.store, now: pki.now)
        print(json ? try listing.json() : listing.table(), terminator: "")
    }
}
