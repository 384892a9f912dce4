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

extension GatewayAccounting.EpochEntry {
    /// - Parameter buffered: sequences that are still in the buffer, ascending.
    package init(epoch: Epoch, lastSequence: UInt64, buffered: IntervalSet) {
        self.init(
            epoch: epoch.hex, lastSequence: lastSequence,
            buffered: buffered.ranges.map { [$0.lowerBound, $0.upperBound] })
    }

    /// `nil` when `epoch` is not 32 hexadecimal digits.
    package var epochValue: Epoch? { Epoch(hex: epoch) }

    /// `nil` when the runs are not pairs that ascend within `lastSequence`.
    package var bufferedRanges: [ClosedRange<UInt64>]? {
        var ranges: [ClosedRange<UInt64>] = []
        for run in buffered {
            guard run.count == 2, run[0] >= 1, run[0] <= run[1], run[1] <= lastSequence,
                ranges.last.map({ $0.upperBound < run[0] }) ?? true
            else { return nil }
            ranges.append(run[0]...run[1])
        }
        return ranges
    }
}
