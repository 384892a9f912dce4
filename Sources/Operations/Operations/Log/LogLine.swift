import Logging

/// One log line as a JSON object with a newline. Bounded: a text has at most 8 KiB, a collection 64 elements, and
/// nesting ends at the fourth level.
enum LogLine {
    static let maximumText = 8 * 1024
    static let maximumElements = 64
    static let maximumDepth = 4

    /// Keys of the line itself; metadata of the same name gets an underscore in front.
    private static let own: Set<String> = ["time", "level", "message", "logger", "error"]

    static func encode(
        microseconds: Int64, level: Logger.Level, message: String, label: String, error: String?,
        metadata: Logger.Metadata
    ) -> [UInt8] {
        var bytes: [UInt8] = []
        bytes.reserveCapacity(256)
        bytes.append(contentsOf: "{\"time\":\"".utf8)
        RFC3339.append(microsecondsSince1970: microseconds, to: &bytes)
        bytes.append(contentsOf: "\",\"level\":\"".utf8)
        bytes.append(contentsOf: level.rawValue.utf8)
        bytes.append(contentsOf: "\",\"logger\":".utf8)
        JSONText.append(label, to: &bytes, maximum: maximumText)
        bytes.append(contentsOf: ",\"message\":".utf8)
        JSONText.append(message, to: &bytes, maximum: maximumText)
        // The error of a line is also the key `error`, whoever set it.
        let hasErrorKey = metadata[LogKey.error.rawValue] != nil
        if let error, !hasErrorKey {
            bytes.append(contentsOf: ",\"error\":".utf8)
            JSONText.append(error, to: &bytes, maximum: maximumText)
        }
        for (key, value) in metadata.sorted(by: { $0.key < $1.key }).prefix(maximumElements) {
            bytes.append(UInt8(ascii: ","))
            let isTaken = own.contains(key) && key != LogKey.error.rawValue
            JSONText.append(isTaken ? "_" + key : key, to: &bytes, maximum: maximumText)
            bytes.append(UInt8(ascii: ":"))
            append(value, to: &bytes, depth: 1)
        }
        bytes.append(contentsOf: "}\n".utf8)
        return bytes
    }

    static func dropped(count: UInt64) -> [UInt8] {
        encode(
            microseconds: SystemClock.wallMicroseconds(), level: .warning,
            message: "log lines were dropped because nobody read them", label: "sluice.log", error: nil,
            metadata: [LogKey.count.rawValue: .stringConvertible(count)])
    }

    private static func append(_ value: Logger.MetadataValue, to bytes: inout [UInt8], depth: Int) {
        switch value {
        case .string(let text): JSONText.append(text, to: &bytes, maximum: maximumText)
        case .stringConvertible(let value): append(convertible: value, to: &bytes)
        case .array(let values):
            guard depth < maximumDepth else { return JSONText.append("…", to: &bytes) }
            bytes.append(UInt8(ascii: "["))
            for (position, element) in values.prefix(maximumElements).enumerated() {
                if position > 0 { bytes.append(UInt8(ascii: ",")) }
                append(element, to: &bytes, depth: depth + 1)
            }
            bytes.append(UInt8(ascii: "]"))
        case .dictionary(let values):
            guard depth < maximumDepth else { return JSONText.append("…", to: &bytes) }
            bytes.append(UInt8(ascii: "{"))
            let sorted = values.sorted { $0.key < $1.key }.prefix(maximumElements)
            for (position, element) in sorted.enumerated() {
                if position > 0 { bytes.append(UInt8(ascii: ",")) }
                JSONText.append(element.key, to: &bytes, maximum: maximumText)
                bytes.append(UInt8(ascii: ":"))
                append(element.value, to: &bytes, depth: depth + 1)
            }
            bytes.append(UInt8(ascii: "}"))
        }
    }

    /// Numbers and truth values stay what they are.
    private static func append(convertible value: any CustomStringConvertible, to bytes: inout [UInt8]) {
        switch value {
        case let integer as any FixedWidthInteger: bytes.append(contentsOf: integer.description.utf8)
        case let truth as Bool: bytes.append(contentsOf: truth.description.utf8)
        case let number as Double where number.isFinite: bytes.append(contentsOf: number.description.utf8)
        default: JSONText.append(value.description, to: &bytes, maximum: maximumText)
        }
    }
}
