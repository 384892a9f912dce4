import CPostgres

/// Where the database is, and how long anything there may take.
package struct PostgresConfiguration: Sendable, CustomStringConvertible {
    /// A libpq connection string or URI; may hold a password, so it is never logged: use `description`.
    package var url: String
    package var applicationName: String
    /// Seconds for each host named in the URL.
    package var connectTimeout: Int = 5
    /// Milliseconds; 0: no limit.
    package var lockTimeout: Int = 5_000
    /// Milliseconds; 0: no limit.
    package var statementTimeout: Int = 10_000
    /// Milliseconds; 0: no limit.
    package var idleInTransactionTimeout: Int = 10_000
    /// Milliseconds that sent data may stay unacknowledged by the peer's kernel before the connection counts as dead.
    package var tcpUserTimeout: Int = 10_000
    /// Milliseconds beyond `statementTimeout` after which a server that has not answered counts as gone; without a statement
    /// timeout it is waited for without a bound.
    package var answerGrace: Int = 5_000

    package init(url: String, applicationName: String) {
        self.url = url
        self.applicationName = applicationName
    }

    /// For what a person has asked for and waits for: migrations, audits, restores. Never for a service: a server that hangs
    /// would keep it for ever.
    package static func unlimited(url: String, applicationName: String) -> PostgresConfiguration {
        var configuration = PostgresConfiguration(url: url, applicationName: applicationName)
        configuration.statementTimeout = 0
        configuration.idleInTransactionTimeout = 0
        return configuration
    }

    /// Host, port, database and user; no password.
    package var description: String {
        guard let options = PQconninfoParse(url, nil) else { return "a database URL that libpq cannot read" }
        defer { PQconninfoFree(options) }
        var parts: [String] = []
        var option = options
        while let keyword = option.pointee.keyword {
            if let value = option.pointee.val {
                let name = String(cString: keyword)
                if ["host", "hostaddr", "port", "dbname", "user"].contains(name) {
                    parts.append("\(name)=\(String(cString: value))")
                }
            }
            option += 1
        }
        return parts.joined(separator: " ")
    }

    /// Whether libpq can read the URL at all; the message does not repeat it, for it may hold a password.
    package func validate() throws(PostgresError) {
        guard let options = PQconninfoParse(url, nil) else {
            throw PostgresError(
                sqlState: "",
                message: "the database URL is not a connection string of libpq; "
                    + "write postgres://user@host:5432/database or host=… dbname=…")
        }
        PQconninfoFree(options)
    }
}
