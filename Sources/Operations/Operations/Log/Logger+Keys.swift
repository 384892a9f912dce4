import Logging

/// Log lines with keys of `LogKey` only.
extension Logger {
    package func debug(_ message: @autoclosure () -> Logger.Message, _ metadata: [LogKey: String]) {
        log(level: .debug, message(), metadata: Self.metadata(metadata))
    }

    package func info(_ message: @autoclosure () -> Logger.Message, _ metadata: [LogKey: String]) {
        log(level: .info, message(), metadata: Self.metadata(metadata))
    }

    package func notice(_ message: @autoclosure () -> Logger.Message, _ metadata: [LogKey: String]) {
        log(level: .notice, message(), metadata: Self.metadata(metadata))
    }

    package func warning(_ message: @autoclosure () -> Logger.Message, _ metadata: [LogKey: String]) {
        log(level: .warning, message(), metadata: Self.metadata(metadata))
    }

    package func error(_ message: @autoclosure () -> Logger.Message, _ metadata: [LogKey: String]) {
        log(level: .error, message(), metadata: Self.metadata(metadata))
    }

    package func critical(_ message: @autoclosure () -> Logger.Message, _ metadata: [LogKey: String]) {
        log(level: .critical, message(), metadata: Self.metadata(metadata))
    }

    package subscript(key: LogKey) -> String? {
        get { self[metadataKey: key.rawValue].map { "\($0)" } }
        set { self[metadataKey: key.rawValue] = newValue.map { .string($0) } }
    }

    private static func metadata(_ values: [LogKey: String]) -> Logger.Metadata {
        Logger.Metadata(uniqueKeysWithValues: values.map { ($0.key.rawValue, .string($0.value)) })
    }
}
