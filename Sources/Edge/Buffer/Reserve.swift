/// `<path>.reserve`: disk space that is set aside while there is some. It is given up when a write finds the disk full, so
/// that answers, deletions and ledger lines can still be written, which is what makes room again.
struct Reserve {
    private let path: String
    private let bytes: Int
    private let space: DiskSpace
    /// What the file has of the disk; an earlier process may have left it.
    private var held: Int

    init(ofBuffer path: String, bytes: Int, on space: DiskSpace) {
        self.path = path + ".reserve"
        self.bytes = bytes
        self.space = space
        held = space.allocated(self.path)
    }

    var isHeld: Bool { held > 0 }

    /// Takes the space if the disk has it.
    mutating func hold() {
        guard held < bytes else { return }
        held = space.allocate(path, bytes) ? bytes : 0
    }

    mutating func release() {
        held = 0
        space.release(path)
    }
}
