import NIOCore
import SyncModel

/// The shape of a row of `frame`, and the proof that something is one.
struct FrameColumns {
    struct Row {
        var id: Int64
        var epochRow: Int64
        var firstSequence: UInt64
        var count: Int
        var totalMessages: Int64
        var frame: Frame
        var header: ByteBuffer
        var records: ByteBuffer
        /// As stored, for the columns that are carried over as they are.
        var values: [StoredValue]

        /// It waited for the end of a window.
        var isHeld: Bool {
            values.count > FrameColumns.rank && values[FrameColumns.rank].integer ?? 0 >= Schema.heldRank / 2
        }
    }

    /// The column's place in the row.
    private static let rank = 10

    /// The ten columns of the first layout: see `Schema`.
    private static let first = 10
    /// The column's place in the row.
    let checksum: Int

    /// - Parameter names: of the table's columns, in order.
    init(names: [String]) {
        checksum = names.firstIndex(of: "checksum") ?? .max
    }

    private static func hasShape(_ header: RecordHeader) -> Bool {
        let columns = header.columns
        guard columns.count >= first, columns[0] == .null, columns[1..<8].allSatisfy(\.isInteger) else { return false }
        guard case .blob = columns[8], case .blob = columns[9] else { return false }
        return true
    }

    /// `nil` for anything that is no frame.
    ///
    /// - Parameter isProofNeeded: the page is not trusted, so only a row with a checksum counts.
    func row(
        _ payload: TreePage.Payload, id: Int64, in page: [UInt8], of image: PageImage, isProofNeeded: Bool
    ) -> Row? {
        guard id > 0, let record = image.record(of: payload, in: page, where: Self.hasShape) else { return nil }
        let values = record.header.values(of: record.bytes)
        guard let epochRow = values[1].integer, 1...Int64(UInt32.max) ~= epochRow,
            let firstSequence = values[2].integer,
            SyncLimits.numbers ~= UInt64(clamping: firstSequence), let count = values[3].integer,
            1...Int64(UInt32.max) ~= count, let bytes = values[4].integer, let totalMessages = values[5].integer,
            totalMessages >= count, case .blob(let header) = values[8], case .blob(let records) = values[9]
        else { return nil }
        var isProven = false
        if checksum < values.count, let stored = values[checksum].integer {
            guard
                stored
                    == FrameChecksum.of(id: id, totalMessages: totalMessages, header: header, records: records)
            else { return nil }
            isProven = true
        }
        guard isProven || !isProofNeeded, bytes == Int64(header.readableBytes + records.readableBytes) else {
            return nil
        }
        var encoded = header
        encoded.writeImmutableBuffer(records)
        guard let frame = try? Frame.decode(encoded), frame.firstSequence == UInt64(firstSequence),
            frame.records.count == Int(count)
        else { return nil }
        return Row(
            id: id, epochRow: epochRow, firstSequence: UInt64(firstSequence), count: Int(count),
            totalMessages: totalMessages, frame: frame, header: header, records: records, values: values)
    }
}
