import Database
import NIOCore
import TestSupport
import Testing

/// A connection to a fresh, empty database.
func freshConnection() async throws -> PostgresConnection {
    let url = try PostgresCluster.shared().makeDatabase()
    return try await PostgresConnection.connect(.init(url: url, applicationName: "tests"))
}

extension PostgresConnection {
    /// Runs `body` on the connection's queue.
    func perform<Value: Sendable>(
        _ body: @Sendable (isolated PostgresConnection) throws -> Value
    ) throws -> Value { try body(self) }

    func scalar(_ sql: String, _ parameters: [PostgresValue] = []) throws(PostgresError) -> String {
        try query(sql, parameters).string(0, 0)
    }
}

@Suite struct PostgresConnectionTests {
    @Test func parametersKeepTheirValues() async throws {
        let connection = try await freshConnection()
        let text = try await connection.scalar(
            """
            SELECT concat_ws('|', $1::int8, $2::int4, $3::text, $4::float8, $5::bool, encode($6::bytea, 'hex'),
                             $7::int8[]::text, $8::text[]::text, $9::int4[]::text, $10::bytea[]::text, $11::text IS NULL)
            """,
            [
                .int8(.min), .int4(-7), .text("ä'\\"), .float8(1.5), .bool(true), .bytes(ByteBuffer(bytes: [0, 255])),
                .int8Array([1, .max]), .textArray(["a,b", "", "\""]), .int4Array([]),
                .byteaArray([ByteBuffer(bytes: [1])]), .null,
            ])
        #expect(
            text
                == #"-9223372036854775808|-7|ä'\|1.5|t|00ff|{1,9223372036854775807}|{"a,b","","\""}|{}|{"\\x01"}|t"#)
    }

    @Test func binaryAndTextResultsAgree() async throws {
        let connection = try await freshConnection()
        try await connection.perform { connection in
            for binary in [false, true] {
                let row = try connection.query(
                    "SELECT (-3)::int2, 4::int4, 5::int8, 2.5::float8, false, NULL::int8, NULL::float8",
                    binary: binary)
                #expect((0..<3).map { row.integer(0, $0) } == [-3, 4, 5])
                #expect(row.double(0, 3) == 2.5)
                #expect(row.bool(0, 4) == false)
                #expect(row.isNull(0, 5) && row.double(0, 6) == nil)
            }
        }
    }

    @Test func copyStoresTheSlicesItIsGiven() async throws {
        let connection = try await freshConnection()
        var copy = BinaryCopy()
        var starts: [Int] = []
        for index in 0..<100_000 {
            starts.append(copy.byteCount)
            copy.startRow(columns: 4)
            copy.int4(Int32(index))
            copy.text("row \(index)")
            copy.timestamp(1_700_000_000_000_000 + Int64(index))
            if index.isMultiple(of: 2) { copy.jsonb(UnsafeRawBufferPointer(start: nil, count: 0)) } else { copy.null() }
            if index.isMultiple(of: 2) {
                copy.truncate(to: starts[index], rows: 1)
                copy.startRow(columns: 4)
                copy.int4(Int32(index))
                copy.text("row \(index)")
                copy.timestamp(1_700_000_000_000_000 + Int64(index))
                "{\"n\":1}".utf8.withContiguousStorageIfAvailable { copy.jsonb(UnsafeRawBufferPointer($0)) }
            }
        }
        let rows = copy.buffer
        let slices = [starts[0]..<starts[10], starts[20]..<starts[99_999]]
        try await connection.run("CREATE TABLE t (i int, s text, at timestamptz, j jsonb)")
        let stored = try await connection.copyIn("COPY t FROM STDIN (FORMAT binary)", rows: rows, slices: slices)
        #expect(stored == 10 + 99_979)
        let summary = try await connection.scalar(
            "SELECT concat_ws(' ', count(*), min(i), max(i), max(at) AT TIME ZONE 'UTC', count(j), count(*) FILTER (WHERE s = 'row ' || i)) FROM t"
        )
        #expect(summary == "99989 0 99998 2023-11-14 22:13:20.099998 49995 99989")
    }

