import Foundation

/// The last steps of a run, and a digest of all of them by which two runs can be compared.
struct Trace {
    private(set) var lines: [String] = []
    private(set) var digest: UInt64 = 0xcbf2_9ce4_8422_2325

    /// `SLUICE_SIMULATION_LINES`; more for who looks into a run.
    static let maximumLines = ProcessInfo.processInfo.environment["SLUICE_SIMULATION_LINES"].flatMap { Int($0) } ?? 60

    mutating func note(_ text: String, at time: Int64) {
        // FNV-1a.
        for byte in text.utf8 { digest = (digest ^ UInt64(byte)) &* 0x0000_0100_0000_01b3 }
        digest = (digest ^ UInt64(bitPattern: time)) &* 0x0000_0100_0000_01b3
        if lines.count >= 2 * Self.maximumLines { lines.removeFirst(Self.maximumLines) }
        lines.append("\(Double(time / 1_000) / 1_000) s: \(text)")
    }
}
