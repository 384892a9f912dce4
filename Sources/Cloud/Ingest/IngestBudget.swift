import Flow
import SyncModel

/// What made the cloud tell a gateway to come again; the raw value is the label of the metric.
enum IngestLimit: String, Sendable, CaseIterable {
    case inFlight = "in_flight"
    case gatewayInFlight = "gateway_in_flight"
    case rate
    case gatewayRate = "gateway_rate"
    /// All batches in work hold as many bytes as they may.
    case bytes
    /// The event log takes no more for now.
    case logBusy = "log_busy"
}

/// How many batches and messages a second the cloud takes, of all gateways and of each, live and backlog apart: neither
/// lane takes anything of the other's. Times are microseconds of the monotonic clock.
///
/// A batch passes when nothing is owed, whatever its size, and may leave a debt; while a debt is open batches are refused
/// before their bodies are read. A gateway cannot make a batch smaller that it has sent before, so none may have to wait
/// for a full bucket that smaller ones of others never let come about.
struct IngestBudget: Sendable {
    /// Of one lane; a rate of `nil` is unlimited.
    struct Bounds: Sendable, Equatable {
        var batches: Int
        var messagesPerSecond: Int?
        var gatewayBatches: Int
        var gatewayMessagesPerSecond: Int?
    }

    struct Refusal: Error, Sendable, Equatable {
        var limit: IngestLimit
        var lane: Lane
        /// Seconds after which it should come again, from 1 to `maximumWait`.
        var retryAfter: Int
    }

    private struct Use: Sendable {
        var batches = 0
        var bucket: TokenBucket?

        init(messagesPerSecond: Int?, at now: Int64) {
            bucket = messagesPerSecond.map { TokenBucket(rate: Double($0), burst: Int64($0), at: now) }
        }
    }

    private struct Gateway: Sendable {
        var live: Use
        var backlog: Use
        var used: Int64

        subscript(lane: Lane) -> Use {
            get { lane == .live ? live : backlog }
            set { if lane == .live { live = newValue } else { backlog = newValue } }
        }
    }

    static let maximumWait = 60
    /// Seconds until a batch in work has probably ended.
    private static let waitForPlace = 1

    private let live: Bounds
    private let backlog: Bounds
    private let maximumGateways: Int
    private var all: Gateway
    private var gateways: [String: Gateway] = [:]

    /// - Parameter maximumGateways: kept at a time; of those without a batch in work the ones not seen for longest make
    ///   room, and what they owe is forgotten.
    init(live: Bounds, backlog: Bounds, maximumGateways: Int = 10_000, at now: Int64) {
        self.live = live
        self.backlog = backlog
        self.maximumGateways = max(1, maximumGateways)
        all = Gateway(
            live: Use(messagesPerSecond: live.messagesPerSecond, at: now),
            backlog: Use(messagesPerSecond: backlog.messagesPerSecond, at: now), used: now)
    }

    var keptGateways: Int { gateways.count }

    func batches(_ lane: Lane) -> Int { all[lane].batches }

    /// Takes a place for a batch that `leave` gives back.
    mutating func enter(_ name: String, _ lane: Lane, at now: Int64) throws(Refusal) {
        let bounds = bounds(lane)
        guard all[lane].batches < bounds.batches else { throw refusal(.inFlight, lane, wait: nil) }
        var gateway = gateway(name, at: now)
        guard gateway[lane].batches < bounds.gatewayBatches else { throw refusal(.gatewayInFlight, lane, wait: nil) }
        if let wait = gateway[lane].bucket?.debt(at: now) { throw refusal(.gatewayRate, lane, wait: wait) }
        if let wait = all[lane].bucket?.debt(at: now) { throw refusal(.rate, lane, wait: wait) }
        gateway[lane].batches += 1
        gateway.used = now
        all[lane].batches += 1
        gateways[name] = gateway
    }

    mutating func leave(_ name: String, _ lane: Lane) {
        all[lane].batches -= 1
        gateways[name]?[lane].batches -= 1
    }

    /// Takes a batch's messages, of the gateway and of all, or of neither.
    mutating func take(_ messages: Int, of name: String, _ lane: Lane, at now: Int64) throws(Refusal) {
        guard messages > 0 else { return }
        var gateway = gateway(name, at: now)
        if case .wait(let wait)? = gateway[lane].bucket?.takeOwing(Int64(messages), at: now) {
            throw refusal(.gatewayRate, lane, wait: wait)
        }
        if case .wait(let wait)? = all[lane].bucket?.takeOwing(Int64(messages), at: now) {
            throw refusal(.rate, lane, wait: wait)
        }
        gateway.used = now
        gateways[name] = gateway
    }

    private func bounds(_ lane: Lane) -> Bounds { lane == .live ? live : backlog }

    private func refusal(_ limit: IngestLimit, _ lane: Lane, wait: Int64?) -> Refusal {
        let seconds = wait.map { Int((min($0, Int64(Self.maximumWait) * 1_000_000) + 999_999) / 1_000_000) }
        return Refusal(limit: limit, lane: lane, retryAfter: max(1, seconds ?? Self.waitForPlace))
    }

    private mutating func gateway(_ name: String, at now: Int64) -> Gateway {
        if let known = gateways[name] { return known }
        if gateways.count >= maximumGateways { makeRoom() }
        return Gateway(
            live: Use(messagesPerSecond: live.gatewayMessagesPerSecond, at: now),
            backlog: Use(messagesPerSecond: backlog.gatewayMessagesPerSecond, at: now), used: now)
    }

    /// A sixteenth at a time, so that it is rare. Those with a batch in work are fewer than the places for batches.
    private mutating func makeRoom() {
        let idle = gateways.filter { $0.value.live.batches == 0 && $0.value.backlog.batches == 0 }
        for (name, _) in idle.sorted(by: { $0.value.used < $1.value.used }).prefix(max(1, maximumGateways / 16)) {
            gateways[name] = nil
        }
    }
}

extension TokenBucket {
    /// Microseconds until something could be taken; `nil`: now.
    fileprivate mutating func debt(at now: Int64) -> Int64? {
        switch take(1, at: now) {
        case .admitted:
            giveBack(1)
            return nil
        case .wait(let time): return time
        }
    }
}
