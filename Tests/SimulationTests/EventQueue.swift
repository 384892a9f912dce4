/// What happens when, in the order of time; at one time in the order in which it was put in.
struct EventQueue<Event> {
    struct Item {
        var time: Int64
        fileprivate var order: Int
        /// The run of the daemon that it belongs to; `nil`: to the world around it.
        var life: Int?
        var event: Event
    }

    private var heap: [Item] = []
    private var count = 0

    mutating func add(_ event: Event, at time: Int64, life: Int?) {
        count += 1
        heap.append(Item(time: time, order: count, life: life, event: event))
        var index = heap.count - 1
        while index > 0, Self.isBefore(heap[index], heap[(index - 1) / 2]) {
            heap.swapAt(index, (index - 1) / 2)
            index = (index - 1) / 2
        }
    }

    mutating func next() -> Item? {
        guard !heap.isEmpty else { return nil }
        heap.swapAt(0, heap.count - 1)
        let first = heap.removeLast()
        var index = 0
        while true {
            var smallest = index
            for child in [2 * index + 1, 2 * index + 2]
            where child < heap.count && Self.isBefore(heap[child], heap[smallest]) {
                smallest = child
            }
            guard smallest != index else { return first }
            heap.swapAt(index, smallest)
            index = smallest
        }
    }

    private static func isBefore(_ a: Item, _ b: Item) -> Bool { (a.time, a.order) < (b.time, b.order) }
}
