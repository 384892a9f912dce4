import Foundation
import NIOCore
import Operations
import SyncModel

/// Messages of frames, and dead letters, as lines of JSON.
struct MessageLines {
    private(set) var text = ByteBuffer()
    private(set) var count = 0

    /// Larger than any frame that was ever written.
    private static let limits = SyncLimits()

    /// - Parameters:
    ///   - skipping: messages of the first frame that are left out.
    ///   - maximum: messages in all; `nil` is unlimited.
    init(_ frames: [StoredFrame], skipping: Int = 0, maximum: Int?) throws(BufferError) {
        var skipping = skipping
        var bytes: [UInt8] = []
        for stored in frames {
            var encoded = stored.header
            encoded.writeImmutableBuffer(stored.records)
            let frame: Frame
            do {
                frame = try Frame.decode(encoded, limits: Self.limits)
            } catch {
                throw .io("frame \(stored.id) of the buffer cannot be decoded (\(error)); the daemon's log may say why")
            }
            var numbers = frame.devices.map(\.firstNumber)
            for (position, record) in frame.records.enumerated() {
                defer { numbers[record.device] += 1 }
                guard skipping == 0 else {
                    skipping -= 1
                    continue
                }
                if let maximum, count >= maximum { break }
                count += 1
                Self.append(
                    record, of: frame, sequence: frame.firstSequence + UInt64(position),
                    number: numbers[record.device], to: &bytes)
            }
        }
        text = ByteBuffer(bytes: bytes)
    }

    init(_ letters: [DeadLetter]) {
        var bytes: [UInt8] = []
        for letter in letters { Self.append(letter, to: &bytes) }
        count = letters.count
        text = ByteBuffer(bytes: bytes)
    }

    private static func append(_ letter: DeadLetter, to bytes: inout [UInt8]) {
        func raw(_ text: String) { bytes.append(contentsOf: text.utf8) }
        raw("{\"epoch\":\"\(letter.epoch.hexadecimal)\",\"sequence\":\(letter.sequence),\"device\":")
        JSONText.append(letter.device, to: &bytes)
        raw(",\"number\":\(letter.number),\"buried\":\"")
        RFC3339.append(microsecondsSince1970: letter.time, to: &bytes)
        raw("\",\"status\":\(letter.status),\"reason\":")
        JSONText.append(letter.reason, to: &bytes)
        raw(",\"topic\":")
        JSONText.append(String(buffer: letter.topic), to: &bytes)
        raw(",")
        end(letter.payload, letter.properties, &bytes)
    }

    private static func append(
        _ record: FrameRecord, of frame: Frame, sequence: UInt64, number: UInt64, to bytes: inout [UInt8]
    ) {
        func raw(_ text: String) { bytes.append(contentsOf: text.utf8) }
        raw("{\"epoch\":\"\(frame.epoch.hexadecimal)\",\"sequence\":\(sequence),\"device\":")
        JSONText.append(frame.devices[record.device].id, to: &bytes)
        raw(",\"number\":\(number),\"time\":\"")
        RFC3339.append(microsecondsSince1970: frame.clock.wallTime + record.offset, to: &bytes)
        raw("\",\"synchronised\":\(frame.clock.isSynchronised),\"topic\":")
        JSONText.append(String(buffer: record.topic), to: &bytes)
        raw(",\"qos\":\(record.qos),\"retain\":\(record.retain),\"duplicate\":\(record.duplicate)")
        raw(",\"will\":\(record.isWill),")
        end(record.payload, record.properties, &bytes)
    }

    private static func end(_ payload: ByteBuffer, _ properties: ByteBuffer, _ bytes: inout [UInt8]) {
        func raw(_ text: String) { bytes.append(contentsOf: text.utf8) }
        if let text = String(validating: payload.readableBytesView, as: UTF8.self) {
            raw("\"payload\":")
            JSONText.append(text, to: &bytes)
        } else {
            raw("\"payloadBase64\":\"\(base64(payload))\"")
        }
        if properties.readableBytes > 0 { raw(",\"propertiesBase64\":\"\(base64(properties))\"") }
        raw("}\n")
    }

    private static func base64(_ bytes: ByteBuffer) -> String {
        Data(bytes.readableBytesView).base64EncodedString()
    }
}
