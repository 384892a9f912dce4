import DequeModule
import MQTTWire
import NIOCore

/// One device: keeps its window full. Acknowledgements of a read are answered by one write and one flush.
final class Publisher: ChannelDuplexHandler {
    typealias InboundIn = ByteBuffer
    typealias OutboundIn = ByteBuffer
    typealias OutboundOut = ByteBuffer

    private enum State {
        case opening
        case accepted
        case closed
    }

    private let id: String
    /// Breaks with the channel: cleared when it closes.
    private var load: Load?
    private var state = State.opening
    private var context: ChannelHandlerContext?
    private var decoder: PacketDecoder
    private var unread = ByteBuffer()
    private var lastError = "the broker closed the connection"

    /// An encoded PUBLISH; the packet identifier is patched in.
    private let template: ByteBuffer
    private let packetIDOffset: Int
    private let qos: QoS
    private let inFlight: Int
    /// When the message with packet identifier index + 1 was written; nanoseconds.
    private var sentAt: [Int64]
    /// Packet identifiers whose exchange ended, to be used again.
    private var free: [UInt16]
    /// PUBRELs that the last read asked for.
    private var releases: [UInt16] = []
    /// With a given rate, or none at all: when the messages that wait for a packet identifier were to be sent; nanoseconds.
    private var due: Deque<Int64> = []
    private let isPaced: Bool
    /// QoS 0: when the batches whose PINGRESP is awaited were written; nanoseconds.
    private var batches: Deque<Int64> = []

    init(id: String, load: Load) {
        let settings = load.settings
        self.id = id
        self.load = load
        decoder = PacketDecoder(maximumPacketSize: 1 << 20)
        decoder.version = settings.version
        qos = settings.qos
        inFlight = settings.inFlight
        isPaced = settings.rate != nil || settings.isIdle
        let topic = ByteBuffer(string: settings.topic(ofDevice: id))
        let publish = Publish(
            topic: topic, payload: settings.payloadBytes, packetID: 1,
            qos: qos)
        var encoded = ByteBuffer()
        encoded.write(.publish(publish), version: settings.version)
        template = encoded
        let afterID = settings.payload + (settings.version == .v5 ? 1 : 0)
        packetIDOffset = encoded.readableBytes - afterID - 2
        sentAt = Array(repeating: 0, count: inFlight)
        free = (1...UInt16(inFlight)).reversed()
    }

    // MARK: - Called by `Load`

    func begin() {
        guard let context, state == .accepted else { return }
        if qos == .atMostOnce {
            writeBatch(context)
            writeBatch(context)
        } else {
            answer(context)
        }
    }

    /// A message that was to be sent at `time`, whether it can be sent now or not: its latency counts from there.
    func offer(at time: Int64) {
        guard let context, state == .accepted else { return }
        due.append(time)
        answer(context)
    }

    func end() {
        guard let context else { return }
        var bytes = ByteBuffer()
        bytes.write(.disconnect(Disconnect()), version: decoder.version ?? .v311)
        context.writeAndFlush(wrapOutboundOut(bytes), promise: nil)
        context.close(promise: nil)
    }

    // MARK: - Channel

    func handlerAdded(context: ChannelHandlerContext) { self.context = context }

    func handlerRemoved(context: ChannelHandlerContext) {
        self.context = nil
        load = nil
    }

    func channelActive(context: ChannelHandlerContext) {
        var bytes = ByteBuffer()
        let version = decoder.version ?? .v311
        bytes.write(
            .connect(Connect(version: version, clientID: id, cleanStart: true, keepAlive: 60)), version: version)
        context.writeAndFlush(wrapOutboundOut(bytes), promise: nil)
    }

    func channelRead(context: ChannelHandlerContext, data: NIOAny) {
        var incoming = unwrapInboundIn(data)
        if unread.readableBytes == 0 {
            unread = incoming
        } else {
            unread.writeBuffer(&incoming)
        }
        let now = Int64(truncatingIfNeeded: NIODeadline.now().uptimeNanoseconds)
        while unread.readableBytes > 0 {
            // The four bytes of an acknowledgement with success, without the decoder.
            if let word = unread.getInteger(at: unread.readerIndex, as: UInt32.self), acknowledge(word, now) {
                unread.moveReaderIndex(forwardBy: 4)
                continue
            }
            do {
                guard let packet = try decoder.next(&unread) else { break }
                handle(packet, now)
            } catch {
                fail(context, "\(error)")
                return
            }
        }
    }

