import Database
import EventLog
import ObjectStore
import SyncModel

/// The whole of an audit, read in the direction in which messages travel: journals, gateways, log, tables, and the
/// journals' new lines. A message that moves on meanwhile is seen at its next place, so an audit of a running system
/// does not report as lost what is only on its way.
package struct Audit: Sendable {
    private let database: PostgresConfiguration
    private let journals: [String]
    private let gateway: String?
    private let log: (any EventLog)?
    private let objects: (any ObjectStore)?
    /// Of gateways that cannot be asked: these may be older than all else.
    private let accountings: [GatewayAccounting]
    /// Asks the gateways; called anew for each attempt, before the log and the tables are read, and once more after them
    /// where the tables are ahead of the first answer.
    private let accounting: @Sendable () async throws -> [GatewayAccounting]

    /// - Parameter objects: where dead letters and the cold archive are. The archive's manifests are read and compared with the
    ///   database's memory of them; `nil`: that memory counts, and no dead letter can be read.
    package init(
        database url: String, journals: [String] = [], gateway: String? = nil, log: (any EventLog)? = nil,
        objects: (any ObjectStore)? = nil, accountings: [GatewayAccounting] = [],
        accounting: @escaping @Sendable () async throws -> [GatewayAccounting] = { [] }
    ) {
        database = .unlimited(url: url, applicationName: "sluice-audit")
        self.journals = journals
        self.gateway = gateway
        self.log = log
        self.objects = objects
        self.accountings = accountings
        self.accounting = accounting
    }

    /// - Parameter patience: where the log cannot be read (it belongs to a running cloud), messages in it look lost: the
    ///   audit is repeated for so long, until nothing does.
    package func run(patience: Duration = .zero) async throws -> AuditReport {
        let deadline = ContinuousClock.now + patience
        let connection = try await PostgresConnection.connect(database)
        var report = try await attempt(connection)
        while !report.sound, !report.conclusive, ContinuousClock.now < deadline {
            try await Task.sleep(for: .milliseconds(500))
            report = try await attempt(connection)
        }
        await connection.close()
        return report
    }

    private static func isKnown(
        _ gateway: String, on connection: isolated PostgresConnection
    ) throws(PostgresError) -> Bool {
        try connection.query("SELECT EXISTS (SELECT FROM gateway WHERE name = $1)", [.text(gateway)]).bool(0, 0)
    }

    private func attempt(_ connection: PostgresConnection) async throws -> AuditReport {
        var tally = AuditTally()
        var reader = JournalAudit(paths: journals)
        try reader.read(into: &tally, acknowledgements: true)
        for accounting in try await accountings + accounting() where gateway == nil || accounting.gateway == gateway {
            if !tally.add(accounting) {
                tally.note(
                    "gateway \(accounting.gateway): its accounting names an epoch that is none, or contradicts itself")
            }
        }
        if let log { tally = try await LogAudit(gateway: gateway).read(log, into: tally, connection: connection) }
        let tables = try await TableAudit(gateway: gateway).read(into: tally, on: connection)
        tally = await DeadLetterAudit(gateway: gateway, store: objects).read(tables.deadLetters, into: tables.tally)
        // After the tables: a day that is dropped meanwhile is seen at both places.
        tally = try await ArchiveAudit(gateway: gateway, objects: objects, goneBefore: tables.archived)
            .read(into: tally, on: connection)
        if tally.isAheadOfAccounting {
            for accounting in try await accounting() { tally.add(again: accounting) }
        }
        try reader.read(into: &tally, acknowledgements: false)
        let report = tally.report()
        // An audit over nothing would prove nothing, and close.
        guard let gateway, report.acknowledged == 0, report.inLog == 0,
            try await !Self.isKnown(gateway, on: connection)
        else { return report }
        tally.note(
            "nothing is known of a gateway \(gateway): neither the database nor an accounting nor the log names it")
        return tally.report()
    }
}
