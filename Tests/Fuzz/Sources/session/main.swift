import Flow
import Foundation

// Bytes as a script of events for a broker, judged by SessionFuzz.
//
//   session --seed FOLDER   writes scripts from a generator as a corpus
//   session …               libFuzzer, with its own arguments

@_silgen_name("LLVMFuzzerRunDriver")
func runFuzzer(
    _ count: UnsafeMutablePointer<Int32>,
    _ arguments: UnsafeMutablePointer<UnsafeMutablePointer<UnsafeMutablePointer<CChar>?>>,
    _ body: @convention(c) (UnsafePointer<UInt8>, Int) -> Int32
) -> Int32

func fuzz(_ bytes: UnsafePointer<UInt8>, _ count: Int) -> Int32 {
    do throws(Violation) {
        try SessionFuzz.run(UnsafeBufferPointer(start: bytes, count: count))
    } catch {
        // The end of a fuzzing process is how it reports.
        fatalError(error.description)
    }
    return 0
}

if CommandLine.arguments.count == 3, CommandLine.arguments[1] == "--seed" {
    var generator = SplitMix64(seed: 1)
    for index in 0..<64 {
        let script = (0..<50 * (1 + index % 8)).map { _ in UInt8(truncatingIfNeeded: generator.next()) }
        try Data(script).write(to: URL(fileURLWithPath: CommandLine.arguments[2] + "/script-\(index)"))
    }
    exit(0)
}
var count = CommandLine.argc
var arguments = CommandLine.unsafeArgv
exit(runFuzzer(&count, &arguments) { fuzz($0, $1) })
