import X509

extension TrustStore {
    /// What a reload has changed, and so which of the connected peers have to be judged again.
    package enum Change: Sendable, Equatable {
        case none
        /// Those whose serial a list names.
        case lists
        /// All of them.
        case authorities
    }

    package func change(from old: TrustStore) -> Change {
        if anchors.map(\.certificate) != old.anchors.map(\.certificate) { return .authorities }
        return lists == old.lists ? .none : .lists
    }

    /// Whether a list names the serial, whoever has issued it: a quick look at many peers, not a judgement.
    ///
    /// - Parameter serial: big-endian, as `PeerIdentity` has it.
    package func names(serial: [UInt8]) -> Bool {
        lists.contains { $0.contains(Certificate.SerialNumber(bytes: serial)) }
    }

    /// When the first of the lists is due to be replaced, in seconds since 1970; `nil` where none says so.
    package var nextUpdate: Int64? { lists.compactMap(\.nextUpdate).min() }

    /// When the first certificate of a PEM file expires, in seconds since 1970.
    package static func expiry(ofCertificate file: String) throws(TrustError) -> Int64 {
        try certificates(file: file)[0].notValidAfter.wholeSeconds
    }
}
