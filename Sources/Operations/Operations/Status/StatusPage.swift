/// The page at `/` of the status port: one document, no scripts, made anew for each request.
package enum StatusPage {
    /// Devices that it lists; the command line lists all.
    package static let maximumDevices = 200

    package static func response(_ status: GatewayStatus) -> StatusResponse {
        StatusResponse(contentType: "text/html; charset=utf-8", body: html(status).source)
    }

    static func html(_ status: GatewayStatus) -> HTML {
        let alarms = Alarm.all(of: status)
        return """
            <!DOCTYPE html>
            <html lang="en"><head><meta charset="utf-8">
            <meta name="viewport" content="width=device-width, initial-scale=1">
            <meta name="color-scheme" content="light dark">
            <meta http-equiv="refresh" content="10">
            <title>\(status.gateway) · Sluice</title>
            <style>\(style)</style></head><body>
            <header><h1>\(status.gateway)</h1><p>\(verdict(alarms))</p>
            <p class="aside">\(RFC3339.text(secondsSince1970: status.now).prefix(19).split(separator: "T").joined(separator: " ")) UTC, clock \(
                status.isClockSynchronised ? "synchronised" : "not synchronised") · up \(
                Shown.duration(seconds: status.uptime))</p></header>
            <main>
            \(list(alarms))\(figures(status))\(devices(status.devices, now: status.now))\(
                rules(status.rules))\(sparkplug(status.sparkplug, now: status.now))\(
                certificates(status.certificates, now: status.now))
            </main>
            <footer>sluice-edge · this page renews itself every ten seconds · <a href="/metrics">metrics</a> ·
            <a href="/health/ready">health</a></footer>
            </body></html>

            """
    }

    // MARK: alarms

    struct Alarm: Equatable {
        var name: String
        var reason: String
        var isFailure: Bool

        static func all(of status: GatewayStatus) -> [Alarm] {
            status.health.compactMap { name, state in
                switch state {
                case .good: nil
                case .degraded(let reason): Alarm(name: name, reason: reason, isFailure: false)
                case .failed(let reason): Alarm(name: name, reason: reason, isFailure: true)
                }
            }.sorted { a, b in a.isFailure == b.isFailure ? a.name < b.name : a.isFailure }
        }
    }

    private static func verdict(_ alarms: [Alarm]) -> HTML {
        if alarms.contains(where: \.isFailure) { return "<strong class=\"badge bad\">needs help</strong>" }
        if !alarms.isEmpty { return "<strong class=\"badge warn\">needs a look</strong>" }
        return "<strong class=\"badge good\">in order</strong>"
    }

    private static func list(_ alarms: [Alarm]) -> HTML {
        guard !alarms.isEmpty else { return "" }
        let items = alarms.map { alarm -> HTML in
            "<li class=\"\(alarm.isFailure ? "bad" : "warn")\"><b>\(alarm.name)</b> \(alarm.reason)</li>\n"
        }
        return "<section id=\"alarms\"><h2>Alarms</h2><ul>\n\(HTML.joined(items))</ul></section>\n"
    }

    // MARK: figures

    private static func figures(_ status: GatewayStatus) -> HTML {
        var figures: [HTML] = [
            figure("Connections", Shown.count(status.connections), "\(limited(status.devices))"),
            figure(
                "Messages a second", Shown.rate(status.lastTenSeconds.messagesPerSecond),
                "\(Shown.rate(status.lastMinute.messagesPerSecond)) in the last minute"),
            figure(
                "Bytes a second", Shown.bytes(status.lastTenSeconds.bytesPerSecond),
                "\(Shown.bytes(status.lastMinute.bytesPerSecond)) in the last minute"),
            buffer(status.buffer),
        ]
        if let uplink = status.uplink { figures += self.uplink(uplink, now: status.now) }
        return "<section id=\"figures\"><dl>\n\(HTML.joined(figures))</dl></section>\n"
    }

    private static func figure(_ name: String, _ value: String, _ note: HTML) -> HTML {
        "<div><dt>\(name)</dt><dd>\(value)</dd><dd class=\"note\">\(note)</dd></div>\n"
    }

    private static func limited(_ listing: DeviceListing) -> HTML {
        let limited = listing.devices.filter { $0.limit != .none }.count
        let unusual = listing.devices.filter(\.isUnusual).count
        if limited == 0, unusual == 0 { return "none is limited" }
        let parts = [limited > 0 ? "\(limited) limited" : "", unusual > 0 ? "\(unusual) unusual" : ""]
        return "\(parts.filter { !$0.isEmpty }.joined(separator: ", "))"
    }

    private static func buffer(_ buffer: GatewayStatus.BufferStatus) -> HTML {
        let share = buffer.maximumBytes > 0 ? Double(buffer.bytes) / Double(buffer.maximumBytes) : 0
        let percent = Int((share * 100).rounded())
        let note: HTML =
            """
            <meter min="0" max="100" high="80" value="\(percent)" aria-label="fill">\(percent)%</meter>
            \(Shown.bytes(Double(buffer.bytes))) of \(Shown.bytes(Double(buffer.maximumBytes)))\(
                buffer.isFull ? ", full" : "")
            """
        return figure("Messages in the buffer", Shown.count(buffer.messages), note)
    }

    private static func uplink(_ uplink: UplinkSummary, now: Int64) -> [HTML] {
        let answered: HTML =
            uplink.lastSuccess.map { "answered \(ago(now - $0))" } ?? "no answer yet"
        let forecast: HTML =
            switch uplink.drainTime {
            case _ where uplink.backlogMessages == 0: "nothing waits"
            case _ where uplink.isHeldBack: "uplink.bytesPerHour is spent: held back until the next hour"
            case nil: "no forecast yet"
            case 0?: "sent with the next batch"
            case let seconds?: "all sent in about \(Shown.duration(seconds: seconds))"
            }
        return [
            figure("Waiting for the cloud", Shown.count(uplink.backlogMessages), forecast),
            figure(
                "Sync lag", uplink.lag.map { Shown.duration(seconds: $0) } ?? "0 s",
                uplink.refusedBatches == 0 ? answered : "the cloud refuses a batch"),
        ]
    }

    private static func ago(_ seconds: Int64) -> String {
        seconds < 2 ? "just now" : Shown.duration(seconds: seconds) + " ago"
    }

    // MARK: tables

    private static func devices(_ listing: DeviceListing, now: Int64) -> HTML {
        let count = listing.devices.count + listing.leftOut
        guard count > 0 else { return "<section id=\"devices\"><h2>Devices</h2><p>None is connected.</p></section>\n" }
        let more: HTML =
            listing.leftOut == 0
            ? ""
            : "<p class=\"aside\">and \(Shown.count(listing.leftOut)) more: <code>sluice device list</code></p>"
        return """
            <section id="devices"><h2>Devices <span class="aside">\(Shown.count(count))</span></h2>
            <table><thead><tr><th>Device</th><th class="wide">Group</th><th class="n">msg/s</th>
            <th class="n wide">last minute</th><th class="n wide">usual</th><th class="n wide">bytes/s</th>
            <th class="n">Refused</th><th>State</th><th class="wide">Connected</th></tr></thead><tbody>
            \(HTML.joined(listing.devices.map(row)))</tbody></table>\(more)</section>

            """
    }

    private static func row(_ device: DeviceStatus) -> HTML {
        let refused = device.refused.values.reduce(0, &+)
        let reasons = device.refused.sorted { $0.key < $1.key }.map { "\($0.key) \($0.value)" }
        let since = device.clients.map(\.connectedSince).min() ?? "gone"
        return """
            <tr><td>\(device.id)</td><td class="wide">\(device.group ?? "")</td>
            <td class="n">\(Shown.rate(device.lastTenSeconds.messagesPerSecond))</td>
            <td class="n wide">\(Shown.rate(device.lastMinute.messagesPerSecond))</td>
            <td class="n wide">\(device.usualMessagesPerSecond > 0 ? Shown.rate(device.usualMessagesPerSecond) : "")</td>
            <td class="n wide">\(Shown.bytes(device.lastTenSeconds.bytesPerSecond))</td>
            <td class="n" title="\(reasons.joined(separator: ", "))">\(refused == 0 ? "" : Shown.count(Int(clamping: refused)))</td>
            <td>\(state(device))</td><td class="wide">\(since.shortTime)</td></tr>

            """
    }

    private static func state(_ device: DeviceStatus) -> HTML {
        var badges: [HTML] = []
        switch device.limit {
        case .none: break
        case .refused: badges.append("<span class=\"badge warn\">refused</span> ")
        case .slowed: badges.append("<span class=\"badge warn\">slowed</span> ")
        }
        if device.isUnusual { badges.append("<span class=\"badge bad\">unusual</span> ") }
        if device.clients.isEmpty { badges.append("<span class=\"aside\">gone</span>") }
        return HTML.joined(badges)
    }

    private static func rules(_ rules: [LocalRuleSummary]) -> HTML {
        guard !rules.isEmpty else { return "" }
        let rows = rules.map { rule -> HTML in
            """
            <tr><td>\(rule.name)</td><td class="n">\(Shown.count(rule.held))</td>
            <td class="n">\(Shown.count(rule.consumed))</td><td class="n">\(Shown.count(rule.aggregates))</td></tr>

            """
        }
        return """
            <section id="rules"><h2>Local work</h2>
            <table><thead><tr><th>Rule</th><th class="n">Held</th><th class="n">Consumed</th>
            <th class="n">Aggregates</th></tr></thead><tbody>
            \(HTML.joined(rows))</tbody></table></section>

            """
    }

    private static func certificates(_ certificates: [CertificateStatus], now: Int64) -> HTML {
        guard !certificates.isEmpty else { return "" }
        let rows = certificates.sorted { ($0.expiresAt, $0.name) < ($1.expiresAt, $1.name) }.map {
            certificate -> HTML in
            let left = certificate.expiresAt - now
            let state: HTML =
                left < 0
                ? "<span class=\"badge bad\">over</span>"
                : left < 7 * 86_400 ? "<span class=\"badge warn\">soon</span>" : ""
            let until = RFC3339.text(secondsSince1970: certificate.expiresAt)
            return """
                <tr><td>\(certificate.name)</td><td title="\(until)">\(String(until.prefix(10)))</td>
                <td>\(Shown.duration(seconds: max(0, left))) \(state)</td></tr>

                """
        }
        return """
            <section id="certificates"><h2>Certificates</h2>
            <table><thead><tr><th>Whose</th><th>Until</th><th>Left</th></tr></thead><tbody>
            \(HTML.joined(rows))</tbody></table></section>

            """
    }
}

extension String {
    /// `2026-01-02T03:04:05Z` as `2026-01-02 03:04`.
    fileprivate var shortTime: String {
        utf8.count < 16 ? self : String(prefix(16)).split(separator: "T").joined(separator: " ")
    }
}
