import Flow
import Logging
import MQTTSession
import MQTTWire
import NIOConcurrencyHelpers
import NIOCore
import NIOSSL
import Operations
import PKI

/// One device's connection: bytes to packets and back. What a packet means is the broker's business.
///
/// States: `opening` (TLS and CONNECT are awaited, bounded by `connectTimeout`) → `connected` → `closing` (what was written
/// is flushed, nothing is read any more).
final class MQTTConnectionHandler: ChannelDuplexHandler {
    typealias InboundIn = ByteBuffer
    typealias OutboundIn = ByteBuffer
    typealias OutboundOut = ByteBuffer

    enum State { case opening, connected, closing }

    let driver: GatewayDriver
    let listener: GatewayListener
    private(set) var id: ConnectionID?
    var state = State.opening
    private(set) var version = ProtocolVersion.v311
    /// The device's certificate, kept so that it can be judged again when trust changes.
    private(set) var certificate: NIOSSLCertificate?
    /// Of the certificate; big-endian.
    private(set) var serial: [UInt8] = []
    /// When the certificate or its authority expires; seconds since 1970.
    private(set) var validUntil = Int64.max
    /// It waits in the driver's queue for that.
    var isToBeJudged = false
    var context: ChannelHandlerContext?
    private var decoder: PacketDecoder
    private var inbound = ByteBuffer()
    var outbound = ByteBuffer()
    var isTouched = false
    var hasWritten = false
    /// While the socket takes no more.
    var drain: DrainWatch?
    private var isPaused = false
    private var readIsOwed = false
    var openingTimer: Scheduled<Void>?
    var closeReason: CloseReason?
    /// Set by the verification in the handshake, before the error of the handshake comes.
    private let handshakeRefusal: NIOLockedValueBox<CertificateRefusal?>
    /// Who is at the other end, for the log.
    private(set) var identity: (device: String, client: String)?
    /// What the client said it takes at most in one packet (MQTT 5.0, 3.1.2.11.4).
    private(set) var maximumOutgoingPacket = UInt32.max

    init(
        driver: GatewayDriver, listener: GatewayListener, handshakeRefusal: NIOLockedValueBox<CertificateRefusal?>
    ) {
        self.handshakeRefusal = handshakeRefusal
        self.driver = driver
        self.listener = listener
        self.decoder = PacketDecoder(maximumPacketSize: driver.limits.maximumPacketSize)
    }

    // MARK: life

    func handlerAdded(context: ChannelHandlerContext) {
        self.context = context
        id = driver.register(self)
        guard id != nil else {
            log(.tooManyConnections, "A connection was refused: the cap on connections is reached.")
            closeReason = .tooManyConnections
            driver.metrics.closed(.tooManyConnections)
            closeNow()
            return
        }
        let bound = NIOLoopBound(self, eventLoop: context.eventLoop)
        openingTimer = context.eventLoop.scheduleTask(in: .seconds(Int64(driver.limits.connectTimeout))) {
            bound.value.openingTimedOut()
        }
    }

    func handlerRemoved(context: ChannelHandlerContext) {
        openingTimer?.cancel()
        self.context = nil
    }

    func channelInactive(context: ChannelHandlerContext) {
        openingTimer?.cancel()
        decodeLastInput()
        let reason = closeReason ?? .networkClosed
        state = .closing
        inbound = ByteBuffer()
        outbound = ByteBuffer()
        if let id {
            driver.metrics.closed(reason)
            driver.connectionClosed(id, reason: reason)
            self.id = nil
        }
        context.fireChannelInactive()
    }

    private func openingTimedOut() {
        guard state == .opening else { return }
        let handshakeDone = listener.tls == nil || peerCertificate() != nil
        log(
            handshakeDone ? .connectTimeout : .handshakeTimeout,
            "No CONNECT came within \(driver.limits.connectTimeout) s.")
        close(handshakeDone ? .connectTimeout : .handshakeTimeout)
    }

    func errorCaught(context: ChannelHandlerContext, error: any Error) {
        if state != .closing, closeReason == nil {
            if let refusal = handshakeRefusal.withLockedValue({ $0 }) {
                let refusal = IdentityRefusal(refusal)
                log(refusal.reason, "The TLS handshake was refused. \(refusal.description)")
                closeReason = refusal.reason
            } else {
                let reason = TLSFailure.closeReason(of: error)
                log(reason, "The connection failed: \(TLSFailure.describe(error))")
                closeReason = reason
            }
        }
        context.close(promise: nil)
    }

    // MARK: input

    func channelRead(context: ChannelHandlerContext, data: NIOAny) {
        guard state != .closing else { return }
        var bytes = unwrapInboundIn(data)
        if inbound.readableBytes == 0 {
            inbound = bytes
        } else {
            inbound.writeBuffer(&bytes)
        }
        decode()
    }

