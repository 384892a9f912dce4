/// What PostgreSQL or the way to it answered. Statements' parameters are never part of it.
package struct PostgresError: Error, Sendable, Equatable, CustomStringConvertible {
    /// What the caller can do about it, derived from the SQLSTATE.
    package enum Category: Sendable, Equatable {
        /// The connection is gone or the server has no resources: reconnect, wait, repeat (08, 53, 57, 25P03, 58).
        case connectionProblem
        /// This row can never be stored (22, 23, 54; 09, 21, 27, 38, 39, 44 and P0 are a trigger's or a rule's refusals):
        /// repeating is useless.
        case poison
        /// Another transaction was in the way: repeat (40, 55).
        case contention
        /// Tables or rights are missing (28, 3D, 42): an operator has to act.
        case setup
        case other
    }

    /// Five characters of ISO 9075's SQLSTATE; empty where the error did not come from the server.
    package let sqlState: String
    package let message: String
    package let detail: String
    /// The table that an error is about, and the constraint that refused, where the server names them.
    package let table: String
    package let constraint: String
    /// The connection cannot be used any more.
    package let connectionLost: Bool

    package init(
        sqlState: String, message: String, detail: String = "", table: String = "", constraint: String = "",
        connectionLost: Bool = false
    ) {
        self.sqlState = sqlState
        // libpq's own texts have line feeds and tabs in them.
        self.message = message.split(whereSeparator: \.isWhitespace).joined(separator: " ")
        self.detail = detail
        self.table = table
        self.constraint = constraint
        self.connectionLost = connectionLost
    }

    package var category: Category {
        if connectionLost || sqlState == "25P03" { return .connectionProblem }
        if isWithoutPartition { return .contention }
        switch sqlState.prefix(2) {
        case "08", "53", "57", "58": return .connectionProblem
        case "22", "23", "54", "09", "21", "27", "38", "39", "44", "P0": return .poison
        case "40", "55": return .contention
        case "28", "3D", "3F", "42": return .setup
        default: return .other
        }
    }

    package var isConnectionProblem: Bool { category == .connectionProblem }
    package var isPoison: Bool { category == .poison }
    /// There is no partition for the row (check_violation of a table, and of no named constraint): nothing is wrong with the row itself. The
    /// partition was dropped, or is being dropped, and can be made again.
    package var isWithoutPartition: Bool { sqlState == "23514" && constraint.isEmpty && !table.isEmpty }
    /// The statement took longer than it may (query_canceled).
    package var isTimeout: Bool { sqlState == "57014" }

    package var description: String {
        var text = "PostgreSQL"
        if !sqlState.isEmpty { text += " \(sqlState)" }
        text += ": \(message)"
        if !detail.isEmpty { text += " (\(detail))" }
        return text
    }
}
