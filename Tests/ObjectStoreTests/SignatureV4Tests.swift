import Testing

@testable import ObjectStore

/// The examples that AWS publishes: "Signature Version 4 test suite", and "Examples: Signature Calculations" of S3's API
/// reference.
@Suite struct SignatureV4Tests {
    private static let empty = SignatureV4.digest(of: [])

    private static let suite = SignatureV4(
        region: "us-east-1", service: "service",
        keys: S3Keys(id: "AKIDEXAMPLE", secret: "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"))

    private static let s3 = SignatureV4(
        region: "us-east-1", service: "s3",
        keys: S3Keys(id: "AKIAIOSFODNN7EXAMPLE", secret: "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"))

    private func signature(_ authorization: String) -> String {
        String(authorization[(authorization.firstRange(of: "Signature=")?.upperBound ?? authorization.endIndex)...])
    }

    @Test(arguments: [
        ("GET", [], "5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31"),
        ("POST", [], "5da7c1a2acd57cee7505fc6676e4e544621c30862966e37dddb68e92efbe5d6b"),
        (
            "GET", [("Param2", "value2"), ("Param1", "value1")],
            "b97d918cfa904a5beff61c982a1b6f458b799221646efd99d3219ec94cdf2500"
        ),
        ("GET", [("\u{1234}", "bar")], "2cdec8eed098649ff3a119c94853b13c643bcf08f8b0a1d91e12c9027818dd04"),
    ])
    func theTestSuite(method: String, query: [(String, String)], expected: String) {
        let request = SignatureV4.Request(
            method: method, path: "/", query: query.map { ($0.0, $0.1) },
            headers: [("Host", "example.amazonaws.com"), ("X-Amz-Date", "20150830T123600Z")], payloadDigest: Self.empty)
        #expect(signature(Self.suite.authorization(request, time: "20150830T123600Z")) == expected)
    }

    private func sign(
        _ method: String, _ path: String, query: [(name: String, value: String)] = [],
        headers: [(name: String, value: String)] = [], payload: String = ""
    ) -> String {
        let digest = SignatureV4.digest(of: payload.utf8)
        return Self.s3.authorization(
            .init(
                method: method, path: path, query: query,
                headers: headers + [
                    ("host", "examplebucket.s3.amazonaws.com"), ("x-amz-content-sha256", digest),
                    ("x-amz-date", "20130524T000000Z"),
                ], payloadDigest: digest), time: "20130524T000000Z")
    }

    @Test func gettingAnObject() {
        let authorization = sign("GET", "/test.txt", headers: [("Range", "bytes=0-9")])
        #expect(
            authorization == "AWS4-HMAC-SHA256 Credential=AKIAIOSFODNN7EXAMPLE/20130524/us-east-1/s3/aws4_request,"
                + "SignedHeaders=host;range;x-amz-content-sha256;x-amz-date,"
                + "Signature=f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41")
    }

    @Test func puttingAnObject() {
        let authorization = sign(
            "PUT", "/" + SignatureV4.encoded("test$file.text", keepingSlashes: true),
            headers: [
                ("Date", "Fri, 24 May 2013 00:00:00 GMT"), ("x-amz-storage-class", "REDUCED_REDUNDANCY"),
            ], payload: "Welcome to Amazon S3.")
        #expect(signature(authorization) == "98ad721746da40c64f1a55b78f14c238d841ea1380cd77a1b5971af0ece108bd")
    }

    @Test func queriesOfABucket() {
        #expect(
            signature(sign("GET", "/", query: [("lifecycle", "")]))
                == "fea454ca298b7da1c68078a5d1bdbfbbe0d65c699e0f91ac7a200a0136783543")
        #expect(
            signature(sign("GET", "/", query: [("max-keys", "2"), ("prefix", "J")]))
                == "34b48302e7b5fa45bde8084f4b7868a86f0a534bc59db6670ed5711ef69dc6f7")
    }

    @Test func charactersAndTimes() {
        #expect(SignatureV4.encoded("a=b/~_-. ü", keepingSlashes: true) == "a%3Db/~_-.%20%C3%BC")
        #expect(SignatureV4.encoded("a/b") == "a%2Fb")
        #expect(SignatureV4.time(secondsSince1970: 1_369_353_600) == "20130524T000000Z")
    }

    @Test func aKeyShowsNoSecret() {
        let keys = S3Keys(id: "AKID", secret: "hunter2", sessionToken: "hunter3")
        var dumped = ""
        dump(keys, to: &dumped)
        for text in ["\(keys)", String(reflecting: keys), dumped, "\([keys])"] {
            #expect(!text.contains("hunter") && text.contains("AKID"))
        }
    }
}
