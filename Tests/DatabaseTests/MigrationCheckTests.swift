import Database
import Testing

@Suite struct MigrationCheckTests {
    @Test func theShippedMigrationsKeepTheRules() throws {
        let migrator = try Migrator(path: MigrationFile.directory(given: nil))
        for file in migrator.files {
            #expect(MigrationCheck.problems(of: file) == [])
            if MigrationCheck.contracts(file.up) { #expect(ProgramSchema.contractions.contains(file.name)) }
        }
        #expect(ProgramSchema.required.allSatisfy { name in migrator.files.contains { $0.name == name } })
    }

    private func problems(_ sql: String) -> [String] {
        MigrationCheck.problems(of: MigrationFile(version: 7, name: "x", up: sql, down: "SELECT 1"))
    }

    @Test(arguments: [
        ("DROP TABLE a", "drops a table"), ("ALTER TABLE a DROP COLUMN b", "drops a column"),
        ("ALTER TABLE a RENAME TO b", "renames"), ("alter table a rename column b to c", "renames"),
        ("ALTER TABLE a ALTER COLUMN b TYPE bigint", "rewrites a table"),
        ("ALTER TABLE a ALTER COLUMN b SET NOT NULL", "demands"),
        ("ALTER TABLE a ADD COLUMN b integer NOT NULL", "do not fill"), ("TRUNCATE a", "empties"),
        ("CREATE INDEX i ON event (topic)", "makes an index on event"), ("SELECT 1; COMMIT", "one transaction"),
        ("-- nothing", "no statement"), ("DELETE FROM a WHERE b = 'x'", "deletes rows"),
    ])
    func whatTakesAwayIsFound(sql: String, problem: String) {
        let found = problems(sql)
        #expect(found.count == 1 && found[0].contains(problem) && found[0].hasPrefix("0007_x"), "\(found)")
    }

    @Test(arguments: [
        "CREATE TABLE a (b int); CREATE INDEX i ON a (b)", "ALTER TABLE a ADD COLUMN b integer NOT NULL DEFAULT 1",
        "ALTER TABLE a ADD COLUMN b integer", "-- DROP TABLE a\nSELECT 'DROP TABLE a'",
        "CREATE FUNCTION f() RETURNS int LANGUAGE sql AS $body$ DROP TABLE a; $body$",
        "-- contracts: nobody reads a since the release before\nDROP TABLE a",
    ])
    func whatAddsIsAllowed(sql: String) { #expect(problems(sql) == []) }
}
