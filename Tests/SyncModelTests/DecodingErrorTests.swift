import NIOCore
import Testing

@testable import SyncModel

/// Bytes by hand, so that what an encoder of ours would never write can be written.
private struct Wire {
    var buffer = ByteBuffer()

    func field(_ number: UInt8, _ value: UInt64) -> Wire {
        var next = self
        next.buffer.writeField(number, varint: value)
        return next
    }

    func bytes(_ number: UInt8, _ value: [UInt8]) -> Wire {
        var next = self
        next.buffer.writeField(number, bytes: ByteBuffer(bytes: value))
        return next
    }

    func text(_ number: UInt8, _ value: String) -> Wire { bytes(number, Array(value.utf8)) }

    func message(_ number: UInt8, _ value: Wire) -> Wire { bytes(number, Array(value.buffer.readableBytesView)) }

    func raw(_ value: [UInt8]) -> Wire {
        var next = self
        next.buffer.writeBytes(value)
        return next
    }
}

private let sixteen = [UInt8](repeating: 7, count: 16)
private let largest = SyncLimits.numbers.upperBound

private func header(sequence: UInt64 = 1) -> Wire {
    Wire().bytes(1, sixteen).field(2, sequence).field(3, 2).field(4, 2).bytes(5, sixteen).field(6, 1)
}

private func device(_ id: String = "d", number: UInt64 = 1) -> Wire { Wire().text(1, id).field(2, number) }

private func record(device: UInt64 = 0) -> Wire {
    (device == 0 ? Wire() : Wire().field(1, device)).text(4, "t").text(5, "p")
}

private func frame(sequence: UInt64 = 1, number: UInt64 = 1, records: Int = 1) -> Wire {
    var wire = header(sequence: sequence).message(7, device(number: number))
    for _ in 0..<records { wire = wire.message(8, record()) }
    return wire
}

private func batch() -> Wire { Wire().field(1, 1).text(2, "g") }

private func line(
    device: String = "d", _ sequences: (UInt64, UInt64) = (1, 2), _ numbers: (UInt64, UInt64) = (1, 2),
    reason: UInt64 = 1
) -> Wire {
    Wire().bytes(1, sixteen).text(2, device).field(3, sequences.0).field(4, sequences.1).field(5, numbers.0)
        .field(6, numbers.1).field(7, reason)
}

private struct Refusal: Sendable, CustomTestStringConvertible {
    var name: String
    var wire: Wire
    var path: String
    var reason: SyncDecodingError.Reason
    var testDescription: String { name }

    init(_ name: String, _ wire: Wire, _ path: String, _ reason: SyncDecodingError.Reason) {
        self.name = name
        self.wire = wire
        self.path = path
        self.reason = reason
    }
}

private let numbers = SyncLimits.numbers

