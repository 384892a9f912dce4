import EventLog
import Testing

@Suite struct Murmur2Tests {
    /// The vectors of Kafka's own `UtilsTest.testMurmur2`.
    @Test(
        arguments: [
            ("21", -973_932_308),
            ("foobar", -790_332_482),
            ("a-little-bit-long-string", -985_981_536),
            ("a-little-bit-longer-string", -1_486_304_829),
            ("lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58_897_971),
            ("abc", 479_470_107),
        ] as [(String, Int32)])
    func matchesKafkasJavaClient(_ key: String, _ hash: Int32) {
        #expect(Murmur2.hash(key) == hash)
    }

    @Test func partitionTakesThePositiveMask() {
        // -973932308 & 0x7fffffff = 1173551340
        #expect(Murmur2.partition(of: "21", partitions: 32) == 1_173_551_340 % 32)
        #expect(Murmur2.partition(of: "21", partitions: 1) == 0)
        for length in 0..<40 {
            let partition = Murmur2.partition(of: String(repeating: "ü", count: length), partitions: 7)
            #expect((0..<7).contains(partition))
        }
    }
}
