import Glibc
import Operations
import Synchronization

/// Appends lines to a journal file that several threads share. A line is with the kernel when `append` returns, so it
/// outlives every process; only the loss of this host's power could lose it.
package final class JournalWriter: Sendable {
    /// −1 after `close`. The lock also keeps two threads' lines from mixing when a write is cut short.
    private let descriptor: Mutex<Int32>
    private let path: String

    /// Opens the file, or makes it; what it holds already stays.
    package init(path: String) throws(SimulationError) {
        let opened = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0o644)
        guard opened >= 0 else { throw .journal(path: path, reason: String(cString: strerror(errno))) }
        self.path = path
        descriptor = Mutex(opened)
    }

    deinit { close() }

    package func append(_ lines: [UInt8]) throws(SimulationError) {
        guard !lines.isEmpty else { return }
        let failure: Int32? = descriptor.withLock { descriptor in
            var offset = 0
            while offset < lines.count {
                let written = lines.withUnsafeBytes {
                    write(descriptor, $0.baseAddress! + offset, $0.count - offset)
                }
                if written >= 0 {
                    offset += written
                } else if errno != EINTR {
                    return errno
                }
            }
            return nil
        }
        if let failure { throw .journal(path: path, reason: String(cString: strerror(failure))) }
    }

    package func close() {
        descriptor.withLock { descriptor in
            if descriptor >= 0 { _ = Glibc.close(descriptor) }
            descriptor = -1
        }
    }
}

extension JournalLine {
    /// The line as JSON with its newline, appended to a buffer. Written by hand, since it is done twice a message.
    package func append(to buffer: inout [UInt8]) {
        buffer += "{\"event\":\"\(event.rawValue)\",\"device\":\"".utf8
        for byte in device.utf8 {
            switch byte {
            case UInt8(ascii: "\""), UInt8(ascii: "\\"):
                buffer += [UInt8(ascii: "\\"), byte]
            case 0..<0x20:
                let digits = Array("0123456789abcdef".utf8)
                buffer += "\\u00".utf8
                buffer += [digits[Int(byte >> 4)], digits[Int(byte & 15)]]
            default:
                buffer.append(byte)
            }
        }
        buffer += "\",\"n\":\(n),\"qos\":\(qos),\"at\":\(at)".utf8
        if let reason { buffer += ",\"reason\":\(reason)".utf8 }
        buffer += "}\n".utf8
    }
}
