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
    private(set) var state = State.opening
    private(set) var version = ProtocolVersion.v311
    /// The device's certificate, kept so that it can be judged again when trust changes.
    private(set) var certificate: NIOSSLCertificate?
    private var context: ChannelHandlerContext?
    private var decoder: PacketDecoder
    private var inbound = ByteBuffer()
    private var outbound = ByteBuffer()
    private var isTouched = false
    private var hasWritten = false
    private var isPaused = false
    private var isHeldBySaturation = false
    private var readIsOwed = false
    private var openingTimer: Scheduled<Void>?
    private var closeReason: CloseReason?
    /// Set by the verification in the handshake, before the error of the handshake comes.
    private let handshakeRefusal: NIOLockedValueBox<CertificateRefusal?>
    /// Who is at the other end, for the log.
    private var identity: (device: String, client: String)?
    /// What the client said it takes at most in one packet (MQTT 5.0, 3.1.2.11.4).
    private var maximumOutgoingPacket = UInt32.max

    /// Bytes that wait for a slow reader before it is disconnected.
    static let slowReaderLimit = 8 * 1024 * 1024
    /// How long the last bytes may take to leave before the socket is closed all the same.
    static let closeTimeout = TimeAmount.seconds(5)

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
        id = driver.register(self, maximum: listener.maximumConnections)
        guard id != nil else {
            log(.tooManyConnections, "A connection was refused: the cap on connections is reached.")
            closeReason = .tooManyConnections
            driver.metrics.closed(.tooManyConnections)
            context.close(promise: nil)
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

    private func decode() {
        let now = driver.now()
        while state != .closing, !isPaused {
            if driver.isSaturated {
                isHeldBySaturation = true
                break
            }
            do {
                guard let packet = try decoder.next(&inbound) else { break }
                handle(packet, at: now)
            } catch {
                malformed(error)
            }
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
        switch listener.identify(certificate, at: EdgeClock.wallSeconds()) {
        case .success(let identity):
            state = .connected
            self.identity = (identity.deviceID ?? connect.clientID, connect.clientID)
            driver.connect(connect, on: id, identity: identity)
        case .failure(let refusal):
            log(refusal.reason, refusal.description, client: connect.clientID, certificate: refusal.certificate)
            send(.connack(ConnAck(reason: .notAuthorized)))
            close(refusal.reason)
        }
    }

    private func malformed(_ error: DecodingError) {
        let reason = CloseReason(error)
        log(reason, "\(error)")
        guard let id else { return }
        if state == .connected {
            driver.refuse(id, reason: reason)
            driver.performActions()
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
        guard state == .connected, let id,
            case .failure(let refusal) = listener.identify(certificate, at: EdgeClock.wallSeconds())
        else { return }
        log(refusal.reason, refusal.description, certificate: refusal.certificate)
        driver.refuse(id, reason: refusal.reason)
    }

    // MARK: reading is withheld

    func read(context: ChannelHandlerContext) {
        if isPaused || driver.isSaturated || !driver.acceptsInput {
            readIsOwed = true
            isHeldBySaturation = isHeldBySaturation || driver.isSaturated
        } else {
            context.read()
        }
    }

    func setPaused(_ paused: Bool) {
        guard isPaused != paused else { return }
        isPaused = paused
        if !paused { resume() }
    }

    func resumeIfSaturated() {
        guard isHeldBySaturation else { return }
        isHeldBySaturation = false
        resume()
    }

    /// Decodes what had already been read, in a cycle of its own, then reads on.
    private func resume() {
        guard let context else { return }
        let bound = NIOLoopBound(self, eventLoop: context.eventLoop)
        context.eventLoop.execute {
            let handler = bound.value
            guard handler.state != .closing, !handler.isPaused, let context = handler.context else { return }
            handler.decode()
            handler.driver.cycleEnded()
            if handler.readIsOwed, !handler.isPaused, !handler.driver.isSaturated {
                handler.readIsOwed = false
                context.read()
            }
        }
    }

    // MARK: output

    func acknowledge(_ kind: AcknowledgementKind, packetID: UInt16) {
        guard state != .closing else { return }
        outbound.writeAcknowledgement(kind: kind.rawValue, packetID: packetID)
        touch()
    }

    func send(_ packet: Packet) {
        guard state != .closing else { return }
        outbound.write(packet, version: version, maximumSize: Int(maximumOutgoingPacket))
        touch()
    }

    /// The broker has judged the receiver's maximum packet size and whether its socket takes more.
    func deliver(_ delivery: Delivery, at wallTime: Int64, encodings: inout DeliveryEncodings) {
        guard state != .closing else { return }
        encodings.encoding(of: delivery.message, version: version, qos: delivery.qos, at: wallTime).write(
            to: &outbound, packetID: delivery.packetID, retain: delivery.retain, duplicate: delivery.duplicate,
            subscriptionIdentifiers: delivery.subscriptionIdentifiers, topic: delivery.topic)
        touch()
    }

    func channelWritabilityChanged(context: ChannelHandlerContext) {
        if let id, state == .connected {
            driver.writabilityChanged(id, isWritable: context.channel.isWritable)
        }
        context.fireChannelWritabilityChanged()
    }

    private func pendingBytes() -> Int {
        let waiting = try? context?.channel.syncOptions?.getOption(.bufferedWritableBytes)
        return outbound.readableBytes + (waiting ?? 0)
    }

    private func touch() {
        if !isTouched {
            isTouched = true
            driver.touch(self)
        }
    }

    func flush() {
        isTouched = false
        guard let context, outbound.readableBytes > 0, state != .closing else { return }
        let bytes = outbound
        outbound = ByteBuffer()
        hasWritten = true
        context.writeAndFlush(wrapOutboundOut(bytes), promise: nil)
        if !context.channel.isWritable, pendingBytes() > Self.slowReaderLimit {
            log(.slowReader, "The client does not read: \(Self.slowReaderLimit) bytes wait for it.")
            closeReason = .slowReader
            context.close(promise: nil)
        }
    }

    /// Lets what was written leave, then closes.
    func close(_ reason: CloseReason) {
        guard state != .closing, let context else { return }
        closeReason = reason
        if identity != nil, reason != .clientDisconnected, reason != .serverShuttingDown {
            log(reason, "The connection is ended.")
        }
        flush()
        state = .closing
        openingTimer?.cancel()
        guard hasWritten else {
            // Nothing can be waiting, and before the handshake is done nothing would ever leave.
            context.close(promise: nil)
            return
        }
        let done = context.eventLoop.makePromise(of: Void.self)
        let bound = NIOLoopBound(context, eventLoop: context.eventLoop)
        let timer = context.eventLoop.scheduleTask(in: Self.closeTimeout) { done.succeed() }
        done.futureResult.whenComplete { _ in
            timer.cancel()
            bound.value.close(promise: nil)
        }
        // An empty write completes when everything before it has left.
        context.writeAndFlush(wrapOutboundOut(ByteBuffer()), promise: done)
    }

    private func log(
        _ reason: CloseReason, _ message: @autoclosure () -> String, client: String? = nil, certificate: String? = nil
    ) {
        var metadata: [LogKey: Logger.MetadataValue] = [
            .reason: "\(reason.rawValue)", .listener: "\(listener.name)",
        ]
        if let remote = context?.remoteAddress { metadata[.remote] = "\(remote)" }
        if let client { metadata[.client] = "\(client)" }
        if let identity {
            metadata[.device] = "\(identity.device)"
            metadata[.client] = "\(identity.client)"
        }
        if let certificate { metadata[.certificate] = "\(certificate)" }
        driver.logger.notice("\(message())", metadata)
    }
}
