import MQTTWire
import NIOCore
import Sparkplug
import TestSupport
import Testing

@testable import MQTTSession

/// The broker hears Sparkplug's births and deaths in what it takes.
@Suite struct SparkplugTests {
    private func bytes(seq: UInt64? = nil, bdSeq: UInt64? = nil) -> ByteBuffer {
        ByteBuffer(
            bytes: SparkplugBytes.payload(seq: seq, bdSeq.map { [.init("bdSeq", datatype: 8, .long($0))] } ?? []))
    }

    @Test func aNodeIsOnlineFromItsBirthToItsWill() {
        let h = Harness()
        let will = Will(topic: "spBv1.0/G/NDEATH/E", payload: bytes(bdSeq: 1), qos: .atLeastOnce, retain: false)
        _ = h.open(0, "edge", will: will)
        h.receive(
            0, .publish(Publish(topic: ByteBuffer(string: "spBv1.0/G/NBIRTH/E"), payload: bytes(seq: 0, bdSeq: 1))))
        h.receive(0, .publish(Publish(topic: ByteBuffer(string: "spBv1.0/G/NDATA/E"), payload: bytes(seq: 3))))
        h.receive(0, .publish(Publish(topic: ByteBuffer(string: "up/other"), payload: bytes(seq: 9))))
        #expect(h.broker.sparkplug.nodesOnline == 1 && h.broker.sparkplug.counters.lost == 2)
        h.close(0)
        _ = h.settle()
        #expect(h.broker.sparkplug.nodesOnline == 0)
        #expect(h.broker.sparkplug.sights(maximum: 1).map(\.state) == [.offline])
    }

    @Test func whatIsRefusedIsNotHeard() {
        let h = Harness()
        _ = h.open(0, "edge")
        h.broker.storage = .full
        h.receive(
            0, .publish(Publish(topic: ByteBuffer(string: "spBv1.0/G/NBIRTH/E"), payload: bytes(seq: 0), retain: true)))
        #expect(h.broker.sparkplug.nodeCount == 0)
    }
}
