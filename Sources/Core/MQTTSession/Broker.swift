import MQTTWire
import NIOCore
import SyncModel

package struct Broker: Sendable {
    package private(set) var configuration: BrokerConfiguration
    package private(set) var counters = BrokerCounters()
    package var storage = StorageState.open
    package init(configuration: BrokerConfiguration, restoring state: RestoredState, now: BrokerTime) {
        self.configuration = configuration
    }

    package mutating func connect(
        _ packet: Connect, on connection: ConnectionID, identity: ClientIdentity, assignedClientID: String,
        now: BrokerTime, into output: inout BrokerOutput
    ) {}
    package mutating func receive(
        _ packet: Packet, on connection: ConnectionID, now: BrokerTime, into output: inout BrokerOutput
    ) {}
    package mutating func publish(
        _ packet: Publish, on connection: ConnectionID, now: BrokerTime, into output: inout BrokerOutput
    ) {}
    package mutating func refuse(
        _ connection: ConnectionID, reason: CloseReason, now: BrokerTime, into output: inout BrokerOutput
    ) {}
    package mutating func connectionClosed(
        _ connection: ConnectionID, reason: CloseReason, now: BrokerTime, into output: inout BrokerOutput
    ) {}
    /// The socket's buffer is full, or has room again. While it is full, QoS 0 to this client is dropped and the rest waits.
    package mutating func writabilityChanged(
        _ connection: ConnectionID, isWritable: Bool, now: BrokerTime, into output: inout BrokerOutput
    ) {}
    package mutating func committed(
        _ effects: [CommitEffect], now: BrokerTime, into output: inout BrokerOutput
    ) {}
    package mutating func tick(now: BrokerTime, into output: inout BrokerOutput) {}
    package var nextDeadline: Int64? { nil }
    package mutating func shutdown(now: BrokerTime, into output: inout BrokerOutput) {}
    package mutating func reconfigure(_ configuration: BrokerConfiguration, now: BrokerTime) {
        self.configuration = configuration
    }
    package var connections: [ConnectionSnapshot] { [] }
    package var sessions: [SessionSnapshot] { [] }
}
