import EventLog
import Foundation
import Ingest
import Logging
import NIOCore
import NIOHTTP1
import NIOSSL
import Operations
import PKI
import SyncModel
import Testing

@Suite struct IngestTests {
    private func withIngest(
        _ log: any EventLog, pki: TestPKI? = nil, change: (inout IngestConfiguration) -> Void = { _ in },
        _ body: (TestIngest) async throws -> Void
    ) async throws {
        let ingest = try await TestIngest(pki: try pki ?? TestPKI.shared.get(), log: log, change)
        do {
            try await body(ingest)
        } catch {
            try await ingest.shutdown()
            throw error
        }
        try await ingest.shutdown()
    }

    private func stored(_ log: EmbeddedEventLog) async throws -> [StoredLogRecord] {
        let count = Int(try await log.bounds().map(\.next).reduce(0, +))
        let reader = try await log.makeReader(group: "test", member: "test")
        var records: [StoredLogRecord] = []
        while records.count < count {
            switch try await reader.next(maximumRecords: 1000, maximumBytes: 1 << 24, timeout: .seconds(5)) {
            case .assigned(let partitions):
                for partition in partitions { try await reader.seek(partition: partition, to: 0) }
            case .records(let more): records += more
            case .idle, .revoked: throw EventLogError.other("\(records.count) of \(count) records came")
            }
        }
        await reader.close()
        return records
    }

    @Test func aBatchLandsInTheLogAndAgainWhenRepeated() async throws {
        let folder = try TemporaryFolder()
        let log = try EmbeddedEventLog.open(
            path: folder.path + "/events.db", logger: Logger(label: "test") { _ in SwiftLogNoOpLogHandler() })
        let batch = sampleBatch(messages: 1000)
        try await withIngest(log) { ingest in
            for _ in 0..<2 {
                let reply = try await post(ingest, batch: batch.encoded())
                #expect(reply.status == 200 && reply.body.isEmpty)
            }
            let plain = try await post(
                ingest, body: batch.encoded(), headers: [("Sluice-Digest", digest(of: batch.encoded()))])
            #expect(plain.status == 200)
            #expect(ingest.logged("debug A batch is durable.") && ingest.logged("gateway=plant-7"))
            #expect(!ingest.logged("warning"))
            #expect(ingest.metrics.text().contains("sluice_ingest_messages_total 3000"))
        }
        let records = try await stored(log)
        let expected = batch.logEntries()
        #expect(records.count == expected.count * 3)
        for entry in expected {
            let own = records.filter { $0.record.key == entry.routingKey }.map(\.record)
            let decoded = try own.map { try LogEntry.decode($0.value) }
            #expect(decoded == Array(repeating: entry, count: 3))
            guard case .messages(let messages) = entry else { continue }
            let trace = messages.messages[0].traceparent(epoch: messages.epoch)
            #expect(own.allSatisfy { $0.headers == [.init(name: "traceparent", value: trace)] })
        }
        await log.close()
    }

    @Test func onlyAGatewaysOwnBatchesAreTaken() async throws {
        let log = ScriptedLog()
        try await withIngest(log) { ingest in
            let batch = sampleBatch().encoded()
            let device = try await post(ingest, as: TestPKI.device, batch: batch)
            #expect(device.status == 403 && device.body.contains("device press-1, not for a gateway"))
            let other = try await post(ingest, as: TestPKI.other, batch: batch)
            #expect(other.status == 403 && other.body.contains("the batch is of the gateway plant-7"))
            let expired = try await post(ingest, as: TestPKI.expired, batch: batch)
            #expect(expired.status == 403 && expired.body.contains("expired at"))
            let server = try await post(ingest, as: TestPKI.server, batch: batch)
            #expect(server.status == 403)
            #expect(ingest.logged("reason=the certificate expired at"))
            #expect(ingest.logged("gateway=plant-8 reason=the batch is of the gateway plant-7"))
            #expect(ingest.logged("remote=127.0.0.1"))
            await #expect(throws: (any Error).self) { try await post(ingest, as: nil, batch: batch) }
        }
        #expect(log.count == 0)
    }

