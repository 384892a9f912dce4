import ObjectStore
import Testing

@Suite struct ObjectStoreErrorTests {
    @Test func aTextNamesTheObject() {
        #expect("\(ObjectStoreError.tooLarge(key: "a/b", maximumBytes: 10))" == "the object a/b has more than 10 bytes")
    }
}
