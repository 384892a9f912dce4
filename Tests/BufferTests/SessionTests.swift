import MQTTSession
import MQTTWire
import NIOCore
import SyncModel
import Testing

@testable import Buffer

@Suite struct SessionTests {
    let scratch: Scratch

    init() throws { scratch = try Scratch() }

    private func record(_ id: SessionID, expiry: UInt32 = 60) -> SessionRecord {
        SessionRecord(
            id: id, key: SessionKey(deviceID: "d-\(id)", clientID: "ü\(id)"), version: .v5, expiryInterval: expiry)
    }

    private func message(_ topic: String, qos: QoS = .exactlyOnce) -> StoredPublish {
        StoredPublish(
            topic: ByteBuffer(string: topic), payload: ByteBuffer(bytes: [0, 255]),
            applicationProperties: ByteBuffer(bytes: [1, 2]), qos: qos, retain: true, expiresAt: 99,
            subscriptionIdentifiers: [7, 268_435_455])
    }

    /// Commits, closes, and tells what the next process finds.
    private func restored(after changes: [DurableChange], epoch: UInt64 = 1) async throws -> RestoredState {
        let buffer = try scratch.open(epoch: epoch)
        try await buffer.commit([], changes: changes)
        await buffer.close()
        let (again, state) = try Buffer.open(
            scratch.configuration(), epoch: Epoch(high: 1, low: epoch), logger: quiet)
        await again.close()
        return state
    }

    @Test func aWillComesBackUntilItIsRemoved() async throws {
        let will = Will(
            topic: "plant/ü", payload: ByteBuffer(bytes: [0, 255]), qos: .exactlyOnce, retain: true, delayInterval: 7,
            messageExpiry: .max, applicationProperties: ByteBuffer(bytes: [1, 1]))
        let plain = Will(topic: "p", payload: ByteBuffer())
        let state = try await restored(after: [
            .sessionSaved(record(1)), .willSaved(1, plain), .willSaved(1, will),
            .sessionSaved(record(2)), .willSaved(2, plain),
            .sessionSaved(record(3)), .willSaved(3, plain), .willRemoved(3),
            .sessionSaved(record(4)), .willSaved(4, plain), .sessionRemoved(4),
            // Of no session.
            .willSaved(9, plain),
        ])
        #expect(state.sessions.map(\.will) == [will, plain, nil])
    }

    @Test func everyKindOfChangeComesBack() async throws {
        let plain = Subscription(filter: "a/+", qos: .atLeastOnce)
        let special = Subscription(
            filter: "b/#", qos: .exactlyOnce, noLocal: true, retainAsPublished: true, retainHandling: .doNotSend)
        let state = try await restored(after: [
            .sessionSaved(record(5)), .sessionSaved(record(6, expiry: .max)),
            .sessionDisconnected(5, at: 1_234),
            .subscriptionSaved(5, special, identifier: 3), .subscriptionSaved(5, plain, identifier: nil),
            .queued(5, order: 2, message("x"), packetID: 0), .queued(5, order: 1, message("w"), packetID: 9),
            .queued(5, order: 3, message("y"), packetID: 0),
            .stageChanged(5, order: 2, .released, packetID: 10),
            .packetIDReceived(5, 65_535), .packetIDReceived(5, 1),
            .retained(message("r/1")), .retained(message("r/0", qos: .atMostOnce)),
        ])
        var first = RestoredSession(record: record(5), disconnectedAt: 1_234)
        first.subscriptions = [
            RestoredSubscription(subscription: plain, identifier: nil),
            RestoredSubscription(subscription: special, identifier: 3),
        ]
        first.queue = [
            QueuedRecord(order: 1, message: message("w"), stage: .sent, packetID: 9),
            QueuedRecord(order: 2, message: message("x"), stage: .released, packetID: 10),
            QueuedRecord(order: 3, message: message("y"), stage: .queued, packetID: 0),
        ]
        first.receivedPacketIDs = [1, 65_535]
        #expect(state.sessions == [first, RestoredSession(record: record(6, expiry: .max))])
        #expect(state.retained == [message("r/0", qos: .atMostOnce), message("r/1")])
    }

    @Test func removalsAndReplacementsAreDurable() async throws {
        let filter = Subscription(filter: "a", qos: .atMostOnce)
        let changed = Subscription(filter: "a", qos: .exactlyOnce)
        _ = try await restored(after: [
            .sessionSaved(record(1)), .sessionSaved(record(2)),
            .subscriptionSaved(1, filter, identifier: nil), .subscriptionSaved(2, filter, identifier: 1),
            .subscriptionSaved(2, Subscription(filter: "gone", qos: .atMostOnce), identifier: nil),
            .queued(1, order: 1, message("m"), packetID: 1), .queued(2, order: 1, message("m"), packetID: 1),
            .packetIDReceived(1, 1), .packetIDReceived(2, 1), .packetIDReceived(2, 2),
            .retained(message("kept")), .retained(message("gone")),
        ])
        let state = try await restored(
            after: [
                .sessionRemoved(1), .sessionDisconnected(2, at: 5), .sessionDisconnected(2, at: nil),
                .subscriptionSaved(2, changed, identifier: nil), .subscriptionRemoved(2, filter: "gone"),
                .dequeued(2, order: 1), .packetIDReleased(2, 1), .packetIDReceived(2, 2),
                .retainedRemoved(topic: ByteBuffer(string: "gone")), .retainedRemoved(topic: ByteBuffer(string: "no")),
            ], epoch: 2)
        var left = RestoredSession(record: record(2))
        left.subscriptions = [RestoredSubscription(subscription: changed, identifier: nil)]
        left.receivedPacketIDs = [2]
        #expect(state == RestoredState(sessions: [left], retained: [message("kept")]))
    }

    /// A session that was removed and saved again under its old number starts empty.
    @Test func whatBelongsToNoSessionIsRemoved() async throws {
        _ = try await restored(after: [
            .subscriptionSaved(8, Subscription(filter: "a", qos: .atMostOnce), identifier: nil),
            .queued(8, order: 1, message("m"), packetID: 1), .packetIDReceived(8, 1),
        ])
        let state = try await restored(after: [.sessionSaved(record(8))], epoch: 2)
        #expect(state.sessions == [RestoredSession(record: record(8))])
    }

    /// Changes and messages of one group are in one transaction.
    @Test func changesOfAFailedGroupAreNotApplied() async throws {
        let buffer = try scratch.open { $0.maximumPages = 60 }
        await #expect(throws: BufferError.full) {
            try await buffer.commit(drafts([0], payload: 400_000), changes: [.sessionSaved(record(1))])
        }
        await buffer.close()
        #expect(try await restored(after: [], epoch: 2).sessions.isEmpty)
    }
}
