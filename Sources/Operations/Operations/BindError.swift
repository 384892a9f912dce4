import Glibc
import NIOCore

/// A port that cannot be listened on.
package struct BindError: Error, CustomStringConvertible {
    package let description: String

    /// - Parameters:
    ///   - what: the listener's name for people.
    ///   - key: of the configuration.
    package init(_ what: String, key: String, address: String, port: Int, _ error: any Error) {
        description =
            "\(what) \(address):\(port) (\(key)) cannot be bound: \(Self.reason(error)). Is the port taken, or the address not of "
            + "this host?"
    }

    /// Without the name of the function that NIO called.
    package static func reason(_ error: any Error) -> String {
        (error as? IOError).map { String(cString: strerror($0.errnoCode)) } ?? "\(error)"
    }
}
