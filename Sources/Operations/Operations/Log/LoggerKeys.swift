import Logging

/// Logging with keys of `LogKey` alone: `logger.notice("refused", [.device: "pump-1", .reason: "\(refusal)"])`.
extension Logger {
    /// Metadata of every line of this logger.
    package subscript(key: LogKey) -> MetadataValue? {
        get { self[metadataKey: key.rawValue] }
        set { self[metadataKey: key.rawValue] = newValue }
    }

    package func log(
        level: Level, _ message: @autoclosure () -> Message, _ keys: @autoclosure () -> [LogKey: MetadataValue],
        file: String = #fileID, function: String = #function, line: UInt = #line
    ) {
        log(
            level: level, message(),
            metadata: Metadata(uniqueKeysWithValues: keys().map { ($0.key.rawValue, $0.value) }),
            file: file, function: function, line: line)
    }

    package func trace(_ message: @autoclosure () -> Message, _ keys: @autoclosure () -> [LogKey: MetadataValue]) {
        log(level: .trace, message(), keys())
    }

    package func debug(_ message: @autoclosure () -> Message, _ keys: @autoclosure () -> [LogKey: MetadataValue]) {
        log(level: .debug, message(), keys())
    }

    package func info(_ message: @autoclosure () -> Message, _ keys: @autoclosure () -> [LogKey: MetadataValue]) {
        log(level: .info, message(), keys())
    }

    package func notice(_ message: @autoclosure () -> Message, _ keys: @autoclosure () -> [LogKey: MetadataValue]) {
        log(level: .notice, message(), keys())
    }

    package func warning(_ message: @autoclosure () -> Message, _ keys: @autoclosure () -> [LogKey: MetadataValue]) {
        log(level: .warning, message(), keys())
    }

    package func error(_ message: @autoclosure () -> Message, _ keys: @autoclosure () -> [LogKey: MetadataValue]) {
        log(level: .error, message(), keys())
    }

    package func critical(_ message: @autoclosure () -> Message, _ keys: @autoclosure () -> [LogKey: MetadataValue]) {
        log(level: .critical, message(), keys())
    }
}
