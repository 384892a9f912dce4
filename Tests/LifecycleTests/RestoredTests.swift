import Database
import EventLog
import Lifecycle
import Processor
import SyncModel
import TestSupport
import Testing

@Suite struct RestoredTests {
    /// Messages whose numbers name their devices: ids of devices differ before and after a restore.
    private func publish(_ warehouse: Warehouse, _ numbers: Range<Int64>) async {
        for number in numbers {
            await warehouse.log.publish(
                Double(number), at: march + number, device: "d\((number / 50 * 31 + number) % 17)")
        }
    }

    private func exactlyOnce(_ warehouse: Warehouse, _ count: Int64) async throws {
        #expect(
            try await warehouse.one(
                "SELECT concat_ws(' ', count(*), count(DISTINCT value), max(value)) AS l FROM measurement")
                == "\(count) \(count) \(count - 1)")
        let wrong = try await warehouse.one(
            """
            SELECT count(*) AS n FROM measurement m JOIN metric USING (device_id) JOIN device d ON d.id = m.device_id
            WHERE m.metric_id = metric.id AND d.name <> 'd' || ((div(value::numeric, 50) * 31 + value::numeric) % 17)::int
            """)
        #expect(wrong == "0", "rows of another device")
        #expect(
            try await warehouse.one(
                "SELECT count(*) AS n FROM measurement m JOIN metric ON metric.id = m.metric_id AND metric.device_id = m.device_id"
            )
                == "\(count)")
        let report = try await warehouse.audit()
        #expect(report.sound && report.stored == UInt64(count), "\(report.problems)")
    }

    private func worker(_ warehouse: Warehouse, _ status: ProcessorStatus) -> Task<Void, Never> {
        var configuration = ProcessorConfiguration(database: warehouse.url, member: "zombie")
        configuration.pollTimeout = .milliseconds(5)
        configuration.backoffBase = .milliseconds(20)
        configuration.backoffCap = .milliseconds(100)
        configuration.reclaimDelay = .seconds(3)
        let processor = Processor(configuration: configuration, log: warehouse.log, status: status, logger: silent)
        return Task { await processor.run() }
    }

    /// The backup is taken early; processors come and go, so that the database's epochs are higher than the backup's. One
    /// of them is still at work when the database comes back as it was.
    @Test func aRestoredDatabaseRefusesZombiesAndFillsItself() async throws {
        let cluster = try PostgresCluster.make()
        try cluster.start()
        defer { cluster.stop() }
        let warehouse = try await Warehouse(url: try cluster.makeDatabase())
        await publish(warehouse, 0..<100)
        try await warehouse.drain()
        try cluster.backUp("backup")
        await publish(warehouse, 100..<200)
        for _ in 0..<3 { try await warehouse.drain() }
        let status = ProcessorStatus()
        let zombie = worker(warehouse, status)
        await publish(warehouse, 200..<300)
        #expect(try await wait { status.state.offsets[0] == 300 })

        try cluster.restore("backup", asNewTimeline: true)
        await publish(warehouse, 300..<400)
        // Nobody stores anything in it before an operator has said that it is meant.
        #expect(try await wait { !status.state.isDatabaseReachable })
        try await Task.sleep(for: .milliseconds(500))
        let restored = try await warehouse.reconnected()
        #expect(try await restored.one("SELECT count(*) AS n FROM measurement") == "100")
        let refusal = await #expect(throws: PostgresError.self) {
            try await ProgramSchema.admit(on: restored.connection)
        }
        #expect(refusal?.message.contains("sluice database restored") == true, "\(refusal as Any)")

        let raised = try await DatabaseIdentity.accept(on: restored.connection)
        #expect(raised.partitions.map(\.nextOffset) == [100])
        let epoch = raised.partitions[0].epoch
        #expect(epoch > DatabaseIdentity.raise)
        try await ProgramSchema.admit(on: restored.connection)
        // The zombie is let in, and its write is refused: another one is first.
        #expect(try await wait { status.state.isDatabaseReachable && status.state.offsets[0] == nil })
        #expect(try await restored.one("SELECT count(*) AS n FROM measurement") == "100")
        #expect(try await restored.one("SELECT epoch AS e FROM ingest_offset") == "\(epoch)")
        try await restored.drain()
        try await exactlyOnce(restored, 400)
        // Then it takes the partition back, and knows nothing of the devices' ids of before.
        await publish(warehouse, 400..<500)
        #expect(try await wait { status.state.offsets[0] == 500 })
        zombie.cancel()
        await zombie.value
        try await exactlyOnce(restored, 500)
    }

    /// A copy of the disk comes back under the same name: nothing in it tells, but the command helps as well.
    @Test func aCopyOfTheDiskIsPutRightByTheCommand() async throws {
        let cluster = try PostgresCluster.make()
        try cluster.start()
        defer { cluster.stop() }
        let warehouse = try await Warehouse(url: try cluster.makeDatabase())
        await publish(warehouse, 0..<100)
        try await warehouse.drain()
        try cluster.backUp("backup")
        await publish(warehouse, 100..<200)
        try await warehouse.drain()
        try cluster.restore("backup", asNewTimeline: false)
        let restored = try await warehouse.reconnected()
        try await ProgramSchema.admit(on: restored.connection)
        _ = try await DatabaseIdentity.accept(on: restored.connection)
        try await restored.drain()
        try await exactlyOnce(restored, 200)
    }

    @Test func aCopyInAnotherServerIsKnown() async throws {
        let warehouse = try await Warehouse()
        try await ProgramSchema.admit(on: warehouse.connection)
        try await warehouse.connection.run("UPDATE database_identity SET system_identifier = system_identifier - 1")
        let error = await #expect(throws: PostgresError.self) {
            try await ProgramSchema.admit(on: warehouse.connection)
        }
        #expect(error?.message.contains("not the one that it was") == true)
        _ = try await DatabaseIdentity.accept(on: warehouse.connection)
        try await ProgramSchema.admit(on: warehouse.connection)
    }
}
