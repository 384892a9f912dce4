extension ConfigurationSection {
    /// `tls: { ca, certificate, key, keyPasswordFile }` and `sasl: { mechanism, user, passwordFile }`
    ///
    /// - Parameter checkingFiles: whether the files must be there.
    func kafkaSecurity(of kafka: inout CloudConfiguration.Kafka, checkingFiles: Bool) {
        if let section = section("tls") { kafka.tls = section.kafkaTLS(checkingFiles) }
        if let section = section("sasl") {
            kafka.sasl = section.kafkaSASL(checkingFiles)
            let isLocal = kafka.brokers.allSatisfy { broker in
                HostAndPort(broker[...]).map { Address.isLoopback(String($0.host)) } ?? true
            }
            if !has("tls"), !isLocal {
                problem(
                    "sasl", found: "a password for brokers without tls", allowed: "it with tls, or loopback brokers")
            }
        }
        // Said twice, one of them would win in silence.
        let taken =
            (has("tls") ? ["ssl.", "security.protocol"] : []) + (has("sasl") ? ["sasl.", "security.protocol"] : [])
        for name in kafka.properties.keys.sorted() where taken.contains(where: name.hasPrefix) {
            problem("properties.\(name)", found: "a property beside tls or sasl", allowed: "one of the two ways")
        }
    }

    private func kafkaTLS(_ checkingFiles: Bool) -> CloudConfiguration.KafkaTLS {
        var tls = CloudConfiguration.KafkaTLS()
        tls.ca = path("ca")
        tls.certificate = path("certificate")
        tls.key = path("key")
        tls.keyPasswordFile = path("keyPasswordFile")
        if (tls.certificate == nil) != (tls.key == nil) {
            problem("certificate", found: "one of certificate and key", allowed: "both or none")
        }
        if checkingFiles {
            if let ca = tls.ca { check("ca", ca, holds: .certificate) }
            if let certificate = tls.certificate { check("certificate", certificate, holds: .certificate) }
            // An encrypted key is for librdkafka to open.
            if let key = tls.key, tls.keyPasswordFile == nil { check("key", key, holds: .privateKey) }
            if let file = tls.keyPasswordFile { checkSecret("keyPasswordFile", file) }
        }
        finish()
        return tls
    }

    private func kafkaSASL(_ checkingFiles: Bool) -> CloudConfiguration.KafkaSASL? {
        let mechanism = require("mechanism", ConfigurationType<CloudConfiguration.KafkaSASL.Mechanism>.word)
        let user = require("user", .text)
        let file = requirePath("passwordFile", checking: nil)
        if let file, checkingFiles { checkSecret("passwordFile", file) }
        finish()
        guard let mechanism, let user, let file else { return nil }
        return CloudConfiguration.KafkaSASL(mechanism: mechanism, user: user, passwordFile: file)
    }

    private func checkSecret(_ key: String, _ file: String) {
        do {
            let bytes = try AtomicFile.read(file, maximumBytes: 4_096)
            guard let first = bytes.first, first != UInt8(ascii: "\n") else {
                return problem(key, found: "\(file.shown), whose first line is empty", allowed: "a file with a secret")
            }
        } catch {
            problem(key, found: error.description, allowed: "a readable file of at most 4,096 bytes")
        }
    }
}
