/// The grammar of objects' keys: what every file system and every bucket can name, and no way out of a folder.
package enum ObjectKey {
    package static let maximumBytes = 900

    package static func isValid(_ key: String) -> Bool {
        guard (1...maximumBytes).contains(key.utf8.count) else { return false }
        return key.utf8.split(separator: UInt8(ascii: "/"), omittingEmptySubsequences: false).allSatisfy { part in
            // A file system's limit for one name.
            (1...255).contains(part.count) && !part.elementsEqual(".".utf8) && !part.elementsEqual("..".utf8)
                && part.allSatisfy(isAllowed)
        }
    }

    static func check(_ key: String) throws(ObjectStoreError) {
        guard isValid(key) else { throw .badKey(String(key.prefix(100))) }
    }

    /// A prefix is the beginning of a key, in the middle of a part or not; empty: all.
    static func checkPrefix(_ prefix: String) throws(ObjectStoreError) {
        guard prefix.isEmpty || isValid(prefix) || (prefix.hasSuffix("/") && isValid(String(prefix.dropLast()))) else {
            throw .badKey(String(prefix.prefix(100)))
        }
    }

    private static func isAllowed(_ byte: UInt8) -> Bool {
        switch byte {
        case UInt8(ascii: "A")...UInt8(ascii: "Z"), UInt8(ascii: "a")...UInt8(ascii: "z"),
            UInt8(ascii: "0")...UInt8(ascii: "9"), UInt8(ascii: "."), UInt8(ascii: "_"), UInt8(ascii: "-"),
            UInt8(ascii: "="):
            true
        default: false
        }
    }
}

extension String {
    /// Swift orders strings by their characters' canonical forms; S3 orders keys by bytes.
    func precedesByBytes(_ other: String) -> Bool { utf8.lexicographicallyPrecedes(other.utf8) }
}
