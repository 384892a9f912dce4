import Foundation
import MQTTWire
import NIOCore
import NIOPosix
import NIOSSL

/// One run: opens all connections, starts them together, counts within the window. Lives on its event loop alone.
final class Load {
    let settings: LoadSettings
    private let loop: any EventLoop
    private let result: EventLoopPromise<LoadReport>
    private var publishers: [Publisher] = []
    /// With a given rate: messages offered, and when it began; nanoseconds.
    private var offered = 0
    private var pacingBegan: Int64 = 0
    private var opened = 0
    private var accepted = 0
    private var isMeasuring = false
    private(set) var isStopped = false
    private var histogram = Histogram()
    private var messages = 0
    private var errors = 0
    private var firstError: String?
    private var began = NIODeadline.now()

    /// Handshakes at a time: enough to keep the broker busy, few enough that none times out.
    private static let openAtOnce = 32
    private static let openTimeout = TimeAmount.seconds(120)

    init(_ settings: LoadSettings, on loop: any EventLoop, result: EventLoopPromise<LoadReport>) {
        self.settings = settings
        self.loop = loop
        self.result = result
    }

    func start() {
        loop.assumeIsolated().scheduleTask(in: Self.openTimeout) {
            guard self.accepted < self.settings.connections else { return }
            self.fail("only \(self.accepted) of \(self.settings.connections) connections were accepted in time")
        }
        for _ in 0..<min(Self.openAtOnce, settings.connections) { openNext() }
    }

    private func openNext() {
        guard opened < settings.connections, !isStopped else { return }
        let id = settings.deviceID(opened)
        opened += 1
        let publisher = Publisher(id: id, load: self)
        publishers.append(publisher)
        do {
            let context = try settings.tls?.context(device: settings.certificateID(opened - 1))
            let host = settings.host.contains(where: \.isLetter) && !settings.host.contains(":") ? settings.host : nil
            let bound = NIOLoopBound(publisher, eventLoop: loop)
            let future = ClientBootstrap(group: loop)
                .channelOption(.tcpOption(.tcp_nodelay), value: 1)
                .channelOption(.maxMessagesPerRead, value: 4)
                .connectTimeout(.seconds(10))
                .channelInitializer { channel in
                    channel.eventLoop.makeCompletedFuture {
                        let pipeline = channel.pipeline.syncOperations
                        if let context {
                            try pipeline.addHandler(NIOSSLClientHandler(context: context, serverHostname: host))
                        }
                        try pipeline.addHandler(bound.value)
                    }
                }
                .connect(host: settings.host, port: settings.port)
            future.assumeIsolated().whenFailure { error in
                self.fail("\(id) cannot connect to \(self.settings.host):\(self.settings.port): \(error)")
            }
        } catch {
            fail("\(id): \(error)")
        }
    }

    func wasAccepted() {
        accepted += 1
        openNext()
        guard accepted == settings.connections else { return }
        if settings.isIdle {
            // A line for whoever measures the broker meanwhile.
            print("ready")
            fflush(nil)
        } else if let rate = settings.rate {
            pace(rate)
        } else {
            for publisher in publishers { publisher.begin() }
        }
        loop.assumeIsolated().scheduleTask(in: Self.nanoseconds(settings.warmup)) { self.measure() }
    }

    /// Offers messages at their times, whatever became of those before, each on the next connection.
    private func pace(_ rate: Double) {
        let now = Int64(truncatingIfNeeded: NIODeadline.now().uptimeNanoseconds)
        if pacingBegan == 0 { pacingBegan = now }
        let due = Int(Double(now - pacingBegan) * rate / 1e9)
        while offered < due {
            let time = pacingBegan + Int64(Double(offered) * 1e9 / rate)
            publishers[offered % publishers.count].offer(at: time)
            offered += 1
        }
        guard !isStopped else { return }
        loop.assumeIsolated().scheduleTask(in: .milliseconds(1)) { self.pace(rate) }
    }

    private func measure() {
        isMeasuring = true
        began = .now()
        loop.assumeIsolated().scheduleTask(in: Self.nanoseconds(settings.seconds)) { self.finish() }
    }

    private func finish() {
        guard !isStopped else { return }
        let elapsed = NIODeadline.now() - began
        stop()
        result.succeed(
            LoadReport(
                connections: settings.connections, inFlight: settings.inFlight, messages: messages,
                seconds: Double(elapsed.nanoseconds) / 1e9, p50: histogram.percentile(0.5),
                p99: histogram.percentile(0.99), maximum: histogram.maximum, errors: errors, firstError: firstError))
    }

    private func stop() {
        isStopped = true
        isMeasuring = false
        for publisher in publishers { publisher.end() }
    }

    /// `nanoseconds` from its first byte to its last acknowledgement.
    func completed(after nanoseconds: Int64) {
        guard isMeasuring else { return }
        messages += 1
        histogram.add(nanoseconds / 1000)
    }

    func noteError(_ text: String) {
        guard !isStopped else { return }
        errors += 1
        if firstError == nil { firstError = text }
    }

    /// Before all were accepted nothing can be measured; afterwards a lost connection is counted.
    func lost(_ id: String, _ why: String, wasAccepted: Bool) {
        if wasAccepted { noteError("\(id): \(why)") } else { fail("\(id) was not accepted: \(why)") }
    }

    private func fail(_ why: String) {
        guard !isStopped else { return }
        stop()
        result.fail(LoadError(description: why))
    }

    private static func nanoseconds(_ seconds: Double) -> TimeAmount { .nanoseconds(Int64(seconds * 1e9)) }
}
