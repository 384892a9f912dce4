import Operations
import SyncModel

/// From a damaged buffer to one that can be used: read all that is readable, write it into a new file, put that into the
/// place of the old one, which is kept. See `docs/decisions/0014-salvage.md`.
enum Salvage {
    static func run(
        _ configuration: Buffer.Configuration, cause: String, end: KnownEnd? = nil
    ) throws(BufferError) -> SalvageReport {
        let files = SalvageFiles(configuration)
        files.removeRebuild()
        // What is to be written is worth more; the next start takes it again.
        var reserve = Reserve(
            ofBuffer: configuration.path, bytes: configuration.reserveBytes, on: configuration.space)
        reserve.release()
        // Best effort: without the mark the next start finds the damage again.
        try? files.write(.suspect(cause, end))
        do throws(BufferError) {
            let report = try rebuild(configuration, cause: cause, end: end, files)
            try files.write(.rebuilt(report))
            try files.finish(report)
            return report
        } catch .full {
            files.removeRebuild()
            throw .unusable(
                "\(configuration.path) is damaged (\(cause)), and its disk has no room for what can be salvaged: free as "
                    + "much as the file takes, or move it with its -wal to another disk and name that in buffer.path; "
                    + "nothing was changed")
        }
    }

    private static func rebuild(
        _ configuration: Buffer.Configuration, cause: String, end: KnownEnd?, _ files: SalvageFiles
    ) throws(BufferError) -> SalvageReport {
        var report = SalvageReport(cause: cause, movedTo: files.damagedPath(now: configuration.clock.now().wallTime))
        var target = configuration
        target.path = files.rebuildPath
        try FileSystem.create(target.path)
        let connection = try Schema.open(target, for: .start)
        do throws(SQLiteError) {
            defer { connection.close() }
            var rebuild = try Rebuild(into: connection, report: report)
            let source = SalvageSource(image(configuration), columns: rebuild.columns)
            guard configuration.hasBeenUsed || !source.isEmpty else {
                files.removeRebuild()
                throw SQLiteError(code: noBuffer, message: cause, operation: "salvage")
            }
            if let gateway = source.gateway, gateway != configuration.gatewayID {
                files.removeRebuild()
                throw SQLiteError(code: otherGateway, message: gateway, operation: "salvage")
            }
            try rebuild.write(source, end: end)
            report = rebuild.report
        } catch {
            guard error.code != noBuffer else {
                throw .unusable(
                    "\(configuration.path) is no buffer (\(cause)): name a file of its own in buffer.path, or move this one away"
                )
            }
            guard error.code == otherGateway else { throw BufferError(error, path: target.path) }
            throw .unusable(
                "\(configuration.path) is damaged (\(cause)) and belongs to the gateway \(error.message), gateway.id says "
                    + "\(configuration.gatewayID); start under the old id until all is synced, or name another file in "
                    + "buffer.path")
        }
        try FileSystem.sync(target.path)
        try FileSystem.syncParent(of: target.path)
        return report
    }

    /// No code of SQLite's: its own are positive.
    private static let otherGateway: Int32 = -2
    private static let noBuffer: Int32 = -4

    private static func image(_ configuration: Buffer.Configuration) -> PageImage {
        let database: any ByteSource = FileBytes(path: configuration.path) ?? [UInt8]()
        let log = FileBytes(path: configuration.path + "-wal")
        return image(database: database, log: log, pageSize: configuration.pageSize)
    }

    /// - Parameter pageSize: when neither the file nor the log tells.
    static func image(database: any ByteSource, log: (any ByteSource)?, pageSize: Int) -> PageImage {
        let ownSize = PageSize.ofDatabase(database)
        let scan = log.flatMap { LogScan($0, pageSize: ownSize ?? pageSize) }
        // A log whose checksum is right is to be believed before a file that has none.
        let pageSize = scan.flatMap { $0.isHeaderValid ? $0.pageSize : nil } ?? ownSize ?? pageSize
        return PageImage(
            database: database, log: log.flatMap { log in scan.map { (log, $0) } }, pageSize: pageSize)
    }
}
