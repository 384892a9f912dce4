import NIOCore

/// Where dead letters and the cold archive are kept: objects that are written once, read whole and deleted whole.
package protocol ObjectStore: Sendable {
    /// Stores a new object durably.
    ///
    /// - Returns: `false` where there is one of this key already; it stays as it is.
    func create(_ key: String, _ bytes: ByteBuffer) async throws(ObjectStoreError) -> Bool
    /// - Returns: `nil` where there is none.
    func read(_ key: String, maximumBytes: Int) async throws(ObjectStoreError) -> ByteBuffer?
    /// Those after `after` in the order of their keys' bytes.
    ///
    /// - Parameter maximum: 1 to 1,000.
    func list(prefix: String, after: String?, maximum: Int) async throws(ObjectStoreError) -> [StoredObject]
    /// Succeeds too where there is none.
    func delete(_ key: String) async throws(ObjectStoreError)
}

package struct StoredObject: Sendable, Equatable {
    package var key: String
    package var bytes: Int

    package init(key: String, bytes: Int) {
        self.key = key
        self.bytes = bytes
    }
}
