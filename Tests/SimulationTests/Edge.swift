import MQTTSession
import SyncModel

@testable import Buffer

/// What one run of the daemon keeps in memory.
final class Edge {
    struct Group {
        var drafts: [FrameDraft]
        var changes: [DurableChange]
        var effects: [CommitEffect]
    }

    struct Request {
        var id: Int
        var content: UplinkState.Content
        var sentBytes: Int
        var pieces: [BatchSplit.Piece]
    }

    let epoch: Epoch
    let gatewayTime: GatewayTime
    var writer: Writer
    var broker: Broker
    var output = BrokerOutput()
    var pipeline: CommitPipeline
    /// With the writer; kept whole, so that a failed commit can be given again.
    var group: Group?
    var failedCommits = 0
    var uplink: UplinkState
    var cut: Cut?
    var request: Request?
    var wakesAt: Int64 = .max
    /// The next idle turn of the writer; an earlier one is void.
    var idleTurn = 0
    /// The last sequence whose message `Truth` has.
    var recorded: UInt64 = 0
    /// The last frame that was looked at for stand-ins.
    var lookedAt: Int64
    /// Of each device in this epoch, as committed.
    var numbers: [String: UInt64] = [:]
    var isDataAnnounced = false

    init(
        epoch: Epoch, writer: Writer, broker: Broker, pipeline: CommitPipeline, uplink: UplinkState
    ) {
        self.epoch = epoch
        self.writer = writer
        self.broker = broker
        self.pipeline = pipeline
        self.uplink = uplink
        gatewayTime = writer.store.clocks.time
        lookedAt = writer.store.last.frame
    }

    var store: BufferStore { writer.store }
}
