import Flow
import Logging
import MQTTSession
import MQTTWire
import NIOCore
import NIOSSL
import Operations

/// What goes to the client, how much of it may wait, and how a connection ends.
extension MQTTConnectionHandler {
    /// Bytes that are given to the socket without waiting for the end of the cycle, so that it is known in the midst of a burst
    /// whether it takes more.
    private static let writeSize = 64 * 1024
    /// How long the last bytes may take to leave before the socket is closed all the same.
    private static let closeTimeout = TimeAmount.seconds(5)
    /// How long a client may take to close its side of a connection that was ended.
    private static let lingerTimeout = TimeAmount.seconds(1)

    func acknowledge(_ kind: AcknowledgementKind, packetID: UInt16) {
        guard state != .closing else { return }
        outbound.writeAcknowledgement(kind: kind.rawValue, packetID: packetID)
        touch()
    }

    func send(_ packet: Packet) {
        guard state != .closing else { return }
        guard outbound.write(packet, version: version, maximumSize: Int(maximumOutgoingPacket)) else {
            // MQTT-3.1.2-24: it may not be sent. The client waits for it, and would for ever.
            log(.packetTooLarge, "An answer has more than the \(maximumOutgoingPacket) bytes that the client takes.")
            close(.packetTooLarge)
            return
        }
        touch()
    }

    /// The broker has judged the receiver's maximum packet size and whether its socket takes more.
    func deliver(_ delivery: Delivery, at gatewayTime: Int64, encodings: inout DeliveryEncodings) {
        guard state != .closing else { return }
        encodings.encoding(of: delivery.message, version: version, qos: delivery.qos, at: gatewayTime).write(
            to: &outbound, packetID: delivery.packetID, retain: delivery.retain, duplicate: delivery.duplicate,
            subscriptionIdentifiers: delivery.subscriptionIdentifiers, topic: delivery.topic)
        touch()
    }

    private func touch() {
        if !isTouched {
            isTouched = true
            driver.touch(self)
        }
        if outbound.readableBytes >= Self.writeSize { write() }
    }

    func flush() {
        isTouched = false
        write()
    }

    private func write() {
        guard let context, outbound.readableBytes > 0, state != .closing else { return }
        let bytes = outbound
        outbound = ByteBuffer()
        hasWritten = true
        context.writeAndFlush(wrapOutboundOut(bytes), promise: nil)
        if drain != nil, pendingBytes() > driver.slowReaderBytes {
            endSlowReader("\(driver.slowReaderBytes) bytes wait for it.")
        }
    }

    // MARK: slow readers

    func channelWritabilityChanged(context: ChannelHandlerContext) {
        let isWritable = context.channel.isWritable
        drain = isWritable ? nil : DrainWatch(pending: pendingBytes(), at: EdgeClock.monotonicTime())
        if let id, state == .connected { driver.writabilityChanged(id, isWritable: isWritable) }
        context.fireChannelWritabilityChanged()
    }

    /// Ends a connection whose client takes nothing of what waits for it.
    ///
    /// - Parameter now: microseconds on the monotonic clock.
    func judgeReader(at now: Int64) {
        let timeout = driver.limits.slowReaderTimeout
        guard state == .connected,
            drain?.isStuck(pending: pendingBytes(), at: now, timeout: Int64(timeout) * 1_000_000) == true
        else { return }
        endSlowReader("it has taken nothing for \(timeout) s.")
    }

    private func pendingBytes() -> Int {
        let waiting = try? context?.channel.syncOptions?.getOption(.bufferedWritableBytes)
        return outbound.readableBytes + (waiting ?? 0)
    }

    /// No DISCONNECT: it would wait behind what the client does not read.
    private func endSlowReader(_ why: String) {
        guard state == .connected, let id else { return }
        log(.slowReader, "The client does not read: \(why)")
        closeReason = .slowReader
        state = .closing
        outbound = ByteBuffer()
        driver.abandon(id, reason: .slowReader)
        closeNow()
    }

    // MARK: the end

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
            closeNow()
            return
        }
        let done = context.eventLoop.makePromise(of: Bool.self)
        let bound = NIOLoopBound(self, eventLoop: context.eventLoop)
        let timer = context.eventLoop.scheduleTask(in: Self.closeTimeout) { done.succeed(false) }
        done.futureResult.whenComplete { result in
            timer.cancel()
            let handler = bound.value
            if case .success(true) = result {
                handler.closeOrLinger()
            } else {
                handler.closeNow()
            }
        }
        // An empty write completes when everything before it has left.
        let left = context.eventLoop.makePromise(of: Void.self)
        left.futureResult.map { true }.cascade(to: done)
        context.writeAndFlush(wrapOutboundOut(ByteBuffer()), promise: left)
    }

    /// A socket that is closed with unread input is reset, and a reset takes away what the client has not read yet, above all
    /// the DISCONNECT that says why. So the output alone ends, and what still comes is read into nothing until the client
    /// has closed too. With TLS the library waits for the client's goodbye in the same way.
    private func closeOrLinger() {
        guard let context else { return }
        guard listener.tls == nil, closeReason != .clientDisconnected else {
            context.close(promise: nil)
            return
        }
        let bound = NIOLoopBound(self, eventLoop: context.eventLoop)
        context.eventLoop.scheduleTask(in: Self.lingerTimeout) { bound.value.closeNow() }
        context.close(mode: .output, promise: nil)
        context.read()
    }

    /// Closes the socket without TLS's goodbye, for which a client that does not read or has no TLS yet would be waited for.
    func closeNow() {
        guard let context else { return }
        let tls = try? context.pipeline.syncOperations.context(handlerType: NIOSSLServerHandler.self)
        (tls ?? context).close(promise: nil)
    }

    func log(
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
