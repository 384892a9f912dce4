import NIOCore
import Testing

@testable import SyncModel

@Suite struct IdentityTests {
    @Test func anEpochComesBackFromItsDigits() {
        let epoch = Epoch(high: 0x00AB, low: 0xF)
        #expect(epoch.hex == "00000000000000ab000000000000000f")
        #expect(Epoch(hex: epoch.hex) == epoch)
        #expect(Epoch(hex: epoch.hex.uppercased()) == epoch)
        #expect(Epoch(hex: "") == nil)
        #expect(Epoch(hex: epoch.hex + "0") == nil)
        #expect(Epoch(hex: String(epoch.hex.dropLast()) + "g") == nil)
        #expect(Epoch(hex: String(epoch.hex.dropLast()) + "é") == nil)
    }

    @Test func epochsOfAGeneratorDifferAndAreOrdered() {
        var generator = SeededGenerator(seed: 1)
        let a = Epoch.random(using: &generator)
        let b = Epoch.random(using: &generator)
        #expect(a != b)
        #expect((a < b) != (b < a))
    }

    @Test func identifiersAreBounded() {
        #expect(Identifier.isValid("plant 7/ü"))
        #expect(Identifier.isValid(String(repeating: "x", count: 128)))
        for id in ["", String(repeating: "x", count: 129), "a\n", "\u{0}", "a\u{7F}"] {
            #expect(!Identifier.isValid(id))
        }
    }

    @Test func accountingSpeaksOfRuns() throws {
        let entry = GatewayAccounting.EpochEntry(
            epoch: sampleEpoch, lastSequence: 20, buffered: try IntervalSet(text: "{[3,6),[9,10)}"))
        #expect(entry.buffered == [[3, 5], [9, 9]])
        #expect(entry.epochValue == sampleEpoch)
        #expect(entry.bufferedRanges == [3...5, 9...9])
        for runs in [[[1]], [[0, 1]], [[2, 1]], [[1, 21]], [[1, 3], [3, 4]]] as [[[UInt64]]] {
            #expect(GatewayAccounting.EpochEntry(epoch: "x", lastSequence: 20, buffered: runs).bufferedRanges == nil)
        }
    }

    @Test func aDigestComesBackFromItsHeader() {
        let digest = (0..<32).map { UInt8($0 * 7) }
        let value = SyncProtocol.digestHeaderValue(digest)
        #expect(value.hasPrefix("sha-256=00070e"))
        #expect(SyncProtocol.digest(fromHeader: value) == digest)
        for bad in ["", "sha-256=", String(value.dropLast()), "md5=" + value.dropFirst(8), value.dropLast() + "g"] {
            #expect(SyncProtocol.digest(fromHeader: String(bad)) == nil)
        }
    }
}

@Suite struct TraceContextTests {
    private func message(_ properties: [UInt8] = [], sequence: UInt64 = 0x1F) -> SyncedMessage {
        SyncedMessage(
            sequence: sequence, number: 1, qos: 1, wallTime: 0, topic: bytes("t"), payload: bytes(""),
            properties: ByteBuffer(bytes: properties))
    }

    private func user(_ name: String, _ value: String) -> [UInt8] {
        [0x26, 0, UInt8(name.utf8.count)] + Array(name.utf8) + [0, UInt8(value.utf8.count)] + Array(value.utf8)
    }

    private let own = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"

    @Test func theTraceFollowsFromTheIdentity() {
        let epoch = Epoch(high: 0xFF00, low: 0x00FF)
        #expect(
            message().traceparent(epoch: epoch)
                == "00-000000000000ffff000000000000001f-000000000000001f-00")
        #expect(
            message().traceparent(epoch: Epoch(high: 5, low: 5))
                == "00-0000000000000001000000000000001f-000000000000001f-00")
    }

    @Test func thePublishersOwnIsKept() {
        let others: [UInt8] =
            [0x01, 1, 0x02, 0, 0, 0, 9, 0x03, 0, 1, 0x61, 0x0B, 0x80, 0x01, 0x23, 0, 1] + user("x", "y")
        #expect(message(others + user("traceparent", own)).traceparent(epoch: sampleEpoch) == own)
        let later = "cc" + own.dropFirst(2) + "-what-comes"
        #expect(message(user("traceparent", later)).traceparent(epoch: sampleEpoch) == own)
        let second = user("traceparent", "nonsense") + user("traceparent", own)
        #expect(message(second).traceparent(epoch: sampleEpoch) == own)
    }

    @Test func anInvalidOneIsNot() {
        let derived = message().traceparent(epoch: sampleEpoch)
        let invalid = [
            "", own.uppercased(), String(own.dropLast()), own + "0", "ff" + own.dropFirst(2), own + "-01",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "00_4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        ]
        for value in invalid {
            #expect(message(user("traceparent", value)).traceparent(epoch: sampleEpoch) == derived, "\(value)")
        }
        let malformed: [[UInt8]] = [
            [0x26], [0x26, 0, 9, 1], [0x26, 0, 1, 1, 0], [0x77], [0x0B, 0x80, 0x80, 0x80, 0x80, 1], [0x0B, 0x80],
            [0x02, 0],
            [0x08, 0, 5], [0x21, 0], [0x01],
        ]
        for properties in malformed {
            #expect(message(properties).traceparent(epoch: sampleEpoch) == derived)
            #expect(
                message(properties + user("traceparent", own)).traceparent(epoch: sampleEpoch).utf8.count == 55)
        }
    }
}