private let batchRefusals: [Refusal] = [
    Refusal("nothing", Wire(), "version", .unknownValue(0)),
    Refusal("a later version", Wire().field(1, 2).text(2, "g"), "version", .unknownValue(2)),
    Refusal("no gateway", Wire().field(1, 1), "gateway", .missing),
    Refusal("an empty gateway", Wire().field(1, 1).text(2, ""), "gateway", .invalidText),
    Refusal("a long gateway", Wire().field(1, 1).text(2, String(repeating: "g", count: 129)), "gateway", .invalidText),
    Refusal("a control character", Wire().field(1, 1).text(2, "a\u{7}"), "gateway", .invalidText),
    Refusal("no UTF-8", Wire().field(1, 1).bytes(2, [0xC3, 0x28]), "gateway", .notUTF8),
    Refusal("an unknown lane", batch().field(3, 2), "lane", .unknownValue(2)),
    Refusal("fields in the wrong order", Wire().field(1, 1).field(3, 1).text(2, "g"), "gateway", .missing),
    Refusal("a field twice", batch().field(3, 1).field(3, 1), "", .unexpectedField(tag: 0x18)),
    Refusal("an unknown field", batch().field(9, 1), "", .unexpectedField(tag: 0x48)),
    Refusal("another wire type", Wire().field(1, 1).field(2, 5), "gateway", .missing),
    Refusal("an overlong varint", Wire().raw([0x08, 0x81, 0x00]), "version", .malformedVarint),
    Refusal(
        "a varint over 64 bits", batch().raw([0x18] + [UInt8](repeating: 0xFF, count: 9) + [0x02]), "lane",
        .malformedVarint),
    Refusal("a varint that ends early", batch().raw([0x18, 0x80]), "lane", .truncated),
    Refusal("a length past the end", batch().raw([0x32, 0x05, 0x00]), "frames[0]", .truncated),
    Refusal(
        "a length near 2⁶⁴", batch().raw([0x32] + [UInt8](repeating: 0xFF, count: 9) + [0x01]), "frames[0]", .truncated),
    Refusal("an account without epoch", batch().message(4, Wire().field(2, 1)), "accounts[0].epoch", .missing),
    Refusal(
        "an account beyond bigint", batch().message(4, Wire().bytes(1, sixteen).field(2, largest + 1)),
        "accounts[0].lastSequence", .outOfRange(largest + 1, allowed: 0...largest)),
    Refusal(
        "closed neither 0 nor 1", batch().message(4, Wire().bytes(1, sixteen).field(2, 1).field(3, 2)),
        "accounts[0].closed", .unknownValue(2)),
    Refusal(
        "an unknown field in an account", batch().message(4, Wire().bytes(1, sixteen).field(4, 1)), "accounts[0]",
        .unexpectedField(tag: 0x20)),
    Refusal(
        "a ledger's sequence 0", batch().message(5, line((0, 2))), "ledger[0].firstSequence",
        .outOfRange(0, allowed: numbers)),
    Refusal(
        "a ledger's number 0", batch().message(5, line((1, 2), (0, 1))), "ledger[0].firstNumber",
        .outOfRange(0, allowed: numbers)),
    Refusal("a ledger's range backwards", batch().message(5, line((5, 4))), "ledger[0]", .inconsistentRange),
    Refusal("a ledger's numbers backwards", batch().message(5, line((1, 9), (3, 2))), "ledger[0]", .inconsistentRange),
    Refusal("more numbers than sequences", batch().message(5, line((1, 2), (1, 3))), "ledger[0]", .inconsistentRange),
    Refusal("an unknown reason", batch().message(5, line(reason: 77)), "ledger[0].reason", .unknownValue(77)),
    Refusal(
        "an aggregated line that names nothing", batch().message(5, line(reason: 5)), "ledger[0].aggregateEpoch",
        .missing),
    Refusal(
        "an aggregate's range backwards",
        batch().message(5, line(reason: 5).bytes(8, sixteen).field(9, 3).field(10, 2)), "ledger[0].lastAggregate",
        .inconsistentRange),
    Refusal(
        "an aggregate for what was dropped", batch().message(5, line().bytes(8, sixteen).field(9, 1).field(10, 2)),
        "ledger[0]", .unexpectedField(tag: 66)),
    Refusal("no reason", batch().message(5, line(reason: 0)), "ledger[0].reason", .unknownValue(0)),
    Refusal("a ledger without device", batch().message(5, line(device: "")), "ledger[0].device", .invalidText),
    Refusal(
        "sequences again", batch().message(6, frame(records: 3)).message(6, frame(sequence: 3, number: 4)),
        "frames[1].firstSequence", .notAscending(first: 3, previous: 3)),
    Refusal("a correction without epoch", batch().message(7, Wire().field(2, 1)), "corrections[0].epoch", .missing),
    Refusal(
        "a correction's sequence 0", batch().message(7, correction(0, 1)), "corrections[0].firstSequence",
        .outOfRange(0, allowed: numbers)),
    Refusal(
        "a correction's range backwards", batch().message(7, correction(3, 2)), "corrections[0]", .inconsistentRange),
    Refusal(
        "a correction of 8,000 years", batch().message(7, correction(1, 1, zigzagEncoded(253_402_300_800_000_000))),
        "corrections[0].offset",
        .timeOutOfRange(253_402_300_800_000_000, allowed: SyncLimits.clockOffsets)),
    Refusal(
        "an unknown field in a correction", batch().message(7, correction(1, 1).field(5, 1)), "corrections[0]",
        .unexpectedField(tag: 0x28)),
    Refusal(
        "a frame after the corrections", batch().message(7, correction(1, 1)).message(6, frame()), "",
        .unexpectedField(tag: 0x32)),
    Refusal(
        "numbers again", batch().message(6, frame(records: 3)).message(6, frame(sequence: 4, number: 3)),
        "frames[1].devices[0].firstNumber", .notAscending(first: 3, previous: 3)),
]

