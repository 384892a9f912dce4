import NIOCore
import Testing

@testable import SyncModel

@Suite struct BatchCodingTests {
    @Test func aBatchComesBackAsItWas() throws {
        let batch = sampleBatch()
        #expect(try Batch.decode(batch.encoded()) == batch)
    }

    @Test func randomBatchesComeBackAsTheyWere() throws {
        for seed in 1...200 as ClosedRange<UInt64> {
            var generator = SeededGenerator(seed: seed)
            let batch = randomBatch(using: &generator)
            let encoded = batch.encoded()
            let decoded = try Batch.decode(encoded)
            try #require(decoded == batch, "seed \(seed)")
            try #require(decoded.encoded() == encoded, "seed \(seed): the encoding is canonical")
        }
    }

    @Test func aFrameComesBackAlsoFromTheMiddleOfABuffer() throws {
        var buffer = ByteBuffer(string: "before")
        sampleFrame().encode(into: &buffer)
        buffer.moveReaderIndex(forwardBy: 6)
        #expect(try Frame.decode(buffer) == sampleFrame())
    }

    @Test func whatTheBuilderCollectedIsAFrame() throws {
        var builder = FrameBuilder()
        var later = sampleClock()
        later.monotonicTime += 250
        builder.append(
            device: 4, deviceID: "b", qos: 1, retain: false, duplicate: true, topic: bytes("t/1"), payload: bytes("1"),
            properties: ByteBuffer(), clock: sampleClock())
        builder.append(
            device: 2, deviceID: "a", qos: 2, retain: true, duplicate: false, isWill: true, topic: bytes("t/2"),
            payload: ByteBuffer(), properties: ByteBuffer(bytes: [1, 0]), clock: later)
        builder.append(
            device: 4, deviceID: "b", qos: 0, retain: false, duplicate: false, topic: bytes("t/1"), payload: bytes("3"),
            properties: ByteBuffer(), clock: later)
        let draft = try #require(builder.take().first)
        let header = draft.header(epoch: sampleEpoch, firstSequence: 41, firstNumbers: [9, 1])
        var encoder = BatchEncoder(gateway: "g", lane: .live)
        encoder.append(header: header, records: draft.records)
        let batch = try Batch.decode(encoder.finish())
        let expected = Frame(
            epoch: sampleEpoch, firstSequence: 41, clock: sampleClock(),
            devices: [FrameDevice(id: "b", firstNumber: 9), FrameDevice(id: "a", firstNumber: 1)],
            records: [
                FrameRecord(device: 0, qos: 1, duplicate: true, topic: bytes("t/1"), payload: bytes("1")),
                FrameRecord(
                    device: 1, qos: 2, retain: true, isWill: true, offset: 250, topic: bytes("t/2"),
                    payload: ByteBuffer(), properties: ByteBuffer(bytes: [1, 0])),
                FrameRecord(device: 0, qos: 0, offset: 250, topic: bytes("t/1"), payload: bytes("3")),
            ])
        #expect(batch.frames == [expected])
    }

    @Test func storedPartsMakeTheSameBytesAsTheValues() {
        let batch = sampleBatch()
        var encoder = BatchEncoder(
            gateway: batch.gateway, lane: batch.lane, accounts: batch.accounts, ledger: batch.ledger,
            corrections: batch.corrections)
        encoder.reserve(4_096)
        for frame in batch.frames {
            var records = frame
            records.devices = []
            let whole = frame.encoded()
            var header = ByteBuffer()
            FrameHeader.encode(
                epoch: frame.epoch, firstSequence: frame.firstSequence, clock: frame.clock, into: &header)
            for device in frame.devices { FrameHeader.encode(device, into: &header) }
            var rest = whole
            rest.moveReaderIndex(forwardBy: header.readableBytes)
            encoder.append(header: header, records: rest)
        }
        #expect(encoder.finish() == batch.encoded())
    }

    @Test func aPayloadIsASliceOfTheBatch() throws {
        let encoded = sampleBatch().encoded()
        let batch = try Batch.decode(encoded)
        let first = encoded.withUnsafeReadableBytes { $0.baseAddress }
        let count = encoded.readableBytes
        let payload = batch.frames[0].records[0].payload.withUnsafeReadableBytes { $0.baseAddress }
        let start = try #require(first)
        let inside = try #require(payload)
        #expect(inside > start && inside < start + count)
    }

    /// A cut connection, or a body that ends early, at every byte.
    @Test func everyTruncationIsRefusedWhereItEndsOrIsAWholePrefix() throws {
        let encoded = sampleBatch().encoded()
        for length in 0..<encoded.readableBytes {
            let part = try #require(encoded.getSlice(at: encoded.readerIndex, length: length))
            do throws(SyncDecodingError) {
                // A prefix that ends between two fields of the batch is a batch of its own.
                let batch = try Batch.decode(part)
                #expect(batch.encoded() == part)
            } catch {
                #expect(error.offset <= length, "\(error)")
            }
        }
    }

    @Test func mutatedBytesAreRefusedOrComeBackAsTheyWereTaken() {
        var generator = SeededGenerator(seed: 42)
        var refused = 0
        var taken = 0
        for _ in 0..<500 {
            var encoded = randomBatch(using: &generator).encoded()
            for _ in 0..<Int.random(in: 1...3, using: &generator) where encoded.readableBytes > 0 {
                let index = Int.random(in: 0..<encoded.readableBytes, using: &generator)
                encoded.setInteger(UInt8.random(in: 0...255, using: &generator), at: index)
            }
            do throws(SyncDecodingError) {
                let batch = try Batch.decode(encoded)
                taken += 1
                let again = try Batch.decode(batch.encoded())
                #expect(again == batch)
                for entry in batch.logEntries() {
                    #expect(try LogEntry.decode(entry.encoded()) == entry)
                }
            } catch {
                refused += 1
                #expect(error.offset <= encoded.readableBytes)
            }
        }
        #expect(refused > 100 && taken > 20, "\(refused) refused, \(taken) taken")
    }
}
