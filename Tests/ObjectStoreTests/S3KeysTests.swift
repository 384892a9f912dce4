import Testing

@testable import ObjectStore

@Suite struct S3KeysTests {
    @Test func theFileTheCredentialTheEnvironmentInThisOrder() throws {
        let folder = try Folder()
        let file = try folder.write(
            """
            # a comment
            [other]
            aws_access_key_id = NO
            [default]
            aws_access_key_id = A=B
            aws_secret_access_key=s/e+c=
              aws_session_token = t

            """, to: "file")
        let environment = [
            "AWS_ACCESS_KEY_ID": "E", "AWS_SECRET_ACCESS_KEY": "es", "CREDENTIALS_DIRECTORY": folder.path,
        ]
        let named = S3KeySource(file: file, environment: { environment[$0] })
        #expect(try named.keys() == S3Keys(id: "A=B", secret: "s/e+c=", sessionToken: "t"))
        let unnamed = S3KeySource(file: nil, environment: { environment[$0] })
        #expect(try unnamed.keys() == S3Keys(id: "E", secret: "es"))
        _ = try folder.write("aws_access_key_id = C\naws_secret_access_key = cs", to: S3KeySource.credential)
        #expect(try unnamed.keys() == S3Keys(id: "C", secret: "cs"))
        let none = S3KeySource(file: nil, environment: { _ in nil })
        let error = #expect(throws: ObjectStoreError.self) { try none.keys() }
        #expect(error?.description.contains("there is no access key: set objects.s3.credentialsFile") == true)
    }

    @Test func badFilesAreNamedAndNotShown() throws {
        let folder = try Folder()
        for text in ["aws_access_key_id = A", "aws_access_key_id = A\naws_secret_access_key = hunter\u{7}2", ""] {
            let file = try folder.write(text, to: "file")
            let error = #expect(throws: ObjectStoreError.self) { try S3KeySource(file: file).keys() }
            #expect(error?.description.contains(file) == true && error?.description.contains("hunter") == false)
        }
        #expect(throws: ObjectStoreError.self) { try S3KeySource(file: folder.path + "/none").keys() }
    }
}

@Suite struct S3AnswerTests {
    @Test func aPage() {
        let page = S3Answer.page(
            """
            <?xml version="1.0" encoding="UTF-8"?><!-- a > b -->
            <ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><Name>b</Name><Prefix/>
            <IsTruncated>true</IsTruncated>
            <Contents><Key>a&amp;b&#x41;&unknown;</Key><Size>12</Size><Owner><ID>o</ID></Owner></Contents>
            <CommonPrefixes><Prefix>p</Prefix></CommonPrefixes></ListBucketResult>
            """)
        #expect(page == .init(objects: [.init(key: "a&bA&unknown;", bytes: 12)], isTruncated: true))
    }

    @Test(arguments: [
        "", "nonsense", "<ListBucketResult><IsTruncated>true</IsTruncated>", "<a><IsTruncated>false</IsTruncated></a>",
        "<ListBucketResult></ListBucketResult>", "<ListBucketResult><IsTruncated>false</ListBucketResult>",
        "<ListBucketResult><Contents><Key>k</Key></Contents><IsTruncated>false</IsTruncated></ListBucketResult>",
        "<!-- never ends", "<a", String(repeating: "<a>", count: 100),
    ])
    func noPages(text: String) { #expect(S3Answer.page(text) == nil) }

    @Test func failures() {
        let failure = S3Answer.failure("<Error><Code>NoSuchKey</Code><Message>a &lt; b</Message></Error>")
        #expect(failure == .init(code: "NoSuchKey", message: "a < b"))
        #expect(S3Answer.failure("<html>busy</html>") == .init())
    }
}
