import Foundation
import Testing

@testable import Operations

/// The page as text; how a browser sees it is an end-to-end test.
@Suite struct StatusPageTests {
    static func status(_ change: (inout GatewayStatus) -> Void = { _ in }) -> GatewayStatus {
        let none = DeviceStatus.Rate(messagesPerSecond: 0, bytesPerSecond: 0)
        var status = GatewayStatus(
            gateway: "plant-7", now: 1_700_000_000, uptime: 90_061, isClockSynchronised: true, connections: 1,
            devices: DeviceListing(gateway: "plant-7", devices: [], leftOut: 0), lastTenSeconds: none, lastMinute: none,
            buffer: .init(messages: 12_345, bytes: 512, maximumBytes: 1_024, isFull: false, oldestAge: 5),
            uplink: nil, certificates: [], health: [:])
        change(&status)
        return status
    }

    static func device(_ id: String, _ change: (inout DeviceStatus) -> Void = { _ in }) -> DeviceStatus {
        let rate = DeviceStatus.Rate(messagesPerSecond: 1.5, bytesPerSecond: 2_048)
        var device = DeviceStatus(
            id: id, group: "g",
            clients: [.init(id: id, connectedSince: "2026-01-02T03:04:05Z", isPaused: false, heldMessages: 0)],
            lastTenSeconds: rate, lastMinute: rate, usualMessagesPerSecond: 1, isUnusual: false, limit: .none,
            refused: [:])
        change(&device)
        return device
    }

    private func page(_ change: (inout GatewayStatus) -> Void = { _ in }) -> String {
        StatusPage.html(Self.status(change)).source
    }

    @Test func nothingOfADeviceIsEverMarkup() {
        let evil = "<script>alert('x')</script>\"&"
        let page = page {
            $0.gateway = evil
            $0.devices.devices = [
                Self.device(evil) {
                    $0.group = evil
                    $0.refused = [evil: 1]
                }
            ]
            $0.health = [evil: .failed(evil)]
            $0.certificates = [.init(name: evil, expiresAt: 1)]
        }
        #expect(!page.contains("<script") && !page.contains("alert('x')"))
        #expect(page.contains("&lt;script&gt;alert(&#39;x&#39;)&lt;/script&gt;&quot;&amp;"))
    }

    @Test func eachRuleOfLocalWorkHasALine() {
        #expect(!page().contains("Local work"))
        let page = page {
            $0.rules = [.init(name: "<b>", held: 7, consumed: 12_345, aggregates: 80)]
        }
        #expect(page.contains("Local work") && page.contains("<td>&lt;b&gt;</td><td class=\"n\">7</td>"))
        #expect(page.contains("12\u{202F}345"))
    }

    @Test func figuresAndVerdict() {
        let good = page()
        #expect(good.contains("in order") && good.contains("12\u{202F}345") && good.contains("50%"))
        #expect(good.contains("up 1 d 1 h") && good.contains("None is connected.") && !good.contains("Waiting for"))
        let late = page {
            $0.uplink = .init(
                url: "https://c", backlogMessages: 4_000, backlogBytes: 1, lag: 3_700, lastSuccess: 1_699_999_940,
                drainTime: 125)
            $0.health = ["uplink": .degraded("why")]
        }
        #expect(late.contains("4\u{202F}000") && late.contains("1 h 1 min") && late.contains("in about 2 min 5 s"))
        #expect(
            late.contains("answered 1 min ago") && late.contains("needs a look") && late.contains("<b>uplink</b> why"))
        #expect(page { $0.health = ["buffer": .failed("x"), "a": .degraded("y")] }.contains("needs help"))
    }

    @Test func theForecastIsSaidInWords() {
        func words(_ drainTime: Int64?, isHeldBack: Bool = false, messages: Int = 1) -> String {
            page {
                var uplink = UplinkSummary(
                    url: "https://c", backlogMessages: messages, backlogBytes: 1, drainTime: drainTime)
                uplink.isHeldBack = isHeldBack
                $0.uplink = uplink
            }
        }
        #expect(words(nil, messages: 0).contains("nothing waits"))
        #expect(words(nil).contains("no forecast yet"))
        #expect(words(0).contains("sent with the next batch"))
        #expect(words(nil, isHeldBack: true).contains("uplink.bytesPerHour is spent: held back until the next hour"))
    }

    @Test func limitedAndUnusualDevicesAreMarked() {
        let page = page {
            $0.devices.devices = [
                Self.device("a") {
                    $0.limit = .slowed
                    $0.isUnusual = true
                    $0.refused = ["rate": 7, "heldFull": 2]
                }, Self.device("b") { $0.clients = [] },
            ]
            $0.devices.leftOut = 3
        }
        #expect(page.contains(">slowed<") && page.contains(">unusual<") && page.contains(">gone<"))
        #expect(page.contains("heldFull 2, rate 7") && page.contains("1 limited, 1 unusual"))
        #expect(page.contains("and 3 more") && page.contains("2.0 KiB") && page.contains("2026-01-02 03:04"))
    }

    @Test func certificatesAreInTheOrderInWhichTheyEnd() throws {
        let page = page {
            $0.certificates = [
                .init(name: "far", expiresAt: $0.now + 100 * 86_400), .init(name: "gone", expiresAt: $0.now - 5),
                .init(name: "near", expiresAt: $0.now + 86_400),
            ]
        }
        let places = try ["gone", "near", "far"].map { try #require(page.range(of: "<td>\($0)")).lowerBound }
        #expect(places == places.sorted())
        #expect(page.contains(">over<") && page.contains(">soon<") && page.contains("100 d"))
    }

    @Test func sparkplugNodesAreShownWhereThereAreAny() {
        #expect(!page().contains("Sparkplug"))
        let page = page {
            $0.sparkplug = SparkplugListing(
                nodes: [
                    .init(
                        name: "G/<E>", state: .offline, bornAt: 1_699_999_940, devices: 3, devicesOnline: 0,
                        lostMessages: 12),
                    .init(name: "G/F", state: .unknown, bornAt: nil, devices: 1, devicesOnline: 1, lostMessages: 0),
                ], count: 5)
        }
        #expect(page.contains("G/&lt;E&gt;") && page.contains(">offline<") && page.contains("0 of 3"))
        #expect(page.contains(">12<") && page.contains("1 min ago") && page.contains("unknown until its next birth"))
        #expect(page.contains("and 3 more"))
    }

    @Test(arguments: [
        (0.0, "0"), (0.001, "<0.01"), (0.256, "0.26"), (1.04, "1.0"), (9.96, "10"), (12_345.6, "12\u{202F}346"),
    ])
    func rates(value: Double, text: String) { #expect(Shown.rate(value) == text) }

    @Test(arguments: [(0.0, "0 B"), (1_023, "1\u{202F}023 B"), (1_536, "1.5 KiB"), (1_073_741_824, "1.0 GiB")])
    func sizes(value: Double, text: String) { #expect(Shown.bytes(value) == text) }

    @Test(arguments: [(-1, "0 s"), (0, "0 s"), (60, "1 min"), (3_605, "1 h"), (93_600, "1 d 2 h"), (61, "1 min 1 s")])
    func durations(value: Int64, text: String) { #expect(Shown.duration(seconds: value) == text) }
}
