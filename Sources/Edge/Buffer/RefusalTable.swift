import MQTTSession

extension Schema {
    /// Refused messages by device and reason; the device without a name is all that were forgotten.
    static let refusals = """
        CREATE TABLE refusal (
            device TEXT NOT NULL, reason TEXT NOT NULL, count INTEGER NOT NULL,
            PRIMARY KEY (device, reason)) WITHOUT ROWID;
        """
}

/// The durable side of `RefusalTallies`. Reasons are stored by name, since their numbers are not kept from version to
/// version.
final class RefusalTable {
    private let connection: SQLiteConnection
    private let save: SQLiteStatement
    private let forget: SQLiteStatement

    init(_ connection: SQLiteConnection) throws(SQLiteError) {
        self.connection = connection
        save = try connection.prepare("INSERT OR REPLACE INTO refusal VALUES (?, ?, ?)")
        forget = try connection.prepare("DELETE FROM refusal WHERE device = ?")
    }

    func finalize() {
        save.finalize()
        forget.finalize()
    }

    func save(_ record: RefusalRecord) throws(SQLiteError) {
        for reason in RefusalReason.allCases where record.counts[reason] > 0 {
            save.bind(1, record.device)
            save.bind(2, "\(reason)")
            save.bind(3, Int64(clamping: record.counts[reason]))
            try save.run()
        }
    }

    func forget(_ device: String) throws(SQLiteError) {
        forget.bind(1, device)
        try forget.run()
    }

    /// Reasons that this version does not know stay in the file, and are not told.
    func restore() throws(SQLiteError) -> [RefusalRecord] {
        let names = Dictionary(uniqueKeysWithValues: RefusalReason.allCases.map { ("\($0)", $0) })
        var records: [RefusalRecord] = []
        let statement = try connection.prepare("SELECT device, reason, count FROM refusal ORDER BY device")
        defer { statement.finalize() }
        while try statement.step() {
            guard let reason = names[statement.text(1)] else { continue }
            let device = statement.text(0)
            if records.last?.device != device { records.append(RefusalRecord(device: device, counts: .init())) }
            records[records.count - 1].counts[reason] = UInt64(clamping: statement.integer(2))
        }
        return records
    }
}
