import NIOCore

/// What a message of the Sparkplug B namespace is about; raw values are as in the topic (Sparkplug 3.0,
/// "Topics").
package enum SparkplugKind: String, Sendable, CaseIterable {
    case nodeBirth = "NBIRTH"
    case nodeDeath = "NDEATH"
    case nodeData = "NDATA"
    case nodeCommand = "NCMD"
    case deviceBirth = "DBIRTH"
    case deviceDeath = "DDEATH"
    case deviceData = "DDATA"
    case deviceCommand = "DCMD"

    package var isOfDevice: Bool {
        switch self {
        case .deviceBirth, .deviceDeath, .deviceData, .deviceCommand: true
        case .nodeBirth, .nodeDeath, .nodeData, .nodeCommand: false
        }
    }

    package var isBirth: Bool { self == .nodeBirth || self == .deviceBirth }
    package var isDeath: Bool { self == .nodeDeath || self == .deviceDeath }
    package var isCommand: Bool { self == .nodeCommand || self == .deviceCommand }
}

/// An edge node, or a device behind one. Compared by its bytes: names that look alike stay apart.
package struct SparkplugEntity: Hashable, Sendable {
    /// `group/node` or `group/node/device`.
    package let path: [UInt8]
    private let groupLength: Int
    private let nodeLength: Int

    /// The names have no `/` in them.
    package init(group: some Collection<UInt8>, node: some Collection<UInt8>) {
        path = Array(group) + [UInt8(ascii: "/")] + Array(node)
        groupLength = group.count
        nodeLength = path.count
    }

    package init(group: some Collection<UInt8>, node: some Collection<UInt8>, device: some Collection<UInt8>) {
        let nodePath = Array(group) + [UInt8(ascii: "/")] + Array(node)
        path = nodePath + [UInt8(ascii: "/")] + Array(device)
        groupLength = group.count
        nodeLength = nodePath.count
    }

    package var isDevice: Bool { path.count > nodeLength }
    package var group: String { String(decoding: path[..<groupLength], as: UTF8.self) }
    package var nodeName: String { String(decoding: path[(groupLength + 1)..<nodeLength], as: UTF8.self) }
    /// Empty for a node.
    package var deviceName: String {
        isDevice ? String(decoding: path[(nodeLength + 1)...], as: UTF8.self) : ""
    }
    package var text: String { String(decoding: path, as: UTF8.self) }

    /// The node itself, or the one that the device is behind.
    package var node: SparkplugEntity {
        isDevice
            ? SparkplugEntity(group: path[..<groupLength], node: path[(groupLength + 1)..<nodeLength]) : self
    }
}

/// A topic of the Sparkplug B namespace.
package enum SparkplugTopic: Sendable, Equatable {
    case edge(SparkplugKind, SparkplugEntity)
    /// A host application says whether it is there; its payload is JSON.
    case state(host: String)

    private static let prefix: StaticString = "spBv1.0/"

    /// One look at the first bytes, for each message that passes.
    @inline(__always)
    package static func isSparkplug(_ topic: ByteBuffer) -> Bool {
        // "spBv1.0/" as one number.
        topic.getInteger(at: topic.readerIndex, as: UInt64.self) == 0x7370_4276_312E_302F
    }

    /// `nil` for any topic that is not built as the namespace says.
    package init?(_ topic: ByteBuffer) {
        guard Self.isSparkplug(topic) else { return nil }
        let levels = topic.readableBytesView.dropFirst(Self.prefix.utf8CodeUnitCount)
            .split(separator: UInt8(ascii: "/"), omittingEmptySubsequences: false)
        guard levels.allSatisfy({ !$0.isEmpty }) else { return nil }
        if levels.count == 2, levels[0].elementsEqual("STATE".utf8) {
            self = .state(host: String(decoding: levels[1], as: UTF8.self))
            return
        }
        guard 3...4 ~= levels.count,
            let kind = SparkplugKind(rawValue: String(decoding: levels[1], as: UTF8.self)),
            kind.isOfDevice == (levels.count == 4)
        else { return nil }
        self = .edge(
            kind,
            kind.isOfDevice
                ? SparkplugEntity(group: levels[0], node: levels[2], device: levels[3])
                : SparkplugEntity(group: levels[0], node: levels[2]))
    }
}
