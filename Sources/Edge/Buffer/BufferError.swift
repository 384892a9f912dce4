import CSQLite

/// Why the buffer did not do what it was asked. The description is for people: what, where, what to do.
package enum BufferError: Error, Sendable, Equatable, CustomStringConvertible {
    /// No room on the disk; nothing of the group was stored, and the same group may be tried again.
    case full
    /// Nothing was stored, the file is still trusted.
    case io(String)
    case closed
    /// The disk fails; nothing of the group was acknowledged. The buffer opens its file anew until the disk is well, and
    /// the same group may be tried again.
    case failing(String)
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
        case .failing(let what): what
        case .closed: "the buffer is closed; the daemon is ending"
        case .corrupt(let what): what
        case .locked(let what): what
        case .unusable(let what): what
        case .unknownCut(let id): "batch \(id) is not the one that waits for an answer; ask the buffer for the next one"
        case .control(let what): what
        }
    }

    /// Whether the same group may be given again, to this process.
    package var mayPass: Bool {
        switch self {
        case .full, .failing: true
        default: false
        }
    }

    init(_ error: SQLiteError, path: String) {
        let what = "\(path): \(error.message) (SQLite \(error.code), \(error.operation))"
        switch error.primaryCode {
        case SQLITE_FULL:
            self = .full
        case SQLITE_IOERR, SQLITE_READONLY, SQLITE_CANTOPEN:
            self = .failing(
                "\(what); nothing is acknowledged until the disk can be written: look at the kernel's log, at the mount "
                    + "and at the medium. The file is opened anew by itself")
        // SQLITE_ERROR: a statement that the file's tables do not allow: they are not what their version says.
        case SQLITE_CORRUPT, SQLITE_NOTADB, SQLITE_ERROR:
            self = .corrupt("\(what); restart the daemon: it moves the file aside and salvages what is readable")
        case SQLITE_BUSY, SQLITE_LOCKED:
            self = .locked("\(what); another program has the buffer open: end it, then start again")
        default:
            self = .io("\(what); the transaction was undone")
        }
    }
}
