/// What a gateway knows of its own messages; JSON on the local socket and in `sluice audit`.
package struct GatewayAccounting: Codable, Sendable, Equatable {
    package struct EpochEntry: Codable, Sendable, Equatable {
        /// 32 hexadecimal digits.
        package var epoch: String
        /// Sequences 1 to this one were committed; 0: none.
        package var lastSequence: UInt64
        /// First and last sequence of each run that is still in the buffer, ascending.
        package var buffered: [[UInt64]]

        package init(epoch: String, lastSequence: UInt64, buffered: [[UInt64]]) {
            self.epoch = epoch
            self.lastSequence = lastSequence
            self.buffered = buffered
        }
    }

    package var gateway: String
    package var epochs: [EpochEntry]
    /// Messages in the buffer.
    package var bufferedMessages: UInt64
    package var bufferedBytes: UInt64

    package init(gateway: String, epochs: [EpochEntry], bufferedMessages: UInt64, bufferedBytes: UInt64) {
        self.gateway = gateway
        self.epochs = epochs
        self.bufferedMessages = bufferedMessages
        self.bufferedBytes = bufferedBytes
    }
}
