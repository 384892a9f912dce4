import NIOCore
import NIOFoundationCompat
import NIOHTTP1
import Operations
import Synchronization

/// Objects in a bucket of S3, or of a server that speaks its protocol and knows `If-None-Match: *`.
package final class S3ObjectStore: ObjectStore {
    /// An object that nobody reads, at a key that is outside the grammar: see `proveConditionalWrites`.
    static let probeKey = "~conditional-write"
    /// Names who wrote an object, so that a lost answer can be told from somebody else's object.
    private static let writerHeader = "x-amz-meta-sluice-writer"

    private let client: S3Client
    private let knowsConditions = Mutex(false)

    package convenience init(_ configuration: CloudConfiguration.S3) throws(ObjectStoreError) {
        self.init(client: S3Client(try S3Configuration(configuration)), prefix: configuration.prefix)
    }

    private let prefix: String

    init(client: S3Client, prefix: String) {
        self.client = client
        self.prefix = prefix
    }

    package func create(_ key: String, _ bytes: ByteBuffer) async throws(ObjectStoreError) -> Bool {
        try ObjectKey.check(key)
        try await proveConditionalWrites()
        return try await put(key, bytes)
    }

    package func read(_ key: String, maximumBytes: Int) async throws(ObjectStoreError) -> ByteBuffer? {
        try ObjectKey.check(key)
        let answer = try await client.send(
            .init(operation: "get", method: .GET, key: key, maximumBytes: max(maximumBytes, 0)))
        switch answer.status {
        case 200:
            client.count("get", "ok")
            return answer.body
        case 404 where S3Answer.failure(String(buffer: answer.body)).code != "NoSuchBucket": return nil
        default: throw refusal("get", answer)
        }
    }

    package func list(
        prefix: String, after: String?, maximum: Int
    ) async throws(ObjectStoreError) -> [StoredObject] {
        try ObjectKey.checkPrefix(prefix)
        let maximum = min(max(maximum, 1), 1_000)
        var found: [StoredObject] = []
        var last = after.map { self.prefix + $0 }
        while found.count < maximum {
            let page = try await page(prefix: self.prefix + prefix, after: last, maximum: maximum)
            for object in page.objects {
                // Other objects of the bucket under the prefix, and the probe, are not ours.
                guard object.key.hasPrefix(self.prefix) else { continue }
                let key = String(object.key.dropFirst(self.prefix.count))
                guard ObjectKey.isValid(key), found.count < maximum else { continue }
                found.append(StoredObject(key: key, bytes: object.bytes))
            }
            guard page.isTruncated, let next = page.objects.last?.key else { break }
            last = next
        }
        return found
    }

    package func delete(_ key: String) async throws(ObjectStoreError) {
        try ObjectKey.check(key)
        let answer = try await client.send(.init(operation: "delete", method: .DELETE, key: key))
        let isGone =
            answer.status == 404 && S3Answer.failure(String(buffer: answer.body)).code != "NoSuchBucket"
        guard isGone || (200..<300).contains(answer.status) else { throw refusal("delete", answer) }
        client.count("delete", "ok")
    }

    private func page(
        prefix: String, after: String?, maximum: Int
    ) async throws(ObjectStoreError) -> S3Answer.Page {
        var query = [("list-type", "2"), ("max-keys", "\(maximum)"), ("prefix", prefix)]
        if let after { query.append(("start-after", after)) }
        let answer = try await client.send(.init(operation: "list", method: .GET, query: query.map { ($0.0, $0.1) }))
        guard answer.status == 200 else { throw refusal("list", answer) }
        guard let page = S3Answer.page(String(buffer: answer.body)) else {
            throw .refused("\(client.place) answers a list that is none of S3's (ListObjectsV2)")
        }
        client.count("list", "ok")
        return page
    }

    private func put(_ key: String, _ bytes: ByteBuffer) async throws(ObjectStoreError) -> Bool {
        let writer = "\(UInt64.random(in: 0...UInt64.max))"
        let answer = try await client.send(
            .init(
                operation: "put", method: .PUT, key: key,
                headers: [("if-none-match", "*"), (Self.writerHeader, writer)], body: bytes))
        switch answer.status {
        case 200..<300:
            client.count("put", "ok")
            return true
        case 412:
            client.count("put", "exists")
            // Perhaps it is the earlier attempt's own object that stands there.
            return answer.mayBeRepeated ? try await isWritten(key, by: writer) : false
        default: throw refusal("put", answer)
        }
    }

    private func isWritten(_ key: String, by writer: String) async throws(ObjectStoreError) -> Bool {
        let answer = try await client.send(.init(operation: "head", method: .HEAD, key: key))
        guard answer.status == 200 || answer.status == 404 else { throw refusal("head", answer) }
        client.count("head", "ok")
        return answer.headers.first(name: Self.writerHeader) == writer
    }

    /// A server that takes no notice of `If-None-Match` would let one object replace another. So before the first object
    /// the same key is written twice: the second time has to be refused.
    private func proveConditionalWrites() async throws(ObjectStoreError) {
        guard !knowsConditions.withLock({ $0 }) else { return }
        let mark = ByteBuffer(string: "written by Sluice to see that the server knows If-None-Match\n")
        if try await put(Self.probeKey, mark), try await put(Self.probeKey, mark) {
            throw .refused(
                "\(client.place) takes no notice of If-None-Match: *, so that an object could replace another; "
                    + "a newer version of the server may know it")
        }
        knowsConditions.withLock { $0 = true }
    }

    /// What an answer that is none of the expected ones means to a person.
    private func refusal(_ operation: String, _ answer: S3Client.Answer) -> ObjectStoreError {
        client.count(operation, "refused")
        let place = client.place
        let failure = S3Answer.failure(String(buffer: answer.body))
        switch (answer.status, failure.code) {
        case (_, "NoSuchBucket"): return .refused("\(place) does not exist")
        case (_, "RequestTimeTooSkewed"):
            let date = answer.headers.first(name: "Date").map { ", the server's clock says \($0.shown)" } ?? ""
            return .refused("\(place): this machine's clock and the server's differ too much\(date)")
        case (_, "InvalidAccessKeyId"): return .refused("\(place) does not know the access key")
        case (_, "SignatureDoesNotMatch"):
            return .refused("\(place): the secret of the access key is wrong, or the region")
        case (_, "ExpiredToken"), (_, "InvalidToken"), (_, "TokenRefreshRequired"):
            return .refused("\(place): the session token of the access key has expired")
        case (301, _), (307, _), (_, "AuthorizationHeaderMalformed"):
            let region = answer.headers.first(name: "x-amz-bucket-region").map { ", it is \($0.shown)" } ?? ""
            return .refused("\(place): the region or the endpoint is another\(region). \(failure.message.shown)")
        case (501, _):
            return .refused("\(place) does not know If-None-Match: *, which keeps an object from replacing another")
        case (401, _), (403, _):
            return .refused(
                "\(place): no permission to \(operation) (needed: s3:GetObject, PutObject, DeleteObject, ListBucket)")
        default: return .refused("\(place) answers \(answer.status) \(failure.code.shown) \(failure.message.shown)")
        }
    }
}

extension CloudConfiguration.Objects {
    /// - Throws: where the folder is none or certificates cannot be read; a bucket is not asked.
    package func open() throws(ObjectStoreError) -> any ObjectStore {
        switch self {
        case .folder(let path): try FolderObjectStore(path: path)
        case .s3(let configuration): try S3ObjectStore(configuration)
        }
    }
}
