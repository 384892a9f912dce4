import Operations

@testable import Buffer

/// Files as they are made at a first start, one for each size of pages: making one takes longer than all else that most runs
/// do.
struct EmptyFiles: Sendable {
    let bytes: [Int: [UInt8]]

    init(in directory: String) throws {
        var bytes: [Int: [UInt8]] = [:]
        for pageSize in Plan.pageSizes {
            var configuration = Buffer.Configuration(path: "\(directory)/empty-\(pageSize)", gatewayID: World.gateway)
            configuration.pageSize = pageSize
            try FileSystem.create(configuration.path)
            let connection = try Schema.open(configuration, for: .start)
            try connection.checkpoint(truncate: true)
            connection.close()
            bytes[pageSize] = SimulatedDisk.contents(configuration.path)
        }
        self.bytes = bytes
    }
}
