import FoundationEssentials
import Operations

/// What an authority has issued and revoked, so that a certificate can be revoked after its file is gone.
/// Times are seconds since 1970.
package struct PKIIndex: Codable, Sendable, Equatable {
    package struct Entry: Codable, Sendable, Equatable {
        package var kind: PeerRole.Kind
        package var id: String
        /// Hexadecimal.
        package var serial: String
        package var notBefore: Int64
        package var notAfter: Int64
        package var revokedAt: Int64?
    }

    package enum State: String, Codable, Sendable {
        case valid, expired, revoked
    }

    package var version = 1
    /// The number of the last revocation list.
    package var listNumber: UInt64 = 0
    package var entries: [Entry] = []

    static let maximumBytes = 256 * 1024 * 1024

    package init() {}

    static func read(_ path: String) throws(PKIError) -> PKIIndex {
        let bytes: [UInt8]
        do {
            bytes = try AtomicFile.read(path, maximumBytes: maximumBytes)
        } catch {
            throw .file(error)
        }
        do {
            let index = try JSONDecoder().decode(PKIIndex.self, from: Data(bytes))
            guard index.version == 1 else {
                throw PKIError.damaged(file: path, reason: "version \(index.version) is not known, allowed is 1")
            }
            return index
        } catch let error as PKIError {
            throw error
        } catch {
            throw .damaged(file: path, reason: "\(error)")
        }
    }

    func write(_ path: String) throws(PKIError) {
        let encoder = JSONEncoder()
        encoder.outputFormatting = [.sortedKeys]
        do {
            try AtomicFile.write([UInt8](encoder.encode(self)), to: path, mode: 0o600, replacing: true)
        } catch let error as FileError {
            throw .file(error)
        } catch {
            throw .library("\(error)")
        }
    }
}

extension PKIIndex.Entry {
    package func state(at seconds: Int64) -> PKIIndex.State {
        if revokedAt != nil { return .revoked }
        return notAfter < seconds ? .expired : .valid
    }
}
