import Flow

extension UplinkState {
    package enum Event: Sendable, Equatable {
        /// New data was committed; what waits in all.
        case dataAvailable(Waiting)
        /// The buffer's answer to `startLive`.
        case liveStarted(Waiting)
        /// The buffer's answer to `cut`: a batch is ready to be sent, or there is nothing to send.
        case cut(CutSize?)
        case answer(Answer)
        /// A status that speaks of the content of what was sent.
        case refused(Answer, Refusal)
        /// No answer came: the connection failed or ended, the time was up, the server was not who it must be.
        ///
        /// - Parameters:
        ///   - pieces: all messages of the cut, in order, where all of it was sent.
        ///   - isTooSlow: the cloud says that it did not come within the time of a request.
        case failure(sentBytes: Int, pieces: [BatchSplit.Piece] = [], isTooSlow: Bool = false)
        /// The buffer could not cut, read, bury or delete.
        case bufferFailed
        /// The buffer has deleted the batch; what waits still.
        case acknowledged(Waiting)
        /// The buffer has the message as a dead letter.
        case buried
        /// What was to be sent or buried was dropped from the buffer meanwhile.
        case gone
        case timer
        /// Graceful: one last attempt, then the end.
        case shutdown
    }

    package enum Action: Sendable, Equatable {
        /// From here on what is committed is live, and what waits is backlog.
        case startLive
        case cut(Lane, maximumBytes: Int)
        /// The request must end within the time, microseconds.
        case send(Content, timeout: Int64)
        case acknowledge
        case bury(BatchSplit.Suspect)
        /// Give `timer` at that time; a later one replaces it.
        case wake(at: Int64)
        /// The cloud refuses the batch, and sending it again will not help by itself: someone must look.
        case alarm(status: Int)
        /// For the log: the circuit breaker has opened, probes, or is closed again.
        case breaker(CircuitBreaker.State)
        /// Cancel what is under way, and end.
        case stop
    }

    /// What of the cut is to be sent.
    package enum Content: Sendable, Equatable {
        case whole
        /// Accounts and ledger lines alone.
        case probe
        case pieces([BatchSplit.Piece])
    }

    /// Bytes of frames that are not answered.
    package struct Waiting: Sendable, Equatable {
        package var live: Int
        package var backlog: Int

        package init(live: Int = 0, backlog: Int = 0) {
            self.live = live
            self.backlog = backlog
        }
    }

    package struct CutSize: Sendable, Equatable {
        package var id: Int64
        package var bytes: Int

        package init(id: Int64, bytes: Int) {
            self.id = id
            self.bytes = bytes
        }
    }

    package struct Answer: Sendable, Equatable {
        package var status: Int
        /// Microseconds.
        package var retryAfter: Int64?
        /// As sent, compressed.
        package var sentBytes: Int

        package init(status: Int, retryAfter: Int64? = nil, sentBytes: Int = 0) {
            self.status = status
            self.retryAfter = retryAfter
            self.sentBytes = sentBytes
        }
    }

    package struct Refusal: Sendable, Equatable {
        /// All messages of the cut, in order.
        package var pieces: [BatchSplit.Piece]
        /// The cloud's words.
        package var reason: String

        package init(pieces: [BatchSplit.Piece], reason: String) {
            self.pieces = pieces
            self.reason = reason
        }
    }

    package struct Settings: Sendable, Equatable {
        /// Microseconds that a small live batch waits for more messages.
        package var linger: Int64 = 1_000_000
        /// Bytes from which a batch is cut at once.
        package var fullBatch: Int = 1024 * 1024
        /// Bytes of frames in a batch, at most.
        package var maximumBatch: Int = 4 * 1024 * 1024 - 256 * 1024
        /// Bytes that wait after an outage and are still no backlog.
        package var smallBacklog: Int = 4 * 1024 * 1024
        /// Microseconds for one request.
        package var requestTimeout: Int64 = 60_000_000
        /// Microseconds after which an attempt that failed was too long for the link, and parts are sent. Above the time limit of a
        /// connection, which says nothing of the size.
        package var slowAttempt: Int64 = 15_000_000
        /// Microseconds until a refused batch is sent again.
        package var refusedDelay: Int64 = 120_000_000
        /// Microseconds for the last attempt.
        package var shutdownTimeout: Int64 = 3_000_000
        /// Percent of the time, of the bandwidth and of the hour's bytes that a backlog may have while live data waits.
        package var backlogShare = 50
        /// Compressed bytes a second; `nil`: unlimited.
        package var bandwidth: Int?
        /// Compressed bytes in each hour; `nil`: unlimited.
        package var bytesPerHour: Int?
        /// Messages that are made dead letters in an hour, at most.
        package var burialsPerHour = 20

        package init() {}
    }

    package enum Verdict: Sendable, Equatable {
        case accepted
        /// The server cannot now.
        case tryAgain
        /// The server will not have this content.
        case malformed
        /// The server will not.
        case refused
    }

    /// Only 200 means that the log has the messages.
    package static func verdict(on status: Int) -> Verdict {
        switch status {
        case 200: .accepted
        case 400, 413, 422: .malformed
        case 408, 429, 500...599: .tryAgain
        default: .refused
        }
    }
}
