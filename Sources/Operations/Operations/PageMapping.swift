import CMalloc

/// Buffers that are large and mostly unused, such as those that TLS keeps for each connection (32 and 16 KiB, of which an
/// idle connection touches a page or two). On the heap they would lie in memory that others have touched before, and count
/// in full; mapped by themselves they count by the page.
package enum PageMapping {
    private static let mapped: Int32 = 16 * 1024
    /// What is allocated again and again, above all a commit's frames, must not be mapped and unmapped each time.
    private static let usual: Int32 = 4 * 1024 * 1024

    /// Runs a body whose allocations of 16 KiB and more get pages of their own. Allocations of other threads in this moment
    /// may get some too, which costs them a system call and nothing else.
    package static func mapped<Value>(_ body: () throws -> Value) rethrows -> Value {
        _ = mallopt(M_MMAP_THRESHOLD, mapped)
        defer { _ = mallopt(M_MMAP_THRESHOLD, usual) }
        return try body()
    }
}