    func channelReadComplete(context: ChannelHandlerContext) {
        driver.cycleEnded()
        context.fireChannelReadComplete()
    }

    /// What came while reading was withheld, and before the end: a DISCONNECT among it discards the will.
    private func decodeLastInput() {
        if state == .connected { decode(isLast: true) }
    }

    private func decode(isLast: Bool = false) {
        let now = driver.now()
        while state != .closing, !isPaused || isLast {
            do {
                guard let packet = try decoder.next(&inbound) else { break }
                handle(packet, at: now)
            } catch {
                malformed(error)
            }
            // At once: a pause ends this loop, and a subscriber that takes no more is known before the next message.
            driver.performActions()
        }
        keepRemainder()
    }

    /// Copies an incomplete packet out of the socket's buffer, whose storage the messages of this read may share: appending
    /// to shared storage would copy all of it.
    private func keepRemainder() {
        if state == .closing || inbound.readableBytes == 0 {
            inbound = ByteBuffer()
        } else if inbound.readerIndex > 0 {
            var remainder = ByteBuffer()
            remainder.reserveCapacity(max(512, inbound.readableBytes * 2))
            remainder.writeImmutableBuffer(inbound)
            inbound = remainder
        }
    }

    private func handle(_ packet: Packet, at now: BrokerTime) {
        guard let id else { return }
        if state == .connected {
            driver.received(packet, on: id, at: now)
        } else if case .connect(let connect) = packet {
            accept(connect, on: id)
        } else {
            log(.protocolError, "The first packet was no CONNECT (MQTT-3.1.0-1).")
            close(.protocolError)
        }
    }

    private func accept(_ connect: Connect, on id: ConnectionID) {
        version = connect.version
        maximumOutgoingPacket = connect.maximumPacketSize ?? .max
        openingTimer?.cancel()
        openingTimer = nil
        certificate = peerCertificate()
        switch listener.identify(certificate, at: driver.judgingSeconds) {
        case .success(let client):
            state = .connected
            identity = (client.identity.deviceID ?? connect.clientID, connect.clientID)
            (serial, validUntil) = (client.serial, client.validUntil)
            driver.connect(connect, on: id, identity: client.identity)
        case .failure(let refusal):
            log(refusal.reason, refusal.description, client: connect.clientID, certificate: refusal.certificate)
            var connack = ConnAck(reason: .notAuthorized)
            if driver.limits.discloseReasons { connack.reasonString = refusal.reason.reasonString }
            send(.connack(connack))
            close(refusal.reason)
        }
    }

    private func malformed(_ error: DecodingError) {
        let reason = CloseReason(error)
        log(reason, "\(error)")
        guard let id else { return }
        if state == .connected {
            driver.refuse(id, reason: reason)
        } else {
            if error.reason == .unsupportedProtocolVersion {
                send(.connack(ConnAck(reason: .unsupportedProtocolVersion)))
            }
            close(reason)
        }
    }

    private func peerCertificate() -> NIOSSLCertificate? {
        guard let context, listener.tls != nil else { return nil }
        return try? context.pipeline.syncOperations.handler(type: NIOSSLServerHandler.self).peerCertificate
    }

    /// Ends the session when the certificate it was opened with is no longer good.
    func judgeAgain() {
        isToBeJudged = false
        guard state == .connected, let id else { return }
        switch listener.identify(certificate, at: driver.judgingSeconds) {
        case .success(let client): validUntil = client.validUntil
        case .failure(let refusal):
            log(refusal.reason, refusal.description, certificate: refusal.certificate)
            driver.refuse(id, reason: refusal.reason)
        }
    }

    // MARK: reading is withheld

    func read(context: ChannelHandlerContext) {
        if state != .closing, isPaused || !driver.mayRead() {
            readIsOwed = true
        } else {
            context.read()
        }
    }

    func setPaused(_ paused: Bool) {
        guard isPaused != paused else { return }
        isPaused = paused
        if !paused { resume() }
    }

    /// Decodes what had already been read, in a cycle of its own, then reads on.
    private func resume() {
        guard let context else { return }
        let bound = NIOLoopBound(self, eventLoop: context.eventLoop)
        context.eventLoop.execute {
            let handler = bound.value
            guard handler.state != .closing, !handler.isPaused else { return }
            handler.decode()
            handler.driver.cycleEnded()
            handler.readOn()
        }
    }

    /// A read that was withheld, if it may be done now.
    func readOn() {
        guard readIsOwed, state != .closing, !isPaused, let context, driver.mayRead() else { return }
        readIsOwed = false
        context.read()
    }
}
