/// The keys that come most often, in bounded memory: the algorithm Space-Saving (Metwally, Agrawal and El Abbadi, 2005).
///
/// A key that is not kept takes the place of the lightest, and its weight with it. So every key whose share of the whole
/// weight is above 1 / capacity is kept; a weight is too high by at most what was taken over.
package struct HeavyHitters<Key: Hashable & Sendable, Value: Sendable>: Sendable {
    package struct Entry: Sendable {
        package fileprivate(set) var key: Key
        package fileprivate(set) var weight: UInt64
        package fileprivate(set) var value: Value
        /// Its position in `heap`.
        fileprivate var place: Int
    }

    package let capacity: Int
    package private(set) var entries: [Entry] = []
    /// Positions in `entries`.
    private var slots: [Key: Int] = [:]
    /// The lightest first: a binary heap of positions in `entries`.
    private var heap: [Int] = []

    /// - Parameter capacity: at least 1.
    package init(capacity: Int) { self.capacity = max(1, capacity) }

    package subscript(key: Key) -> Value? { slots[key].map { entries[$0].value } }

    /// - Parameter fresh: the value of a key that was not kept.
    package mutating func add(
        _ weight: UInt64, of key: Key, fresh: @autoclosure () -> Value, _ body: (inout Value) -> Void
    ) {
        let slot = slots[key] ?? place(key, fresh())
        let (sum, isTooLarge) = entries[slot].weight.addingReportingOverflow(weight)
        entries[slot].weight = isTooLarge ? .max : sum
        body(&entries[slot].value)
        sink(entries[slot].place)
    }

    /// Halves every weight, so that what was heavy long ago makes room.
    package mutating func halve() {
        // Halving keeps the order.
        for slot in entries.indices { entries[slot].weight /= 2 }
    }

    private mutating func place(_ key: Key, _ value: Value) -> Int {
        if entries.count < capacity {
            entries.append(Entry(key: key, weight: 0, value: value, place: heap.count))
            heap.append(entries.count - 1)
            slots[key] = entries.count - 1
            rise(heap.count - 1)
            return entries.count - 1
        }
        let slot = heap[0]
        slots[entries[slot].key] = nil
        entries[slot].key = key
        entries[slot].value = value
        slots[key] = slot
        return slot
    }

    private mutating func rise(_ start: Int) {
        var place = start
        while place > 0 {
            let parent = (place - 1) / 2
            guard weight(place) < weight(parent) else { return }
            exchange(place, parent)
            place = parent
        }
    }

    private mutating func sink(_ start: Int) {
        var place = start
        while true {
            var lightest = place
            for child in (2 * place + 1)...(2 * place + 2)
            where child < heap.count && weight(child) < weight(lightest) {
                lightest = child
            }
            guard lightest != place else { return }
            exchange(place, lightest)
            place = lightest
        }
    }

    private func weight(_ place: Int) -> UInt64 { entries[heap[place]].weight }

    private mutating func exchange(_ a: Int, _ b: Int) {
        heap.swapAt(a, b)
        entries[heap[a]].place = a
        entries[heap[b]].place = b
    }
}
