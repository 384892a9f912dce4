import Operations
import SyncModel

#if canImport(Glibc)
    import Glibc
#elseif canImport(Musl)
    import Musl
#endif

/// What the process that wrote a file had made durable, whatever the file says later.
struct KnownEnd: Equatable {
    var epoch: Epoch
    var lastSequence: UInt64
}

/// The files of a buffer while it is salvaged, and the order in which they change, so that a crash at any moment leaves
/// a state from which the next start goes on:
///
/// 1. `<path>.suspect` says why the file is not trusted. From then on each start salvages, from the same files.
/// 2. `<path>.rebuild` is written and fsynced. It counts for nothing yet: a start that finds the mark of 1 begins again.
/// 3. The mark is replaced by one that says `rebuilt`. From then on each start only finishes the moves:
/// 4. the log and the file are renamed to `<path>.damaged-<UTC>`, then `<path>.rebuild` to `<path>`.
/// 5. The mark is removed.
struct SalvageFiles {
    enum Mark: Equatable {
        case suspect(String, KnownEnd? = nil)
        case rebuilt(SalvageReport)
    }

    let path: String
    private let beforeChange: @Sendable () throws(BufferError) -> Void

    init(_ configuration: Buffer.Configuration) {
        path = configuration.path
        beforeChange = configuration.beforeFileChange
    }

    var rebuildPath: String { path + ".rebuild" }
    var markPath: String { path + ".suspect" }

    private static let rebuilt = "rebuilt\n"
    private static let acknowledged = "acknowledged "

    // MARK: Marks

    func mark() -> Mark? {
        guard FileSystem.exists(markPath) else { return nil }
        guard let bytes = try? AtomicFile.read(markPath, maximumBytes: 64 * 1024) else {
            return .suspect("its mark \(markPath) cannot be read")
        }
        let text = String(decoding: bytes, as: UTF8.self)
        if text.hasPrefix(Self.rebuilt), let report = SalvageReport(text: text.dropFirst(Self.rebuilt.count)) {
            return .rebuilt(report)
        }
        return Self.suspect(text)
    }

    /// A first line names what was acknowledged, if that is known.
    private static func suspect(_ text: String) -> Mark {
        let lines = text.split(separator: "\n", maxSplits: 1)
        guard text.hasPrefix(acknowledged), let line = lines.first else {
            return .suspect(text.isEmpty ? "unknown" : text)
        }
        let words = line.split(separator: " ")
        let cause = lines.count > 1 ? String(lines[1]) : "unknown"
        guard words.count == 3, let epoch = Epoch(hexadecimal: words[1]), let last = UInt64(words[2]),
            SyncLimits.numbers ~= last
        else { return .suspect(cause) }
        return .suspect(cause, KnownEnd(epoch: epoch, lastSequence: last))
    }

    func write(_ mark: Mark) throws(BufferError) {
        let text =
            switch mark {
            case .suspect(let cause, let end):
                (end.map { "\(Self.acknowledged)\($0.epoch.hexadecimal) \($0.lastSequence)\n" } ?? "") + cause
            case .rebuilt(let report): Self.rebuilt + report.text
            }
        try beforeChange()
        do throws(FileError) {
            try AtomicFile.write(Array(text.utf8), to: markPath, mode: 0o600, replacing: true)
        } catch {
            throw .io("\(error)")
        }
        try FileSystem.syncParent(of: path)
    }

    private func removeMark() throws(BufferError) {
        try beforeChange()
        unlink(markPath)
        try FileSystem.syncParent(of: path)
    }

    // MARK: Moves

    /// Removes what an interrupted salvage had built.
    func removeRebuild() {
        for suffix in ["", "-wal", "-journal", "-shm"] { unlink(rebuildPath + suffix) }
    }

    /// A name that is free, with the time in UTC.
    func damagedPath(now: Int64) -> String {
        let time = CivilTime(secondsSince1970: now / 1_000_000)
        func digits(_ value: Int, _ width: Int = 2) -> String {
            let text = String(value)
            return String(repeating: "0", count: max(0, width - text.utf8.count)) + text
        }
        let stamp =
            "\(digits(time.year, 4))\(digits(time.month))\(digits(time.day))T\(digits(time.hour))"
            + "\(digits(time.minute))\(digits(time.second))Z"
        var name = "\(path).damaged-\(stamp)"
        var count = 1
        while FileSystem.exists(name) || FileSystem.exists(name + "-wal") {
            count += 1
            name = "\(path).damaged-\(stamp)-\(count)"
        }
        return name
    }

    /// Moves the damaged files aside and the new one into their place, from wherever an earlier try came to.
    func finish(_ report: SalvageReport) throws(BufferError) {
        if FileSystem.exists(rebuildPath) {
            // The log first: beside the new file it would be taken for the new file's.
            for suffix in ["-wal", "-journal", "-shm", ""] where FileSystem.exists(path + suffix) {
                guard !FileSystem.exists(report.movedTo + suffix) else {
                    throw .unusable(
                        "\(report.movedTo + suffix) is there already, so \(path + suffix) cannot be moved to it; rename "
                            + "the former, then start again")
                }
                try move(path + suffix, to: report.movedTo + suffix)
            }
            try move(rebuildPath, to: path)
            removeRebuild()
        } else if !FileSystem.exists(path) {
            throw .unusable(
                "\(path) and \(rebuildPath) are gone, though a salvage was on its way; to start without what was in the "
                    + "buffer remove \(markPath), to salvage again rename \(report.movedTo) to \(path) first")
        }
        try removeMark()
    }

    private func move(_ old: String, to new: String) throws(BufferError) {
        try beforeChange()
        guard rename(old, new) == 0 else { throw .io("\(old) cannot be renamed to \(new): \(reason(errno))") }
        try FileSystem.syncParent(of: path)
    }
}