    @Test func aStrangersCertificateEndsInTheHandshake() async throws {
        let log = ScriptedLog()
        let foreign = try TestPKI()
        try await withIngest(log) { ingest in
            var tls = try foreign.client(TestPKI.plant)
            tls.trustRoots = try ingest.pki.client(TestPKI.plant).trustRoots
            await #expect(throws: (any Error).self) { try await postRaw(ingest, tls: tls) }
            #expect(
                ingest.logged(
                    "A TLS handshake was refused. reason=the certificate is not signed by a trusted authority"))
        }
        #expect(log.count == 0)
    }

    @Test func aRevocationCountsFromTheNextRequestOn() async throws {
        let log = ScriptedLog()
        let pki = try TestPKI()
        try await withIngest(log, pki: pki) { ingest in
            #expect(try await post(ingest, batch: sampleBatch().encoded()).status == 200)
            try pki.directory.revoke("plant-7", now: TestPKI.now)
            ingest.service.reload()
            let reply = try await post(ingest, batch: sampleBatch().encoded())
            #expect(reply.status == 403 && reply.body.contains("revoked"))
            #expect(ingest.logged("reason=the certificate was revoked at"))
        }
        #expect(log.count == 1)
    }

    @Test(arguments: ["-tls1_2", "-tls1_3"])
    func aResumedSessionIsJudgedToo(_ version: String) async throws {
        let pki = try TestPKI()
        try await withIngest(ScriptedLog(), pki: pki) { ingest in
            let session = pki.folder.path + "/session"
            let first = try await openssl(ingest, [version, "-sess_out", session])
            #expect(first.contains("HTTP/1.1 400"))
            let resumed = try await openssl(ingest, [version, "-sess_in", session])
            #expect(resumed.contains("Reused, TLSv1") && resumed.contains("HTTP/1.1 400"))
            try pki.directory.revoke("plant-7", now: TestPKI.now)
            ingest.service.reload()
            let revoked = try await openssl(ingest, [version, "-sess_in", session])
            #expect(revoked.contains("Reused, TLSv1") && revoked.contains("HTTP/1.1 403"))
        }
    }

    @Test func aMalformedRequestSaysWhatIsWrong() async throws {
        let log = ScriptedLog()
        try await withIngest(log) { ingest in
            let batch = sampleBatch().encoded()
            let zstd = ("Content-Encoding", "zstd")
            let right = ("Sluice-Digest", digest(of: batch))
            let other = ("Sluice-Digest", digest(of: ByteBuffer(string: "other")))
            let wrongDigest = try await post(ingest, body: compressed(batch), headers: [zstd, other])
            #expect(wrongDigest.status == 422 && wrongDigest.body.contains(digest(of: batch)))
            let noDigest = try await post(ingest, body: compressed(batch), headers: [zstd])
            #expect(noDigest.status == 400 && noDigest.body.contains("Sluice-Digest"))
            let gzip = try await post(ingest, body: batch, headers: [("Content-Encoding", "gzip"), right])
            #expect(gzip.status == 400 && gzip.body.contains("gzip"))
            let noZstd = try await post(ingest, body: batch, headers: [zstd, right])
            #expect(noZstd.status == 400 && noZstd.body.contains("no zstd frame"))
            var cut = compressed(batch)
            cut = cut.getSlice(at: 0, length: cut.readableBytes - 3) ?? cut
            let incomplete = try await post(ingest, body: cut, headers: [zstd, right])
            #expect(incomplete.status == 400 && incomplete.body.contains("ends within"))
            var longer = compressed(batch)
            longer.writeString("more")
            let trailing = try await post(ingest, body: longer, headers: [zstd, right])
            #expect(trailing.status == 400 && trailing.body.contains("bytes follow"))
            let empty = try await post(ingest, body: ByteBuffer(), headers: [zstd, right])
            #expect(empty.status == 400)
            let path = try await post(ingest, body: ByteBuffer(), headers: [], path: "/v2/batches")
            #expect(path.status == 404 && path.body.contains("POST"))
            let get = try await post(ingest, body: ByteBuffer(), headers: [], method: .PUT)
            #expect(get.status == 405)
        }
        #expect(log.count == 0)
    }

    @Test func aMalformedBatchIs422WithItsPlaceAndNothingIsStored() async throws {
        let log = ScriptedLog()
        try await withIngest(log) { ingest in
            var batch = sampleBatch()
            batch.frames[0].firstSequence = 0
            let reply = try await post(ingest, batch: batch.encoded())
            #expect(reply.status == 422)
            let json = try #require(
                try JSONSerialization.jsonObject(with: Data(reply.body.utf8)) as? [String: Any])
            #expect(json["path"] as? String == "frames[0].firstSequence")
            #expect((json["reason"] as? String)?.isEmpty == false && json["offset"] is Int)
            #expect(ingest.logged("path=frames[0].firstSequence"))
            #expect(ingest.logged("warning A batch was refused with 422. gateway=plant-7"))
            let garbage = try await post(ingest, batch: ByteBuffer(repeating: 0xff, count: 1000))
            #expect(garbage.status == 422)
        }
        #expect(log.count == 0)
    }

    @Test func tooLargeIs413AndABombUnpacksNoFurther() async throws {
        let log = ScriptedLog()
        try await withIngest(
            log,
            change: {
                $0.maximumSentBytes = 100_000
                $0.maximumUnpackedBytes = 1 << 20
            }
        ) { ingest in
            let large = ByteBuffer(bytes: (0..<120_000).map { _ in UInt8.random(in: 0...255) })
            let sent = try await post(ingest, body: large, headers: [("Sluice-Digest", digest(of: large))])
            #expect(sent.status == 413 && sent.body.contains("100000 bytes"))
            let bomb = ByteBuffer(repeating: 0, count: (1 << 20) + 1)
            let unpacked = try await post(ingest, batch: bomb)
            #expect(unpacked.status == 413 && unpacked.body.contains("1048576 bytes when unpacked"))
            // At the limit it is read whole, and only then found to be no batch.
            #expect(try await post(ingest, batch: ByteBuffer(repeating: 0, count: 1 << 20)).status == 422)
        }
        #expect(log.count == 0)
    }

    @Test(
        arguments: [
            (EventLogError.busy("full"), 429, "2"), (.unavailable("down"), 503, "5"), (.closed, 503, "5"),
            (.other("odd"), 503, "5"), (.recordTooLarge(bytes: 9), 413, nil),
        ] as [(EventLogError, UInt, String?)])
    func theLogsErrorsReachTheGateway(_ error: EventLogError, _ status: UInt, _ retryAfter: String?) async throws {
        try await withIngest(ScriptedLog(error)) { ingest in
            let reply = try await post(ingest, batch: sampleBatch().encoded())
            #expect(reply.status == status && reply.retryAfter == retryAfter)
            #expect(ingest.logged("warning A batch was refused with \(status)."))
        }
    }

    @Test func moreThanTheBoundIsAskedToComeAgain() async throws {
        let log = ScriptedLog(delay: .milliseconds(300))
        try await withIngest(log, change: { $0.maximumInFlight = 2 }) { ingest in
            let replies = try await withThrowingTaskGroup(of: Reply.self) { tasks in
                for _ in 0..<8 { tasks.addTask { try await post(ingest, batch: sampleBatch().encoded()) } }
                return try await tasks.reduce(into: [Reply]()) { $0.append($1) }
            }
            let busy = replies.filter { $0.status == 429 }
            #expect(busy.count >= 1 && busy.allSatisfy { $0.retryAfter == "1" })
            #expect(replies.filter { $0.status == 200 }.count + busy.count == 8)
            #expect(try await post(ingest, batch: sampleBatch().encoded()).status == 200)
        }
        try await withIngest(ScriptedLog(), change: { $0.maximumInFlightBytes = 4096 }) { ingest in
            let reply = try await post(ingest, batch: sampleBatch(messages: 1000).encoded())
            #expect(reply.status == 429 && reply.retryAfter == "2")
        }
    }

    /// A late flush must not make live batches fail: backlogs wait for each other alone.
    @Test func backlogsHaveABoundOfTheirOwnAndLeaveLiveBatchesTheirs() async throws {
        var backlog = sampleBatch()
        backlog.lane = .backlog
        let old = backlog.encoded()
        let log = ScriptedLog(delay: .milliseconds(500))
        try await withIngest(
            log,
            change: {
                $0.maximumInFlight = 2
                $0.maximumBacklogInFlight = 1
            }
        ) { ingest in
            let replies = try await withThrowingTaskGroup(of: (Bool, Reply).self) { tasks in
                for index in 0..<6 {
                    // Some do not say in their head what they are.
                    let lane = index % 2 == 0 ? [(SyncProtocol.laneHeader, SyncProtocol.backlogLane)] : []
                    tasks.addTask {
                        let headers = [("Content-Encoding", "zstd"), ("Sluice-Digest", digest(of: old))] + lane
                        return (false, try await post(ingest, body: compressed(old), headers: headers))
                    }
                }
                try await Task.sleep(for: .milliseconds(250))
                tasks.addTask { (true, try await post(ingest, batch: sampleBatch().encoded())) }
                return try await tasks.reduce(into: [(Bool, Reply)]()) { $0.append($1) }
            }
            #expect(replies.filter { $0.0 }.map(\.1.status) == [200], "the live one")
            let busy = replies.filter { !$0.0 && $0.1.status == 429 }
            #expect(!busy.isEmpty && busy.allSatisfy { $0.1.retryAfter == "1" })
            #expect(replies.count { $0.1.status == 200 } + busy.count == 7)
        }
    }

    @Test func backlogsShareTheirMessagesASecond() async throws {
        try await withIngest(ScriptedLog(), change: { $0.backlogMessagesPerSecond = 10 }) { ingest in
            var backlog = sampleBatch(messages: 40)
            backlog.lane = .backlog
            #expect(try await post(ingest, batch: backlog.encoded()).status == 200, "a full bucket takes any batch")
            let busy = try await post(ingest, batch: backlog.encoded())
            let wait = busy.retryAfter.flatMap { Int($0) } ?? 0
            #expect(busy.status == 429 && 2...4 ~= wait && busy.body.contains("batches of backlog bring more"))
            #expect(try await post(ingest, batch: sampleBatch(messages: 40).encoded()).status == 200, "live is free")
        }
    }

    /// A log whose records may never be processed: what is acknowledged into it would be lost when it is put right.
    @Test func nothingIsAcknowledgedIntoAnotherLog() async throws {
        let log = ScriptedLog()
        try await withIngest(log, change: { $0.refusal = { "the event log is another one" } }) { ingest in
            let reply = try await post(ingest, batch: sampleBatch().encoded())
            #expect(reply.status == 503 && reply.body.contains("another one") && reply.retryAfter == "30")
            #expect(log.count == 0)
        }
    }

    @Test func aBodyThatDoesNotComeIs408() async throws {
        try await withIngest(ScriptedLog(), change: { $0.requestTimeout = 1 }) { ingest in
            let head = "POST /v1/batches HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n"
            let digest = "Sluice-Digest: \(digest(of: ByteBuffer()))\r\n\r\nabc"
            let answer = try await openssl(ingest, [], request: head + digest)
            #expect(answer.contains("HTTP/1.1 408") && answer.lowercased().contains("connection: close"))
        }
    }

    @Test func aConnectionWithoutARequestIsClosed() async throws {
        try await withIngest(ScriptedLog(), change: { $0.idleTimeout = 1 }) { ingest in
            let start = ContinuousClock.now
            _ = try await openssl(ingest, [], request: "POST /v1/ba")
            #expect(ContinuousClock.now - start < .seconds(5))
        }
    }

    @Test func shutdownLetsWhatIsInWorkEnd() async throws {
        let log = ScriptedLog(delay: .milliseconds(400))
        let ingest = try await TestIngest(pki: try TestPKI.shared.get(), log: log)
        let reply = Task { try await post(ingest, batch: sampleBatch().encoded()) }
        try await Task.sleep(for: .milliseconds(250))
        try await ingest.shutdown()
        #expect(try await reply.value.status == 200)
        #expect(log.count == 1)
    }

    @Test func aServersCertificateThatIsNotThereIsNamed() throws {
        let pki = try TestPKI.shared.get()
        var files = pki.serverFiles
        files.certificate = pki.folder.path + "/none.crt"
        let configuration = IngestConfiguration(address: "127.0.0.1", port: 0, tls: files)
        let error = #expect(throws: TrustError.self) {
            _ = try IngestService(
                configuration: configuration, log: ScriptedLog(), metrics: MetricRegistry(),
                logger: Logger(label: "test"))
        }
        #expect(error?.description.contains("none.crt") == true)
    }
}