    func channelReadComplete(context: ChannelHandlerContext) {
        if qos != .atMostOnce, state == .accepted { answer(context) }
    }

    func errorCaught(context: ChannelHandlerContext, error: any Error) { fail(context, "\(error)") }

    func channelInactive(context: ChannelHandlerContext) {
        load?.lost(id, lastError, wasAccepted: state == .accepted)
        state = .closed
    }

    private func fail(_ context: ChannelHandlerContext, _ why: String) {
        lastError = why
        context.close(promise: nil)
    }

    // MARK: - Packets

    @inline(__always)
    private func acknowledge(_ word: UInt32, _ now: Int64) -> Bool {
        let packetID = UInt16(truncatingIfNeeded: word)
        switch word >> 16 {
        case 0x4002 where qos == .atLeastOnce, 0x7002 where qos == .exactlyOnce: complete(packetID, now)
        case 0x5002 where qos == .exactlyOnce: releases.append(packetID)
        default: return false
        }
        return true
    }

    private func complete(_ packetID: UInt16, _ now: Int64) {
        guard packetID > 0, Int(packetID) <= inFlight else {
            load?.noteError("\(id): an acknowledgement of packet identifier \(packetID), which was not used")
            return
        }
        load?.completed(after: now - sentAt[Int(packetID) - 1])
        free.append(packetID)
    }

    private func handle(_ packet: Packet, _ now: Int64) {
        switch packet {
        case .connack(let connack):
            guard state == .opening, !connack.reason.isFailure else {
                lastError = "CONNACK with reason \(connack.reason.rawValue)"
                return
            }
            if let maximum = connack.receiveMaximum, Int(maximum) < inFlight {
                load?.noteError("\(id): the broker takes \(maximum) in flight, asked for were \(inFlight)")
            }
            state = .accepted
            load?.wasAccepted()
        case .puback(let ack), .pubcomp(let ack):
            note(ack)
            complete(ack.packetID, now)
        case .pubrec(let ack):
            note(ack)
            // A failure ends the exchange (MQTT-4.3.3).
            if ack.reason.isFailure { complete(ack.packetID, now) } else { releases.append(ack.packetID) }
        case .pingresp:
            // Input is handled in its order: all messages before the PINGREQ were taken.
            guard let began = batches.popFirst() else { return }
            for _ in 0..<inFlight { load?.completed(after: now - began) }
            if let context { writeBatch(context) }
        case .disconnect(let disconnect):
            lastError = "DISCONNECT with reason \(disconnect.reason.rawValue) \(disconnect.reasonString ?? "")"
        default:
            break
        }
    }

    private func note(_ ack: Acknowledgement) {
        guard ack.reason.isFailure else { return }
        load?.noteError("\(id): refused with reason \(ack.reason.rawValue) \(ack.reasonString ?? "")")
    }

    // MARK: - Writing

    /// Writes what the last read set free: PUBRELs, and a new message for each packet identifier.
    private func answer(_ context: ChannelHandlerContext) {
        guard let load, !load.isStopped else { return }
        let count = isPaced ? min(free.count, due.count) : free.count
        guard count > 0 || !releases.isEmpty else { return }
        let size = template.readableBytes
        var out = context.channel.allocator.buffer(capacity: count * size + releases.count * 4)
        for packetID in releases { out.writeInteger(0x6202_0000 | UInt32(packetID)) }
        releases.removeAll(keepingCapacity: true)
        let now = Int64(truncatingIfNeeded: NIODeadline.now().uptimeNanoseconds)
        for packetID in free.suffix(count) {
            let start = out.writerIndex
            out.writeImmutableBuffer(template)
            out.setInteger(packetID, at: start + packetIDOffset)
            sentAt[Int(packetID) - 1] = isPaced ? due.removeFirst() : now
        }
        free.removeLast(count)
        context.writeAndFlush(wrapOutboundOut(out), promise: nil)
    }

    /// QoS 0 has no acknowledgement, so a PINGREQ follows each batch of as many messages as would be in flight.
    private func writeBatch(_ context: ChannelHandlerContext) {
        guard let load, !load.isStopped else { return }
        var out = context.channel.allocator.buffer(capacity: inFlight * template.readableBytes + 2)
        for _ in 0..<inFlight { out.writeImmutableBuffer(template) }
        out.writeInteger(UInt16(0xC000))
        batches.append(Int64(truncatingIfNeeded: NIODeadline.now().uptimeNanoseconds))
        context.writeAndFlush(wrapOutboundOut(out), promise: nil)
    }
}
