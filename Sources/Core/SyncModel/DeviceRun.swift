/// The messages of one device in a frame. Others' may lie between its sequences, none between its numbers.
package struct DeviceRun: Sendable, Equatable {
    package var device: String
    package var sequences: ClosedRange<UInt64>
    package var numbers: ClosedRange<UInt64>

    package init(device: String, sequences: ClosedRange<UInt64>, numbers: ClosedRange<UInt64>) {
        self.device = device
        self.sequences = sequences
        self.numbers = numbers
    }
}

extension Frame {
    /// At least one for each device, in the frame's order.
    package var deviceRuns: [DeviceRun] { deviceRuns(without: []) }

    /// Without the messages at some positions: what lies on both sides of one are two runs.
    package func deviceRuns(without left: Set<Int>) -> [DeviceRun] {
        var runs = [[DeviceRun]](repeating: [], count: devices.count)
        var numbers = devices.map(\.firstNumber)
        for (index, record) in records.enumerated() {
            let device = record.device
            let (sequence, number) = (firstSequence + UInt64(index), numbers[device])
            numbers[device] += 1
            guard !left.contains(index) else { continue }
            if let last = runs[device].last, last.numbers.upperBound + 1 == number {
                let end = runs[device].count - 1
                runs[device][end].sequences = last.sequences.lowerBound...sequence
                runs[device][end].numbers = last.numbers.lowerBound...number
            } else {
                runs[device].append(
                    DeviceRun(device: devices[device].id, sequences: sequence...sequence, numbers: number...number))
            }
        }
        return runs.flatMap { $0 }
    }
}
