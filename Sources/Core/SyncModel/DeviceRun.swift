/// The messages of one device in a frame. Others' may lie between its sequences, none between its numbers.
package struct DeviceRun: Sendable, Equatable {
    package var device: String
    package var sequences: ClosedRange<UInt64>
    package var numbers: ClosedRange<UInt64>
}

extension Frame {
    /// One for each device, in the frame's order.
    package var deviceRuns: [DeviceRun] {
        var first = [UInt64?](repeating: nil, count: devices.count)
        var last = [UInt64](repeating: 0, count: devices.count)
        var counts = [UInt64](repeating: 0, count: devices.count)
        for (index, record) in records.enumerated() {
            let sequence = firstSequence + UInt64(index)
            first[record.device] = first[record.device] ?? sequence
            last[record.device] = sequence
            counts[record.device] += 1
        }
        return devices.indices.compactMap { index in
            guard let first = first[index] else { return nil }
            let number = devices[index].firstNumber
            return DeviceRun(
                device: devices[index].id, sequences: first...last[index],
                numbers: number...(number + counts[index] - 1))
        }
    }
}
