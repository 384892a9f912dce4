#if canImport(Glibc)
    import Glibc
#elseif canImport(Musl)
    import Musl
#endif

/// listen(2), whose name the method below hides.
private func startListening(_ descriptor: CInt, _ backlog: CInt) -> CInt { listen(descriptor, backlog) }

enum UnixSocket {
    /// A listening socket with mode 0600. The mode is set before `listen`, until which nobody can connect.
    static func listen(at path: String, backlog: Int32) throws(BufferError) -> CInt {
        var address = sockaddr_un()
        address.sun_family = sa_family_t(AF_UNIX)
        let room = MemoryLayout.size(ofValue: address.sun_path)
        guard path.utf8.count < room else {
            throw .control("\(path): longer than the \(room - 1) bytes of a socket's path; shorten buffer.path")
        }
        withUnsafeMutableBytes(of: &address.sun_path) { $0.copyBytes(from: path.utf8) }
        remove(path)
        let descriptor = socket(AF_UNIX, Int32(SOCK_STREAM.rawValue) | Int32(SOCK_CLOEXEC.rawValue), 0)
        guard descriptor >= 0 else { throw .control("\(path): \(reason(errno))") }
        let bound = withUnsafePointer(to: &address) { pointer in
            pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) {
                bind(descriptor, $0, socklen_t(MemoryLayout<sockaddr_un>.size))
            }
        }
        guard bound == 0, chmod(path, 0o600) == 0, startListening(descriptor, backlog) == 0 else {
            let code = errno
            close(descriptor)
            throw .control("\(path): the control socket cannot be made: \(reason(code))")
        }
        return descriptor
    }

    static func remove(_ path: String) { unlink(path) }
}
