import Glibc

extension CloudConfiguration.Database {
    /// The first line of its file; `nil` where there is no file of it.
    package func password() throws(FileError) -> String? {
        guard let passwordFile else { return nil }
        // Bytes: to a String, CR LF is one character that is neither.
        let line = try AtomicFile.read(passwordFile, maximumBytes: 4_096)
            .prefix { $0 != UInt8(ascii: "\n") && $0 != UInt8(ascii: "\r") }
        return String(decoding: line, as: UTF8.self)
    }

    /// The URL, after the password was given to libpq through the variable that is its own: so it is in no URL, on no
    /// command line and in no log.
    package func urlWithPasswordSet() throws(FileError) -> String {
        if let password = try password() { setenv("PGPASSWORD", password, 1) }
        return url
    }
}
