/// A Sparkplug edge node as the status page shows it.
package struct SparkplugNodeStatus: Sendable, Equatable {
    package enum State: String, Sendable {
        case unknown, online, offline
    }

    /// `group/node`.
    package var name: String
    package var state: State
    /// Seconds since 1970; `nil`: its birth was before the daemon's start.
    package var bornAt: Int64?
    package var devices: Int
    package var devicesOnline: Int
    /// That are missing in its sequence, since the daemon's start.
    package var lostMessages: UInt64

    package init(
        name: String, state: State, bornAt: Int64?, devices: Int, devicesOnline: Int, lostMessages: UInt64
    ) {
        self.name = name
        self.state = state
        self.bornAt = bornAt
        self.devices = devices
        self.devicesOnline = devicesOnline
        self.lostMessages = lostMessages
    }
}

/// The nodes that were heard since the daemon's start, those that are not online first.
package struct SparkplugListing: Sendable, Equatable {
    /// Nodes that the page shows at most.
    package static let maximum = 100

    package var nodes: [SparkplugNodeStatus]
    /// With those that did not fit.
    package var count: Int

    package init(nodes: [SparkplugNodeStatus] = [], count: Int = 0) {
        self.nodes = nodes
        self.count = count
    }
}

extension StatusPage {
    /// Nothing where no node speaks Sparkplug.
    static func sparkplug(_ listing: SparkplugListing, now: Int64) -> HTML {
        guard !listing.nodes.isEmpty else { return "" }
        let leftOut = listing.count - listing.nodes.count
        let more: HTML = leftOut > 0 ? "<p class=\"aside\">and \(Shown.count(leftOut)) more</p>" : ""
        return """
            <section id="sparkplug"><h2>Sparkplug nodes <span class="aside">\(Shown.count(listing.count))</span></h2>
            <table><thead><tr><th>Node</th><th>State</th><th class="n">Devices online</th>
            <th class="n">Lost messages</th><th class="wide">Born</th></tr></thead><tbody>
            \(HTML.joined(listing.nodes.map { row($0, now: now) }))</tbody></table>\(more)</section>

            """
    }

    private static func row(_ node: SparkplugNodeStatus, now: Int64) -> HTML {
        let state: HTML =
            switch node.state {
            case .online: "<span class=\"badge good\">online</span>"
            case .offline: "<span class=\"badge bad\">offline</span>"
            case .unknown: "<span class=\"aside\">unknown until its next birth</span>"
            }
        let born = node.bornAt.map { "\(Shown.duration(seconds: max(0, now - $0))) ago" } ?? ""
        return """
            <tr><td>\(node.name)</td><td>\(state)</td><td class="n">\(node.devicesOnline) of \(node.devices)</td>
            <td class="n">\(node.lostMessages == 0 ? "" : Shown.count(Int(clamping: node.lostMessages)))</td>
            <td class="wide">\(born)</td></tr>

            """
    }
}
