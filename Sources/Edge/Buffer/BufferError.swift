import CSQLite

/// Why the buffer did not do what it was asked. The description is for people: what, where, what to do.
package enum BufferError: Error, Sendable, Equatable, CustomStringConvertible {
    /// No room on the disk; nothing of the group was stored, and the same group may be tried again.
    case full
    /// Nothing was stored, the file is still trusted.
    case io(String)
    case closed
    /// The file is not trusted any more: the daemon must end and start again, so that recovery reads what is on disk.
    case damaged(String)
    /// The file's contents are not what was written. The next start salvages what is readable.
    case corrupt(String)
    /// Another process holds the buffer.
    case locked(String)
    /// The file is not one that this program may use: a newer schema, another gateway's, no database.
    case unusable(String)
    case unknownCut(Int64)
    /// On the control socket: no daemon, no answer, or one that makes no sense.
    case control(String)

    package var description: String {
        switch self {
        case .full:
            "the buffer's disk is full; free space, or lower buffer.maximumBytes: messages are refused until then"
        case .io(let what): what
        case .closed: "the buffer is closed; the daemon is ending"
        case .damaged(let what): what
        case .corrupt(let what): what
        case .locked(let what): what
        case .unusable(let what): what
        case .unknownCut(let id): "batch \(id) is not the one that waits for an answer; ask the buffer for the next one"
        case .control(let what): what
        }
    }

    init(_ error: SQLiteError, path: String) {
        let what = "\(path): \(error.message) (SQLite \(error.code), \(error.operation))"
        switch error.primaryCode {
        case SQLITE_FULL:
            self = .full
        case SQLITE_IOERR:
            self = .damaged("\(what); the file is not trusted any more, restart the daemon so that it is read anew")
        case SQLITE_CORRUPT, SQLITE_NOTADB:
            self = .corrupt("\(what); restart the daemon: it moves the file aside and salvages what is readable")
        case SQLITE_BUSY, SQLITE_LOCKED:
            self = .locked("\(what); another program has the buffer open: end it, then start again")
        default:
            self = .io("\(what); the transaction was undone")
        }
    }
}
