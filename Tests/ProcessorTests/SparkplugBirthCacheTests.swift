import Sparkplug
import Testing

@testable import Processor

@Suite struct SparkplugBirthCacheTests {
    private func key(_ node: Int) -> SparkplugKey {
        SparkplugKey(gateway: ExactName("g"), entity: SparkplugEntity(group: "G".utf8, node: "n\(node)".utf8))
    }

    private func told(
        _ node: Int, _ sequence: Int64 = 1, _ prefix: String = "m", metrics: Int = 1
    ) -> SparkplugTold {
        SparkplugTold(
            key: key(node), position: at(sequence),
            definition: SparkplugDefinition(
                (0..<metrics).map { .init(name: Array("\(prefix)\($0)".utf8), alias: UInt64($0), datatype: nil) }))
    }

    private func at(_ sequence: Int64) -> GatewayPosition {
        GatewayPosition(run: 1, sequence: sequence, wallTime: 0)
    }

    /// Nodes that only send data, without a birth, have their weight as well.
    @Test func theLeastRecentlyUsedGoWhenThereIsTooMuch() {
        var cache = SparkplugBirthCache(maximumWeight: 1_000)
        for node in 1...500 {
            cache.startBatch()
            if !cache.use(key(0)) { cache.insert(key(0), .init()) }
            cache.insert(key(node), .init())
            if node % 2 == 0 { _ = cache.learn(told(node, 1, "n\(node)-", metrics: 50), time: 0) }
            #expect(cache.weight <= 1_100, "at most a batch's worth beyond the limit")
        }
        let known = [0, 500, 300].map { cache.use(key($0)) }
        #expect(known == [true, true, false])
        #expect(cache.count < 40)
        cache.clear()
        #expect(cache.weight == 0 && cache.count == 0)
    }

    /// A hundred machines of one make.
    @Test func whatManySayTheSameIsInMemoryOnce() {
        var cache = SparkplugBirthCache(maximumWeight: 100_000)
        cache.startBatch()
        for node in 1...100 { _ = cache.learn(told(node, metrics: 500), time: 0) }
        #expect(cache.count == 100 && cache.weight < 2_000)
        #expect(cache.definition(of: key(1), at: at(2)) === cache.definition(of: key(100), at: at(2)))
    }

    /// What was not used goes, but what the last batch used stays and is read by.
    @Test func definitionsThatAreNotReadAnyMoreGo() {
        var cache = SparkplugBirthCache(maximumWeight: 110)
        cache.startBatch()
        _ = cache.learn(told(1, 1, "old", metrics: 60), time: 0)
        cache.startBatch()
        _ = cache.learn(told(1, 2, "new", metrics: 60), time: 0)
        cache.startBatch()
        cache.read(key(1), at: [at(3)])
        #expect(cache.definition(of: key(1), at: at(3))?.metrics.count == 60)
        #expect(cache.birth(of: key(1), at: at(1)) != nil && cache.definition(of: key(1), at: at(1)) == nil)
    }

    @Test func aBirthIsLateWhereDataAfterItWasReadOtherwise() {
        var cache = SparkplugBirthCache(maximumWeight: 1_000)
        func learn(_ sequence: Int64, _ prefix: String) -> SparkplugBirthCache.Learned {
            cache.learn(told(1, sequence, prefix), time: 0)
        }
        cache.startBatch()
        #expect(learn(10, "X") == .new)
        cache.read(key(1), at: [at(14), at(12)])
        #expect(learn(14, "Y") == .new, "the data at its own place is itself")
        #expect(learn(14, "Y") == .known)
        #expect(learn(13, "X") == .new, "it says what the one before it says")
        #expect(learn(11, "Z") == .newButLate)
        cache.read(key(1), at: [at(20), at(5)])
        #expect(learn(15, "Z") == .newButLate)
        #expect(learn(21, "Z") == .new)
        #expect(learn(3, "Z") == .newButLate, "what was read by no birth at all")
        #expect(learn(6, "Z") == .new, "all data before the next birth is older")
        // What is read anew from the database does not change what has been read.
        cache.insert(key(1), .init())
        #expect(learn(1, "Q") == .newButLate)
    }

    @Test func theDatabaseIsToldOfUseOnceAnHour() {
        var cache = SparkplugBirthCache(maximumWeight: 1_000)
        let hour = SparkplugBirthCache.useInterval
        cache.startBatch()
        cache.insert(key(1), .init())
        var told = [cache.isUseDue(key(1), time: 10)]
        // From here the database knows it.
        _ = cache.learn(self.told(1), time: 10)
        for time in [10 + hour, 11 + hour, 12 + hour] { told.append(cache.isUseDue(key(1), time: time)) }
        #expect(told == [false, false, true, false])
    }
}