    @Test func aFailedCopyIsPoisonAndLeavesTheConnectionUsable() async throws {
        let connection = try await freshConnection()
        try await connection.run("CREATE TABLE t (i int CHECK (i < 5))")
        var copy = BinaryCopy()
        for value: Int32 in [1, 9] {
            copy.startRow(columns: 1)
            copy.int4(value)
        }
        let rows = copy.buffer
        let error = await #expect(throws: PostgresError.self) {
            try await connection.copyIn("COPY t FROM STDIN (FORMAT binary)", rows: rows)
        }
        #expect(error?.sqlState == "23514" && error?.isPoison == true)
        #expect(error?.detail == "", "a row's values do not belong into logs")
        #expect(try await connection.scalar("SELECT count(*) FROM t") == "0")
        await #expect(throws: PostgresError.self) {
            try await connection.copyIn("SELECT 1", rows: rows)
        }
        #expect(await connection.isUsable)
    }

    @Test func streamingStopsAtAnErrorOfTheReceiver() async throws {
        let connection = try await freshConnection()
        let sum = try await connection.perform { connection in
            var sum: Int64 = 0
            try connection.stream("SELECT g FROM generate_series(1::int8, $1) g", [.int8(10_000)]) {
                (row) throws(PostgresError) in sum += row.integer(0, 0)
            }
            #expect(throws: PostgresError.self) {
                try connection.stream("SELECT g FROM generate_series(1, 10) g") { (_) throws(PostgresError) in
                    throw PostgresError(sqlState: "", message: "enough")
                }
            }
            #expect(throws: PostgresError.self) {
                try connection.stream("SELECT 1 / (3 - g) FROM generate_series(1, 10) g") { (_) throws(PostgresError) in
                }
            }
            return sum
        }
        #expect(sum == 50_005_000)
        #expect(try await connection.scalar("SELECT 1") == "1")
    }

    @Test func errorsHaveTheirCategory() async throws {
        let connection = try await freshConnection()
        for (sql, category) in [
            ("SELECT 1/0", PostgresError.Category.poison), ("SELECT 'x'::int", .poison),
            (#"SELECT '"\u0000"'::jsonb"#, .poison), ("SELECT * FROM missing", .setup),
            ("SET statement_timeout = 20; SELECT pg_sleep(5)", .connectionProblem),
        ] {
            let error = await #expect(throws: PostgresError.self) { try await connection.run(sql) }
            #expect(error?.category == category, "\(sql)")
            #expect(await connection.isUsable)
        }
        #expect(PostgresError(sqlState: "40001", message: "").category == .contention)
        #expect(PostgresError(sqlState: "55P03", message: "").category == .contention)
        #expect(PostgresError(sqlState: "XX000", message: "").category == .other)
    }

    @Test func aKilledConnectionIsAConnectionProblem() async throws {
        let url = try PostgresCluster.shared().makeDatabase()
        let victim = try await PostgresConnection.connect(.init(url: url, applicationName: "victim"))
        let killer = try await PostgresConnection.connect(.init(url: url, applicationName: "killer"))
        let pid = await victim.backendPID
        _ = try await killer.scalar("SELECT pg_terminate_backend($1)", [.int4(pid)])
        let error = await #expect(throws: PostgresError.self) {
            try await victim.perform { connection in
                try connection.transaction { () throws(PostgresError) in _ = try connection.query("SELECT 1") }
            }
        }
        #expect(error?.isConnectionProblem == true)
        #expect(await victim.isUsable == false)
        #expect(
            await #expect(throws: PostgresError.self) { try await victim.run("SELECT 1") }?.isConnectionProblem == true)
    }

    @Test func noServerAndNoURLAreClearErrorsWithoutThePassword() async throws {
        let nobody = PostgresConfiguration(
            url: "postgres://user:hunter2@127.0.0.1:1/database", applicationName: "tests")
        let refused = await #expect(throws: PostgresError.self) { try await PostgresConnection.connect(nobody) }
        #expect(refused?.isConnectionProblem == true)
        #expect(refused?.description.contains("hunter2") == false)
        #expect(
            nobody.description == "user=user host=127.0.0.1 port=1 dbname=database"
                || !nobody.description.contains("hunter2"))
        #expect(nobody.description.contains("port=1"))
        let nonsense = PostgresConfiguration(url: "postgres://u:hunter2@[::", applicationName: "tests")
        let malformed = await #expect(throws: PostgresError.self) { try await PostgresConnection.connect(nonsense) }
        #expect(malformed?.description.contains("hunter2") == false)
        #expect(!nonsense.description.contains("hunter2"))
    }

    @Test func linesOfTextGoOutInChunksAndComeBack() async throws {
        let connection = try await freshConnection()
        try await connection.run("CREATE TABLE t (i int, s text)")
        try await connection.startCopyOut("COPY (SELECT i, E'a\\tb' FROM generate_series(1, 100) i) TO STDOUT")
        var (lines, chunks) = (ByteBuffer(), 0)
        while true {
            var chunk = try await connection.readCopyOut(maximumBytes: 50)
            #expect(chunk.rows.readableBytes < 50 + 12)
            lines.writeBuffer(&chunk.rows)
            chunks += 1
            if chunk.isLast { break }
        }
        #expect(chunks > 10)
        #expect(try await connection.copyIn("COPY t FROM STDIN", rows: lines, isText: true) == 100)
        #expect(try await connection.scalar("SELECT count(*) || min(s) FROM t WHERE i BETWEEN 1 AND 100") == "100a\tb")
        await #expect(throws: PostgresError.self) { try await connection.startCopyOut("SELECT 1") }
        try await connection.startCopyOut("COPY (SELECT 1 / (3 - i) FROM generate_series(1, 5) i) TO STDOUT")
        let error = await #expect(throws: PostgresError.self) {
            _ = try await connection.readCopyOut(maximumBytes: 1_000)
        }
        #expect(error?.sqlState == "22012")
        #expect(try await connection.scalar("SELECT 1") == "1")
    }
}
