import Testing

extension EndToEnd {
    /// What an operator does with the cloud's database.
    @Suite(.serialized) struct DatabaseToolTests {
        private func failing(_ arguments: [String]) async throws -> String {
            let result = try await run(Binaries.path("sluice"), arguments)
            #expect(result.status != 0, "\(arguments)")
            return result.output
        }

        @Test func flagsChecksAndRestores() async throws {
            let database = try await Postgres.database()
            let tool = { (arguments: String...) in
                try await Binaries.sluice(arguments + ["--database", database])
            }
            #expect(try await failing(["migrate", "check", "--database", database]).contains("too old"))
            #expect(try await failing(["database", "restored", "--database", database]).contains("sluice migrate up"))
            _ = try await tool("migrate", "up")
            #expect(try await tool("migrate", "check").contains("nothing is wrong"))
            #expect(try await tool("database", "flags").contains("rollups  on"))
            #expect(try await tool("database", "flags", "set", "rollups", "off").contains("rollups  off"))
            #expect(try await tool("database", "flags", "list", "--json").contains("\"rollups\" : false"))
            #expect(
                try await failing(["database", "flags", "set", "nonsense", "on", "--database", database])
                    .contains("there is no flag nonsense"))
            #expect(try await tool("database", "restored").contains("0 partitions"))
            #expect(try await tool("database", "restored", "--json").contains("\"partitions\""))
        }
    }
}
