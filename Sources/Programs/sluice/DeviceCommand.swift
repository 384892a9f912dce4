import ArgumentParser
import Buffer
import Operations

/// `sluice device`.
struct DeviceCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "device", abstract: "The devices of a gateway that runs on this host.",
        subcommands: [DeviceListCommand.self])
}

struct DeviceListCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "list", abstract: "Who is connected, how fast it sends, and whom the limits hold back.",
        discussion: """
            Devices that were over their limits within the last minute, and such as send ten times as much as they usually \
            do, come first, also when they are gone; then the connected ones by name. Refused messages are counted since \
            the buffer's file was made. Asks the daemon through its local socket; run it as the daemon's user or as root.
            """)

    @OptionGroup var options: BufferOptions

    @Flag(help: "Print JSON.")
    var json = false

    func run() async throws {
        let listing = try await ControlClient.devices(ofBuffer: options.buffer)
        print(json ? try jsonText(listing) : DeviceTable.text(listing))
    }
}

enum DeviceTable {
    static func text(_ listing: DeviceListing) -> String {
        guard !listing.devices.isEmpty else { return "no device is connected" }
        let header = [
            "DEVICE", "CLIENTS", "GROUP", "MSG/S", "LAST MIN", "BYTES/S", "LAST MIN", "STATE", "REFUSED", "SINCE",
        ]
        var lines = Table.lines([header] + listing.devices.map(row))
        if listing.leftOut > 0 { lines.append("and \(listing.leftOut) more") }
        return lines.joined(separator: "\n")
    }

    private static func row(_ device: DeviceStatus) -> [String] {
        var states: [String] = device.limit == .none ? [] : [device.limit.rawValue]
        if device.isUnusual { states.append("unusual") }
        if device.clients.isEmpty { states.append("gone") }
        let clients = device.clients.map(\.id.shown)
        let refused = device.refused.sorted { $0.key < $1.key }.map { "\($0.key)=\($0.value)" }
        return [
            device.id.shown, clients.prefix(3).joined(separator: ",") + (clients.count > 3 ? ",…" : ""),
            device.group ?? "-", Shown.rate(device.lastTenSeconds.messagesPerSecond),
            Shown.rate(device.lastMinute.messagesPerSecond), Shown.bytes(device.lastTenSeconds.bytesPerSecond),
            Shown.bytes(device.lastMinute.bytesPerSecond), states.isEmpty ? "-" : states.joined(separator: ","),
            refused.isEmpty ? "-" : refused.joined(separator: ","), device.clients.map(\.connectedSince).min() ?? "-",
        ]
    }
}

/// Columns that are as wide as what is in them.
enum Table {
    static func lines(_ rows: [[String]]) -> [String] {
        let widths = (rows.first ?? []).indices.map { column in rows.map { $0[column].count }.max() ?? 0 }
        return rows.map { row in
            let cells = zip(row, widths).map { cell, width in cell + String(repeating: " ", count: width - cell.count) }
            var line = cells.joined(separator: "  ")
            while line.last == " " { line.removeLast() }
            return line
        }
    }
}
