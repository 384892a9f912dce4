import Logging

/// Writes each event as one JSON object a line.
package struct JSONLogHandler: LogHandler {
    package var metadata: Logger.Metadata = [:]
    package var metadataProvider: Logger.MetadataProvider?
    private let label: String
    private let sink: LogSink
    private let threshold: LogThreshold
    private var ownLevel: Logger.Level?

    package var logLevel: Logger.Level {
        get { ownLevel ?? threshold.level }
        set { ownLevel = newValue }
    }

    /// - Parameter level: this logger's; `nil` leaves it to the threshold, also where that changes later.
    package init(
        label: String, level: Logger.Level? = nil, threshold: LogThreshold = .shared, sink: LogSink = .standardError
    ) {
        self.label = label
        self.sink = sink
        self.threshold = threshold
        ownLevel = level
    }

    package subscript(metadataKey key: String) -> Logger.MetadataValue? {
        get { metadata[key] }
        set { metadata[key] = newValue }
    }

    package func log(event: LogEvent) {
        var merged = metadata
        if let provided = metadataProvider?.get() { merged.merge(provided) { $1 } }
        if let own = event.metadata { merged.merge(own) { $1 } }
        sink.write(
            LogLine.encode(
                microseconds: SystemClock.wallMicroseconds(), level: event.level, message: event.message.description,
                label: label, error: event.error.map { "\($0)" }, metadata: merged))
    }
}