private let frameRefusals: [Refusal] = [
    Refusal("no epoch", Wire().field(2, 1), "epoch", .missing),
    Refusal("a short epoch", Wire().bytes(1, [1, 2]), "epoch", .wrongLength(expected: 16, found: 2)),
    Refusal("sequence 0", header(sequence: 0), "firstSequence", .outOfRange(0, allowed: numbers)),
    Refusal("no boot id", Wire().bytes(1, sixteen).field(2, 1), "bootID", .missing),
    Refusal("no records", header().message(7, device()), "records", .missing),
    Refusal("no devices", header().message(8, record()), "records[0].device", .missing),
    Refusal("a device without id", header().message(7, Wire().field(2, 1)), "devices[0].id", .missing),
    Refusal(
        "number 0", header().message(7, device(number: 0)), "devices[0].firstNumber", .outOfRange(0, allowed: numbers)),
    Refusal(
        "a device twice", header().message(7, device()).message(7, device(number: 9)).message(8, record()),
        "devices[1]", .duplicateDevice),
    Refusal(
        "a device without records",
        frame().buffer.readableBytes > 0
            ? header().message(7, device()).message(7, device("e")).message(8, record()) : Wire(),
        "devices[1]", .unusedDevice),
    Refusal(
        "an unknown device", header().message(7, device()).message(8, record(device: 1)), "records[0].device",
        .outOfRange(1, allowed: 0...0)),
    Refusal(
        "QoS 3", header().message(7, device()).message(8, Wire().field(2, 3).text(4, "t")), "records[0].flags",
        .unknownValue(3)),
    Refusal(
        "an unknown flag", header().message(7, device()).message(8, Wire().field(2, 0x20).text(4, "t")),
        "records[0].flags", .unknownValue(0x20)),
    Refusal("no topic", header().message(7, device()).message(8, Wire().text(5, "p")), "records[0].topic", .missing),
    Refusal(
        "an empty topic", header().message(7, device()).message(8, Wire().text(4, "")), "records[0].topic", .invalidText
    ),
    Refusal(
        "a topic that is no UTF-8", header().message(7, device()).message(8, Wire().bytes(4, [0x61, 0xFF])),
        "records[0].topic", .notUTF8),
    Refusal(
        "a topic with U+0000", header().message(7, device()).message(8, Wire().bytes(4, [0x61, 0, 0x62])),
        "records[0].topic", .invalidText),
    Refusal(
        "a topic of 65,536 bytes",
        header().message(7, device()).message(8, Wire().text(4, String(repeating: "t", count: 65_536))),
        "records[0].topic", .invalidText),
    Refusal(
        "an unknown field in a record", header().message(7, device()).message(8, record().field(9, 1)), "records[0]",
        .unexpectedField(tag: 0x48)),
    Refusal(
        "a time beyond 64 bits",
        header().message(7, device())
            .message(8, Wire().field(3, zigzagEncoded(.max)).text(4, "t").text(5, "p")), "records[0].offset",
        .timeOverflow),
    Refusal(
        "sequences beyond bigint", frame(sequence: largest, records: 2), "firstSequence",
        .outOfRange(largest, allowed: numbers)),
    Refusal(
        "numbers beyond bigint", frame(number: largest, records: 2), "devices[0].firstNumber",
        .outOfRange(largest, allowed: numbers)),
    Refusal("something after the records", frame().field(9, 1), "", .unexpectedField(tag: 0x48)),
    Refusal("a device after the records", frame().message(7, device("e")), "", .unexpectedField(tag: 0x3A)),
]

private let logEntryRefusals: [Refusal] = [
    Refusal("nothing", Wire(), "", .missing),
    Refusal("an unknown kind", Wire().message(5, Wire()), "", .unexpectedField(tag: 0x2A)),
    Refusal("two kinds", Wire().message(3, account()).message(3, account()), "", .unexpectedField(tag: 0x1A)),
    Refusal("a ledger without line", Wire().message(2, Wire().text(1, "g")), "line", .missing),
    Refusal("an account without account", Wire().message(3, Wire().text(1, "g")), "account", .missing),
    Refusal("a correction without correction", Wire().message(4, Wire().text(1, "g")), "correction", .missing),
    Refusal("no messages", Wire().message(1, entry()), "messages", .missing),
    Refusal("no topic at first", Wire().message(1, entry().message(6, Wire())), "messages[0].topic", .missing),
    Refusal(
        "a sequence beyond bigint", Wire().message(1, entry().message(6, Wire().field(1, largest).text(6, "t"))),
        "messages[0].sequence", .outOfRange(largest, allowed: numbers)),
    Refusal(
        "a number beyond bigint",
        Wire().message(
            1, entry().message(6, Wire().field(2, largest - 1).text(6, "t")).message(6, Wire())),
        "messages[1].number", .outOfRange(0, allowed: numbers)),
    Refusal(
        "an unknown flag", Wire().message(1, entry().message(6, Wire().field(3, 0x40).text(6, "t"))),
        "messages[0].flags", .unknownValue(0x40)),
]

private func entry() -> Wire { Wire().text(1, "g").bytes(2, sixteen).text(3, "d").bytes(5, sixteen) }
private func correction(_ first: UInt64, _ last: UInt64, _ offset: UInt64 = 0) -> Wire {
    Wire().bytes(1, sixteen).field(2, first).field(3, last).field(4, offset)
}
private func account() -> Wire { Wire().text(1, "g").message(2, Wire().bytes(1, sixteen).field(2, 1)) }

