import Operations

/// Asks a database whether it answers, over a connection of its own that stays open.
///
/// It may hang for as long as the server does: who asks bounds the time (`HealthRegistry`).
package actor DatabaseProbe {
    private let configuration: PostgresConfiguration
    private var connection: PostgresConnection?

    package init(url: String) {
        configuration = PostgresConfiguration(url: url, applicationName: "sluice-cloud health")
    }

    package func check() async -> HealthState {
        do throws(PostgresError) {
            try await connected().run("SELECT 1")
            return .good
        } catch {
            connection = nil
            return .failed("\(error)")
        }
    }

    private func connected() async throws(PostgresError) -> PostgresConnection {
        if let connection, await connection.isUsable { return connection }
        let made = try await PostgresConnection.connect(configuration)
        connection = made
        return made
    }
}
