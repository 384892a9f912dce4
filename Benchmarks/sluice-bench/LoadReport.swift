import ArgumentParser
import NIOCore
import NIOPosix

/// What one run of the generator saw within its window.
struct LoadReport: Sendable {
    let connections: Int
    let inFlight: Int
    /// Messages whose last acknowledgement came within the window; at QoS 0 messages before a PINGREQ that was answered.
    let messages: Int
    let seconds: Double
    /// Microseconds.
    let p50: Int64
    let p99: Int64
    let maximum: Int64
    /// Refused messages and lost connections.
    let errors: Int
    let firstError: String?

    var rate: Int { Int(Double(messages) / seconds) }

    var text: String {
        """
        \(connections) connections, \(inFlight) in flight: \(rate) msg/s, \(messages) messages in \(seconds) s
        latency p50 \(p50) µs, p99 \(p99) µs, max \(maximum) µs; errors \(errors)\(firstError.map { " (first: \($0))" } ?? "")
        """
    }

    var json: String {
        let error = firstError.map { "\"\(Self.escaped($0))\"" } ?? "null"
        return """
            {"connections":\(connections),"inFlight":\(inFlight),"rate":\(rate),"messages":\(messages),\
            "seconds":\(seconds),"p50Microseconds":\(p50),"p99Microseconds":\(p99),"maxMicroseconds":\(maximum),\
            "errors":\(errors),"firstError":\(error)}
            """
    }

    /// Runs a load on an event loop of its own, prints what it saw, and fails where there were errors.
    static func printed(
        json: Bool, _ start: @escaping @Sendable (any EventLoop, EventLoopPromise<LoadReport>) -> Void
    ) throws {
        let group = MultiThreadedEventLoopGroup(numberOfThreads: 1)
        let loop = group.next()
        let promise = loop.makePromise(of: LoadReport.self)
        loop.execute { start(loop, promise) }
        let outcome = Result { try promise.futureResult.wait() }
        try group.syncShutdownGracefully()
        let report = try outcome.get()
        print(json ? report.json : report.text)
        guard report.errors == 0 else { throw ExitCode(2) }
    }

    private static func escaped(_ text: String) -> String {
        text.replacing("\\", with: "\\\\").replacing("\"", with: "\\\"").replacing("\n", with: " ")
    }
}
