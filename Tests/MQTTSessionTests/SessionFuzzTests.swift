import Flow
import Testing

/// The short run of what `make fuzz` does at length: scripts from seeds.
@Suite struct SessionFuzzTests {
    @Test(arguments: 0..<8 as Range<UInt64>) func everyScriptKeepsTheRules(seed: UInt64) {
        var generator = SplitMix64(seed: 700 + seed)
        for _ in 0..<1_500 {
            let script = (0..<Int(generator.next() % 200)).map { _ in UInt8(truncatingIfNeeded: generator.next()) }
            do throws(Violation) {
                try SessionFuzz.run(script)
            } catch {
                Issue.record("\(error), script \(script)")
                return
            }
        }
    }
}
