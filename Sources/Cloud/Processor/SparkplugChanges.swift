import Sparkplug

/// A node or device as one gateway knows it. Two gateways may have nodes of the same name: they never share births.
struct SparkplugKey: Hashable, Sendable {
    var gateway: ExactName
    var entity: SparkplugEntity
}

/// A birth with what it says.
struct SparkplugTold: Sendable {
    var key: SparkplugKey
    var birth: SparkplugBirth
    var definition: SparkplugDefinition

    init(key: SparkplugKey, position: GatewayPosition, definition: SparkplugDefinition) {
        self.key = key
        birth = SparkplugBirth(position: position, definition: definition)
        self.definition = definition
    }
}

/// What a batch stores of Sparkplug's births, in the transaction of its rows.
struct SparkplugChanges: Sendable {
    var births: [SparkplugTold] = []
    /// Those that their bounds leave no room for any more.
    var removed: [(key: SparkplugKey, position: GatewayPosition)] = []
    /// How many of these were more than repeats.
    var forgotten = 0
    /// Nodes and devices that were heard of, where the database's word of it is old.
    var used: [SparkplugKey] = []
    /// When the log took the newest record; microseconds since 1970.
    var time: Int64 = .min
    /// Whose births came after data that they would have named otherwise; one for each such birth.
    var late: [SparkplugKey] = []
    /// Messages whose births are known but were not read, because the batch needs more than fits.
    var unresolved = 0

    var isEmpty: Bool { births.isEmpty && used.isEmpty }
}
