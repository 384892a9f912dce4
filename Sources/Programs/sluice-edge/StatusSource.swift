import Buffer
import Gateway
import Operations
import PKI
import Uplink

/// What the status page shows, put together from those who know it.
struct StatusSource: Sendable {
    let gateway: GatewayService
    let buffer: Buffer
    let health: HealthRegistry
    /// `nil`: a local broker.
    let uplink: EdgeConfiguration.Uplink?
    let sync: UplinkService?

    func page() async -> StatusResponse {
        var states = await health.ready().states
        for (name, state) in health.live().states where state != .good { states[name] = state }
        return StatusPage.response(
            await gateway.status(
                uplink: uplink.map(summary), certificates: uplink.flatMap(certificate).map { [$0] } ?? [],
                health: states, maximumDevices: StatusPage.maximumDevices))
    }

    private func summary(_ uplink: EdgeConfiguration.Uplink) -> UplinkSummary {
        let fill = buffer.fill()
        let status = sync?.status
        var summary = UplinkSummary(
            url: uplink.url, backlogMessages: fill.messages - fill.held.messages,
            backlogBytes: fill.bytes - fill.held.bytes,
            lag: fill.oldestFrame.map { max(0, SystemClock.wallMicroseconds() - $0) / 1_000_000 },
            lastSuccess: status?.lastSuccess.map(Int64.init), drainTime: status?.drainSeconds.map { Int64($0) },
            refusedBatches: status?.isRefused == true ? 1 : 0)
        summary.isHeldBack = status?.isHeldBack == true
        return summary
    }

    private func certificate(_ uplink: EdgeConfiguration.Uplink) -> CertificateStatus? {
        (try? TrustStore.expiry(ofCertificate: uplink.certificate)).map {
            CertificateStatus(name: "this gateway, for the cloud", expiresAt: $0)
        }
    }
}
