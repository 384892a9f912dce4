import EventLog
import NIOCore
import ObjectStore

/// Writes and reads dead letters in the object store.
package struct DeadLetterFiles: Sendable {
    private let store: any ObjectStore

    package init(store: any ObjectStore) { self.store = store }

    package enum Failure: Error, Sendable, CustomStringConvertible {
        case store(ObjectStoreError)
        case object(DeadLetterError)

        package var description: String {
            switch self {
            case .store(let error): error.description
            case .object(let error): error.description
            }
        }
    }

    /// Writes the object, or finds the one that an earlier run or another processor wrote. That one is read and
    /// compared: it must hold all that this one holds.
    ///
    /// - Parameter next: the first offset that is stored nowhere else.
    package func write(_ object: DeadLetterObject, next: Int64) async throws(Failure) -> DeadLetterEntry {
        let bytes: ByteBuffer
        do throws(DeadLetterError) { bytes = try object.encoded() } catch { throw .object(error) }
        let isNew: Bool
        do throws(ObjectStoreError) { isNew = try await store.create(object.key, bytes) } catch { throw .store(error) }
        if isNew { return Self.entry(object, bytes) }
        let (found, stored) = try await read(object.key)
        guard found.incarnation == object.incarnation, found.range == object.range,
            let first = found.records.first?.offset, first <= next,
            found.records.suffix(object.records.count) == object.records.suffix(found.records.count)
        else { throw .object(.damaged("\(object.key) is there and holds other records than the log")) }
        return Self.entry(found, stored)
    }

    private static func entry(_ object: DeadLetterObject, _ bytes: ByteBuffer) -> DeadLetterEntry {
        DeadLetterEntry(
            object: object.key, digest: DeadLetterObject.digest(bytes), bytes: Int64(bytes.readableBytes),
            partition: object.range.partition, first: object.records.first?.offset ?? object.range.end,
            next: object.range.end)
    }

    /// The records of a dead letter, if they are those of which the table knows the digest.
    package func read(_ entry: DeadLetterEntry) async throws(Failure) -> DeadLetterObject {
        let (object, bytes) = try await read(entry.object)
        guard DeadLetterObject.digest(bytes) == entry.digest else {
            throw .object(.damaged("\(entry.object) has another digest than its row in dead_letter"))
        }
        guard object.range.partition == entry.partition, object.range.end == entry.next,
            object.records.first?.offset == entry.first
        else { throw .object(.damaged("\(entry.object) holds other offsets than its row in dead_letter")) }
        return object
    }

    private func read(_ key: String) async throws(Failure) -> (DeadLetterObject, ByteBuffer) {
        let bytes: ByteBuffer?
        do throws(ObjectStoreError) {
            bytes = try await store.read(key, maximumBytes: DeadLetterObject.maximumObjectBytes)
        } catch { throw .store(error) }
        guard let bytes else { throw .object(.missing(key)) }
        do throws(DeadLetterError) { return (try DeadLetterObject(decoding: bytes), bytes) } catch {
            throw .object(error)
        }
    }
}
