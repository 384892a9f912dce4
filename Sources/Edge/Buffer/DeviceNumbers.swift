import SyncModel

/// The last dense number of each device in the running epoch. The gateway names devices by handles, which pass from one
/// device to another when the first is forgotten; what the buffer itself commits names them by their ids. Numbers belong to
/// the id.
///
/// Clients without a certificate may call themselves what they like, so there is no bound to the ids of an epoch; there is
/// one to those that are remembered here. Whoever owns the value writes `surplus` down and then lets go of it, and recalls
/// what `isForgotten` before it gives a number.
struct DeviceNumbers {
    /// Of devices without a handle.
    static let maximumOthers = 10_000

    private struct Entry {
        var device: String
        var last: UInt64
    }

    /// By handle.
    private var entries: [Entry] = []
    /// Of devices that have an entry.
    private var handles: [String: Int] = [:]
    /// Of devices that have a number and no entry.
    private var others: [String: UInt64] = [:]
    private var hasLetGo = false

    /// - Returns: the first of as many numbers as the device has messages in the draft.
    mutating func give(_ device: FrameDraft.Device) -> UInt64 {
        guard device.handle != FrameDraft.Device.noHandle else { return give(device.count, to: device.id) }
        let index = claim(Int(device.handle), for: device.id)
        entries[index].last += device.count
        return entries[index].last - device.count + 1
    }

    /// Undoes the last `give` of the draft.
    mutating func takeBack(_ device: FrameDraft.Device) {
        if let index = handles[device.id] {
            entries[index].last -= device.count
        } else if let last = others[device.id] {
            others[device.id] = last > device.count ? last - device.count : nil
        }
    }

    private mutating func give(_ count: UInt64, to id: String) -> UInt64 {
        if let index = handles[id] {
            entries[index].last += count
            return entries[index].last - count + 1
        }
        let last = others[id] ?? 0
        others[id] = last + count
        return last + 1
    }

    private mutating func claim(_ index: Int, for id: String) -> Int {
        if index >= entries.count {
            entries.append(contentsOf: repeatElement(Entry(device: "", last: 0), count: index + 1 - entries.count))
        }
        if entries[index].device == id { return index }
        let former = entries[index]
        if !former.device.isEmpty {
            handles[former.device] = nil
            if former.last > 0 { others[former.device] = former.last }
        }
        var last = others.removeValue(forKey: id) ?? 0
        if let earlier = handles[id] {
            last = entries[earlier].last
            entries[earlier] = Entry(device: "", last: 0)
        }
        entries[index] = Entry(device: id, last: last)
        handles[id] = index
        return index
    }

    // MARK: Letting go

    /// How many are remembered without a handle.
    var otherCount: Int { others.count }

    /// Devices without a handle that are to be written down; a quarter more than there are too many, so that they go many
    /// at a time.
    var surplus: [(device: String, last: UInt64)] {
        guard others.count > Self.maximumOthers else { return [] }
        return others.prefix(others.count - Self.maximumOthers * 3 / 4).map { ($0.key, $0.value) }
    }

    /// What is written down.
    mutating func letGo(_ written: [(device: String, last: UInt64)]) {
        hasLetGo = hasLetGo || !written.isEmpty
        for (device, _) in written { others[device] = nil }
    }

    /// Whether a number may have been written down that is not remembered.
    func isForgotten(_ id: String) -> Bool { hasLetGo && handles[id] == nil && others[id] == nil }

    mutating func recall(_ id: String, last: UInt64) { others[id] = last }
}
