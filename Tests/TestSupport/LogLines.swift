import Logging
import NIOConcurrencyHelpers

/// The log of one test.
package final class LogLines: Sendable {
    private let lines = NIOLockedValueBox<[(level: Logger.Level, text: String)]>([])

    package init() {}

    package var logger: Logger { Logger(label: "test") { _ in Handler(lines: self) } }

    /// In their order, each with its metadata.
    package var all: [String] { lines.withLockedValue { $0.map(\.text) } }

    package func contains(_ level: Logger.Level, _ text: String) -> Bool {
        lines.withLockedValue { $0.contains { $0.level == level && $0.text.contains(text) } }
    }

    private struct Handler: LogHandler {
        let lines: LogLines
        var metadata: Logger.Metadata = [:]
        var logLevel: Logger.Level = .trace

        subscript(metadataKey key: String) -> Logger.Metadata.Value? {
            get { metadata[key] }
            set { metadata[key] = newValue }
        }

        func log(event: LogEvent) {
            let text = "\(event.message) \(event.metadata ?? [:])"
            lines.lines.withLockedValue { $0.append((event.level, text)) }
        }
    }
}
