import Operations

/// What keeps the PKI's commands from doing what they were told.
package enum PKIError: Error, CustomStringConvertible {
    case badName(String)
    case badDays(Int)
    case outlivesAuthority(days: Int, authorityNotAfter: Int64)
    case exists(String)
    case noAuthority(directory: String)
    case damaged(file: String, reason: String)
    case unknown(id: String, directory: String)
    case ambiguous(id: String, kinds: [PeerRole.Kind])
    case duplicate(String)
    case busy(String)
    case file(FileError)
    case library(String)

    package var description: String {
        switch self {
        case .badName(let what): what
        case .badDays(let days): "--days must be 1 to \(PKIDirectory.maximumDays), found \(days)"
        case .outlivesAuthority(let days, let notAfter):
            "\(days) days are longer than the authority lives: it expires at \(RFC3339.text(secondsSince1970: notAfter))"
        case .exists(let path): "\(path) is there already; --force would replace it"
        case .noAuthority(let directory):
            "\(directory) has no authority; make one with: sluice pki init --directory \(directory)"
        case .damaged(let file, let reason): "\(file) is damaged: \(reason)"
        case .unknown(let id, let directory):
            "\(id) is neither an id nor a serial of a certificate issued from \(directory); see: sluice pki list"
        case .ambiguous(let id, let kinds):
            "\(id) is the id of a \(kinds.map(\.rawValue).joined(separator: " and of a ")); say which with --kind"
        case .duplicate(let id): "\(id) is named twice"
        case .busy(let directory): "another command is at work in \(directory); try again when it is done"
        case .file(let error): error.description
        case .library(let what): what
        }
    }
}
