import NIOCore
import SyncModel

extension Schema {
    /// Last numbers of devices in the running epoch, as far as they are not remembered; a row of a device that is remembered
    /// may be old. Emptied with each epoch.
    static let deviceNumbers = """
        CREATE TABLE device_number (
            device TEXT PRIMARY KEY, last INTEGER NOT NULL, checksum INTEGER NOT NULL) WITHOUT ROWID;
        """
}

/// Dense numbers of the devices in the running epoch.
extension BufferStore {
    /// Brings back what was written down of the drafts' devices; before `giveNumbers`.
    func recallNumbers(of drafts: [FrameDraft]) throws(SQLiteError) {
        for draft in drafts {
            for device in draft.devices where numbers.isForgotten(device.id) {
                if let last = try writtenNumber(of: device.id) { numbers.recall(device.id, last: last) }
            }
        }
    }

    func giveNumbers(to draft: FrameDraft) -> [UInt64] { draft.devices.map { numbers.give($0) } }

    func takeBackNumbers(of draft: FrameDraft) {
        for device in draft.devices { numbers.takeBack(device) }
    }

    private func writtenNumber(of device: String) throws(SQLiteError) -> UInt64? {
        let statement = statements.readNumber
        statement.bind(1, device)
        defer { statement.reset() }
        guard try statement.step() else { return nil }
        let last = statement.integer(0)
        // A wrong number would be given twice, and the cloud would take the second message for the first.
        guard last > 0, statement.integer(1) == Self.checksum(device, last) else {
            throw inconsistency("the last number of the device \(device) has another checksum")
        }
        return UInt64(last)
    }

    /// Bounds what is remembered. Not while a group is in doubt: its devices are to get the same numbers again.
    func writeNumbersDown() {
        guard failure == nil, doubtful == 0, monotonicTime >= nextMaintenance else { return }
        let surplus = numbers.surplus
        guard !surplus.isEmpty else { return }
        let result = attempt(mayUseReserve: false) { () throws(SQLiteError) in
            try transaction { () throws(SQLiteError) in
                let statement = statements.saveNumber
                for (device, last) in surplus {
                    statement.bind(1, device)
                    statement.bind(2, Int64(last))
                    statement.bind(3, Self.checksum(device, Int64(last)))
                    try statement.run()
                }
            }
        }
        // Where there is no room they stay.
        if case .success = result { numbers.letGo(surplus) } else { pause() }
    }

    private static func checksum(_ device: String, _ last: Int64) -> Int64 {
        FrameChecksum.of(id: last, totalMessages: 0, header: ByteBuffer(string: device), records: ByteBuffer())
    }
}
