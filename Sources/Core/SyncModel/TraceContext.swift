import NIOCore

extension SyncedMessage {
    /// The W3C `traceparent` of this message: the publisher's own where its properties carry a valid one, else derived
    /// from the identity, so that every part of the way computes the same without carrying it.
    ///
    /// Derived: the trace id is the epoch's halves combined (never zero) and the sequence, the parent id is the
    /// sequence; not sampled, since no span was recorded.
    package func traceparent(epoch: Epoch) -> String {
        if let own = ownTraceparent { return own }
        let mixed = epoch.high ^ epoch.low
        let sequence = hexadecimal(sequence)
        return "00-\(hexadecimal(mixed == 0 ? 1 : mixed))\(sequence)-\(sequence)-00"
    }

    /// What the publisher gave it; `nil` where that is nothing or not valid.
    package var ownTraceparent: String? {
        properties.readableBytes > 0 ? Self.traceparent(in: properties) : nil
    }

    /// The first valid `traceparent` user property in MQTT 5.0 properties, as of version 00.
    private static func traceparent(in properties: ByteBuffer) -> String? {
        var rest = properties
        while let identifier = rest.readInteger(as: UInt8.self) {
            guard identifier == PropertyLayout.userProperty else {
                guard PropertyLayout.skip(identifier, in: &rest) else { return nil }
                continue
            }
            guard let name = rest.readLengthPrefixedSlice(as: UInt16.self),
                let value = rest.readLengthPrefixedSlice(as: UInt16.self)
            else { return nil }
            if name.readableBytesView.elementsEqual("traceparent".utf8),
                let valid = validTraceparent(Array(value.readableBytesView))
            {
                return valid
            }
        }
        return nil
    }

    /// `version-traceid-parentid-flags` (W3C Trace Context, 3.2): lower-case digits, neither id all zero. Of a later
    /// version the first four fields are taken, as the standard says.
    private static func validTraceparent(_ text: [UInt8]) -> String? {
        let dash = UInt8(ascii: "-")
        guard text.count >= 55, text[2] == dash, text[35] == dash, text[52] == dash else { return nil }
        let version = text[0..<2]
        guard isLowerHex(version), !version.elementsEqual("ff".utf8) else { return nil }
        let isFirstVersion = version.elementsEqual("00".utf8)
        guard text.count == 55 || (!isFirstVersion && text[55] == dash) else { return nil }
        let trace = text[3..<35]
        let parent = text[36..<52]
        guard isLowerHex(trace), isLowerHex(parent), isLowerHex(text[53..<55]),
            trace.contains(where: { $0 != UInt8(ascii: "0") }), parent.contains(where: { $0 != UInt8(ascii: "0") })
        else { return nil }
        return "00" + String(decoding: text[2..<55], as: UTF8.self)
    }

    private static func isLowerHex(_ bytes: ArraySlice<UInt8>) -> Bool {
        bytes.allSatisfy {
            UInt8(ascii: "0")...UInt8(ascii: "9") ~= $0 || UInt8(ascii: "a")...UInt8(ascii: "f") ~= $0
        }
    }
}

/// How long each property of MQTT 5.0 is (table 2-4), to walk over those that do not matter here.
private enum PropertyLayout {
    static let userProperty: UInt8 = 0x26

    /// `false` when the property is unknown or runs past the end.
    static func skip(_ identifier: UInt8, in buffer: inout ByteBuffer) -> Bool {
        switch identifier {
        case 0x01, 0x17, 0x19, 0x24, 0x25, 0x28, 0x29, 0x2A: buffer.readSlice(length: 1) != nil
        case 0x13, 0x21, 0x22, 0x23: buffer.readSlice(length: 2) != nil
        case 0x02, 0x11, 0x18, 0x27: buffer.readSlice(length: 4) != nil
        case 0x03, 0x08, 0x09, 0x12, 0x15, 0x16, 0x1A, 0x1C, 0x1F:
            buffer.readLengthPrefixedSlice(as: UInt16.self) != nil
        case 0x0B: skipVariableByteInteger(in: &buffer)
        default: false
        }
    }

    private static func skipVariableByteInteger(in buffer: inout ByteBuffer) -> Bool {
        for _ in 0..<4 {
            guard let byte = buffer.readInteger(as: UInt8.self) else { return false }
            if byte < 0x80 { return true }
        }
        return false
    }
}
