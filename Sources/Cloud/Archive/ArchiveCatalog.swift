import NIOCore
import ObjectStore

/// Reads the archive as the object store has it.
package struct ArchiveCatalog: Sendable {
    static let page = 1_000

    let store: any ObjectStore

    package init(_ store: any ObjectStore) { self.store = store }

    /// `nil` where there is none.
    package func manifest(_ day: ArchiveDay, _ number: Int) async throws(ArchiveError) -> Manifest? {
        let key = ArchiveKeys.manifest(day, number)
        let bytes = try await stored { () throws(ObjectStoreError) in
            try await store.read(key, maximumBytes: ArchiveManifest.maximumBytes)
        }
        guard let bytes else { return nil }
        return Manifest(
            content: try ArchiveManifest(bytes, day: day, number: number), digest: ArchiveCollector.digest(of: bytes))
    }

    package struct Manifest: Sendable, Equatable {
        package var content: ArchiveManifest
        /// SHA-256 of the object.
        package var digest: String
    }

    /// All of a day, in order; empty where it is not archived.
    package func manifests(_ day: ArchiveDay) async throws(ArchiveError) -> [Manifest] {
        var found: [Manifest] = []
        let numbers = try await keys(ArchiveKeys.manifests(day)).compactMap { ArchiveKeys.number(ofManifest: $0, day) }
        for number in 0..<((numbers.max() ?? -1) + 1) {
            guard let manifest = try await manifest(day, number) else {
                throw .missingObject(key: ArchiveKeys.manifest(day, number))
            }
            found.append(manifest)
        }
        return found
    }

    /// Days with a manifest, in order.
    package func days() async throws(ArchiveError) -> [ArchiveDay] {
        var days: [ArchiveDay] = []
        var after: String?
        while true {
            let objects = try await list(ArchiveKeys.root, after)
            for object in objects {
                guard let day = ArchiveKeys.day(ofKey: object.key), days.last != day,
                    ArchiveKeys.number(ofManifest: object.key, day) != nil
                else { continue }
                days.append(day)
            }
            guard objects.count == Self.page, let last = objects.last else { return days }
            after = last.key
        }
    }

    func keys(_ prefix: String) async throws(ArchiveError) -> [String] {
        var keys: [String] = []
        while true {
            let objects = try await list(prefix, keys.last)
            keys += objects.map(\.key)
            if objects.count < Self.page { return keys }
        }
    }

    /// The next keys of all days; fewer than `page` are the last.
    func page(after: String?) async throws(ArchiveError) -> [String] {
        try await list(ArchiveKeys.root, after).map(\.key)
    }

    private func list(_ prefix: String, _ after: String?) async throws(ArchiveError) -> [StoredObject] {
        try await stored { () throws(ObjectStoreError) in
            try await store.list(prefix: prefix, after: after, maximum: Self.page)
        }
    }
}