@Suite struct DecodingErrorTests {
    @Test func theBytesMadeHereAreOtherwiseGood() throws {
        let good = batch().message(4, Wire().bytes(1, sixteen).field(2, 1)).message(5, line())
            .message(6, frame(records: 3)).message(6, frame(sequence: 4, number: 4)).message(7, correction(2, 5, 9))
        let decoded = try Batch.decode(good.buffer)
        #expect(decoded.frames.count == 2 && decoded.ledger.count == 1 && decoded.accounts.count == 1)
        #expect(
            decoded.corrections.map(\.sequences) == [2...5] && decoded.corrections.map(\.offset) == [-5])
        _ = try LogEntry.decode(Wire().message(3, account()).buffer)
        _ = try LogEntry.decode(Wire().message(1, entry().message(6, Wire().text(6, "t"))).buffer)
    }

    @Test(arguments: batchRefusals)
    private func aMalformedBatchIsRefused(_ refusal: Refusal) {
        let error = #expect(throws: SyncDecodingError.self) { try Batch.decode(refusal.wire.buffer) }
        check(error, refusal)
    }

    @Test(arguments: frameRefusals)
    private func aMalformedFrameIsRefused(_ refusal: Refusal) {
        let error = #expect(throws: SyncDecodingError.self) { try Frame.decode(refusal.wire.buffer) }
        check(error, refusal)
        let inside = #expect(throws: SyncDecodingError.self) {
            try Batch.decode(batch().message(6, refusal.wire).buffer)
        }
        #expect(inside?.path == (refusal.path.isEmpty ? "frames[0]" : "frames[0].\(refusal.path)"))
    }

    @Test(arguments: logEntryRefusals)
    private func aMalformedLogEntryIsRefused(_ refusal: Refusal) {
        let error = #expect(throws: SyncDecodingError.self) { try LogEntry.decode(refusal.wire.buffer) }
        check(error, refusal)
    }

    private func check(_ error: SyncDecodingError?, _ refusal: Refusal) {
        #expect(error?.reason == refusal.reason)
        #expect(error?.path == refusal.path)
        #expect((error?.offset ?? -1) >= 0 && (error?.offset ?? .max) <= refusal.wire.buffer.readableBytes)
        #expect(error?.description.contains(refusal.reason.explanation) == true)
    }

    @Test func anErrorSaysWhereItIs() {
        let wire = batch().message(6, header().message(7, device()).message(8, Wire().field(2, 3).text(4, "t")))
        let error = #expect(throws: SyncDecodingError.self) { try Batch.decode(wire.buffer) }
        // version 2, gateway 3, frame's tag and length 2, header 18 + 2 + 2 + 2 + 18 + 2, device 7, record's tag and length 2
        #expect(error?.offset == 2 + 3 + 2 + 44 + 7 + 2)
        #expect(error?.description == "frames[0].records[0].flags at byte 60: has the unknown value 3")
    }

    @Test func countsAreBounded() {
        var limits = SyncLimits()
        limits.maximumFrames = 1
        limits.maximumRecords = 3
        limits.maximumDevices = 1
        limits.maximumAccounts = 1
        limits.maximumLedgerLines = 1
        limits.maximumCorrections = 1
        let account = Wire().bytes(1, sixteen).field(2, 1)
        let cases: [(Wire, String, Int)] = [
            (batch().message(6, frame()).message(6, frame(sequence: 2, number: 2)), "frames", 1),
            (batch().message(6, frame(records: 4)), "frames[0].records", 3),
            (batch().message(6, header().message(7, device()).message(7, device("e"))), "frames[0].devices", 1),
            (batch().message(4, account).message(4, account), "accounts", 1),
            (batch().message(5, line()).message(5, line()), "ledger", 1),
            (batch().message(7, correction(1, 1)).message(7, correction(2, 2)), "corrections", 1),
        ]
        for (wire, path, limit) in cases {
            let error = #expect(throws: SyncDecodingError.self) { try Batch.decode(wire.buffer, limits: limits) }
            #expect(error?.path == path)
            #expect(error?.reason == .tooMany(limit: limit))
        }
        limits.maximumFrames = 2
        limits.maximumDevices = 2
        let records = batch().message(6, frame(records: 2)).message(6, frame(sequence: 3, number: 3, records: 2))
        let error = #expect(throws: SyncDecodingError.self) { try Batch.decode(records.buffer, limits: limits) }
        #expect(error?.path == "frames[1].records", "the bound is on the batch")
        let entries = Wire().message(
            1, (0..<4).reduce(entry()) { wire, _ in wire.message(6, Wire().text(6, "t")) })
        let logError = #expect(throws: SyncDecodingError.self) { try LogEntry.decode(entries.buffer, limits: limits) }
        #expect(logError?.path == "messages")
    }
}
