import Foundation
import Glibc
import Logging
import Operations
import Synchronization
import Testing

/// A pipe with a sink at one end. The write end is closed when the last reference goes.
private final class LogPipe: Sendable {
    let reader: Int32
    let writer: Int32
    let sink: LogSink

    init(maximumBytes: Int = 1 << 20) {
        var ends: [Int32] = [0, 0]
        precondition(pipe(&ends) == 0)
        (reader, writer) = (ends[0], ends[1])
        sink = LogSink(descriptor: writer, maximumBytes: maximumBytes)
    }

    func logger(_ level: Logger.Level = .trace) -> Logger {
        Logger(label: "test") { JSONLogHandler(label: $0, level: level, sink: self.sink) }
    }

    /// Everything up to the close of the write end.
    func closeAndRead() -> Data {
        sink.flush()
        close(writer)
        var data = Data()
        var chunk = [UInt8](repeating: 0, count: 65_536)
        while true {
            let count = read(reader, &chunk, chunk.count)
            guard count > 0 else { break }
            data.append(contentsOf: chunk[..<count])
        }
        close(reader)
        return data
    }

    func objects() throws -> [[String: Any]] {
        try closeAndRead().split(separator: UInt8(ascii: "\n")).map {
            try #require(try JSONSerialization.jsonObject(with: Data($0)) as? [String: Any])
        }
    }
}

@Suite struct LogTests {
    @Test func aLineSaysWhenHowGraveAndOfWhom() throws {
        let pipe = LogPipe()
        var logger = pipe.logger()
        logger[.gateway] = "plant-7"
        logger.notice("refused", [.device: "pump-1", .count: .stringConvertible(3)])
        let line = try #require(try pipe.objects().first)
        #expect(line["level"] as? String == "notice" && line["message"] as? String == "refused")
        #expect(line["gateway"] as? String == "plant-7" && line["device"] as? String == "pump-1")
        #expect(line["count"] as? Int == 3 && line["logger"] as? String == "test")
        let time = try #require(line["time"] as? String)
        #expect(time.utf8.count == 27 && time.hasSuffix("Z") && time.contains("T"))
    }

    @Test func everyLevelIsWrittenAndLowerOnesAreNot() throws {
        let pipe = LogPipe()
        let logger = pipe.logger(.debug)
        logger.trace("t", [.reason: "x"])
        logger.debug("d", [.reason: "x"])
        logger.info("i", [.reason: "x"])
        logger.notice("n", [.reason: "x"])
        logger.warning("w", [.reason: "x"])
        logger.error("e", [.reason: "x"])
        logger.critical("c", [.reason: "x"])
        let levels = try pipe.objects().compactMap { $0["level"] as? String }
        #expect(levels == ["debug", "info", "notice", "warning", "error", "critical"])
    }

    @Test func oddTextsAreOneLineOfGoodJSON() throws {
        let pipe = LogPipe()
        let odd = "a\"b\\c\nd\re\tf\u{0}g\u{1F}h\u{7F}ü😀\u{2028}"
        pipe.logger().info("\(odd)", [.path: .string(odd)])
        let line = try #require(try pipe.objects().first)
        #expect(line["message"] as? String == odd && line["path"] as? String == odd)
    }

    @Test func longTextsAndDeepValuesAreCut() throws {
        let pipe = LogPipe()
        var deep: Logger.MetadataValue = "x"
        for _ in 0..<100 { deep = .array([deep]) }
        pipe.logger().info(
            "\(String(repeating: "ü", count: 100_000))",
            [.error: deep, .bytes: .array((0..<1_000).map { .stringConvertible($0) })])
        let data = pipe.closeAndRead()
        #expect(data.count < 20_000)
        let line = try #require(try JSONSerialization.jsonObject(with: data) as? [String: Any])
        #expect((line["message"] as? String)?.hasSuffix("…") == true)
        #expect((line["bytes"] as? [Int])?.count == 64)
    }

    @Test func metadataCannotReplaceTheLinesOwnKeys() throws {
        let pipe = LogPipe()
        pipe.logger().info("real", metadata: ["message": "forged", "level": "forged", "nested": ["a": ["b": "c"]]])
        let line = try #require(try pipe.objects().first)
        #expect(line["message"] as? String == "real" && line["_message"] as? String == "forged")
        #expect((line["nested"] as? [String: [String: String]])?["a"]?["b"] == "c")
    }

    @Test func linesStayWholeUnderConcurrency() throws {
        let pipe = LogPipe(maximumBytes: 64 << 20)
        let logger = pipe.logger()
        let reading = Mutex(Data())
        let reader = DispatchQueue(label: "reader")
        let done = DispatchSemaphore(value: 0)
        reader.async {
            var chunk = [UInt8](repeating: 0, count: 65_536)
            while true {
                let count = read(pipe.reader, &chunk, chunk.count)
                guard count > 0 else { break }
                reading.withLock { $0.append(contentsOf: chunk[..<count]) }
            }
            done.signal()
        }
        DispatchQueue.concurrentPerform(iterations: 8) { worker in
            for number in 0..<250 { logger.info("m", [.device: "\(worker)", .count: .stringConvertible(number)]) }
        }
        #expect(pipe.sink.flush(milliseconds: 5_000))
        close(pipe.writer)
        done.wait()
        close(pipe.reader)
        let lines = reading.withLock { $0 }.split(separator: UInt8(ascii: "\n"))
        #expect(lines.count == 2_000)
        for line in lines { #expect(throws: Never.self) { try JSONSerialization.jsonObject(with: Data(line)) } }
        #expect(pipe.sink.dropped == 0)
    }

    @Test func aReaderThatIsStuckBlocksNobodyAndWhatIsLostIsCounted() throws {
        let pipe = LogPipe(maximumBytes: 16 * 1024)
        let logger = pipe.logger()
        let start = SystemClock.monotonicMicroseconds()
        for _ in 0..<5_000 { logger.info("\(String(repeating: "x", count: 100))") }
        #expect(SystemClock.monotonicMicroseconds() - start < 30_000_000)
        let dropped = pipe.sink.dropped
        #expect(dropped > 1_000)
        #expect(!pipe.sink.flush(milliseconds: 10))
        // Once it is read again, a line says how many are missing.
        DispatchQueue.global().async {
            pipe.sink.flush(milliseconds: 5_000)
            close(pipe.writer)
        }
        var data = Data()
        var chunk = [UInt8](repeating: 0, count: 65_536)
        while true {
            let count = read(pipe.reader, &chunk, chunk.count)
            guard count > 0 else { break }
            data.append(contentsOf: chunk[..<count])
        }
        close(pipe.reader)
        let lines = data.split(separator: UInt8(ascii: "\n"))
        let objects = try lines.map { line in
            try #require(try JSONSerialization.jsonObject(with: Data(line)) as? [String: Any])
        }
        let reports = objects.compactMap { $0["count"] as? UInt64 }
        #expect(reports.reduce(0, +) == dropped)
        #expect(UInt64(lines.count - reports.count) + dropped == 5_000)
    }
}
