import CRDKafka
import Operations

/// How the brokers are authenticated, and this program to them. Secrets are read from their files when an instance of
/// librdkafka is made, and kept nowhere else.
extension KafkaConfiguration {
    func security() throws(EventLogError) -> [(String, String)] {
        var all: [(String, String)] = []
        switch (tls, sasl) {
        case (nil, nil): return []
        case (_?, nil): all.append(("security.protocol", "ssl"))
        case (nil, _?): all.append(("security.protocol", "sasl_plaintext"))
        case (_?, _?): all.append(("security.protocol", "sasl_ssl"))
        }
        if let tls {
            let files = [
                ("ssl.ca.location", tls.ca), ("ssl.certificate.location", tls.certificate),
                ("ssl.key.location", tls.key),
            ]
            for (name, file) in files {
                if let file { all.append((name, file)) }
            }
            // The broker's name is checked, whatever a later librdkafka's default is.
            all.append(("ssl.endpoint.identification.algorithm", "https"))
            if let file = tls.keyPasswordFile { all.append(("ssl.key.password", try Self.secret(file))) }
        }
        if let sasl {
            all += [
                ("sasl.mechanism", sasl.mechanism.rawValue), ("sasl.username", sasl.user),
                ("sasl.password", try Self.secret(sasl.passwordFile)),
            ]
        }
        return all
    }

    /// librdkafka before 2.6.1 answers SCRAM's challenge with a wrong nonce, which brokers refuse as a wrong password.
    ///
    /// - Parameter version: as `rd_kafka_version` has it, 0xMMmmrrpp.
    static func refuseBrokenSCRAM(
        _ mechanism: String, version: Int32 = rd_kafka_version()
    ) throws(EventLogError) {
        guard mechanism.uppercased().hasPrefix("SCRAM"), version >> 8 < 0x02_06_01 else { return }
        let text = "\(version >> 24).\((version >> 16) & 0xFF).\((version >> 8) & 0xFF)"
        throw .other(
            "Kafka: \(mechanism) needs librdkafka 2.6.1 or newer, and this is \(text), whose SCRAM brokers refuse: use "
                + "client certificates (eventLog.kafka.tls), or the mechanism PLAIN over TLS")
    }

    /// The first line of a file.
    private static func secret(_ path: String) throws(EventLogError) -> String {
        let bytes: [UInt8]
        do {
            bytes = try AtomicFile.read(path, maximumBytes: 4_096)
        } catch {
            throw .other("Kafka: the secret's file \(path) cannot be read: \(errorText(error.code))")
        }
        let line = bytes.prefix { $0 != UInt8(ascii: "\n") && $0 != UInt8(ascii: "\r") }
        guard !line.isEmpty else { throw .other("Kafka: the first line of the secret's file \(path) is empty") }
        return String(decoding: line, as: UTF8.self)
    }
}
