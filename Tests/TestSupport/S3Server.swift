import Foundation
import Glibc

/// A real S3 server for tests: `SLUICE_TEST_S3` where it is set (`http[s]://host:port/bucket`, its key in the environment
/// as the AWS tools have it), else moto's on a free port of 127.0.0.1, which checks signatures; one a test process, ended
/// when the process ends.
package struct S3Server: Sendable {
    package let endpoint: String
    package let bucket: String
    package let region: String
    package let id: String
    package let secret: String

    /// `nil` where none can be had; `reason` says why.
    package static let shared: S3Server? = outside ?? moto()
    package static let reason =
        "no S3 server: set SLUICE_TEST_S3, or install moto by: scripts/install-dependencies.sh test"

    /// A file as the AWS tools have it; the test removes it with its folder.
    package func writeKeys(to file: String, secret: String? = nil) throws {
        try Data("[default]\naws_access_key_id = \(id)\naws_secret_access_key = \(secret ?? self.secret)\n".utf8)
            .write(to: URL(fileURLWithPath: file))
        chmod(file, 0o600)
    }

    private static var outside: S3Server? {
        let environment = ProcessInfo.processInfo.environment
        guard let text = environment["SLUICE_TEST_S3"], let url = URLComponents(string: text),
            let scheme = url.scheme, let host = url.host, let id = environment["AWS_ACCESS_KEY_ID"],
            let secret = environment["AWS_SECRET_ACCESS_KEY"]
        else { return nil }
        return S3Server(
            endpoint: "\(scheme)://\(host)" + (url.port.map { ":\($0)" } ?? ""),
            bucket: url.path.split(separator: "/").first.map(String.init) ?? "sluice-test",
            region: environment["AWS_REGION"] ?? "us-east-1", id: id, secret: secret)
    }

    // MARK: moto

    private struct Ready: Decodable {
        var port: Int
        var id: String
        var secret: String
    }

    private static func moto() -> S3Server? {
        for python in pythons {
            guard let ready = start(python) else { continue }
            return S3Server(
                endpoint: "http://127.0.0.1:\(ready.port)", bucket: "sluice-test", region: "us-east-1", id: ready.id,
                secret: ready.secret)
        }
        return nil
    }

    /// The virtual environment of scripts/install-dependencies.sh, then whatever the path has.
    private static var pythons: [String] {
        let environment = ProcessInfo.processInfo.environment
        let cache = environment["XDG_CACHE_HOME"] ?? (environment["HOME"] ?? "/root") + "/.cache"
        return ["\(cache)/sluice/moto/bin/python", "python3"]
    }

    /// The first actions are not checked, so that the rest can have a user: create user, policy, key.
    ///
    /// moto computes the signature over the decoded path and query, where AWS takes them as they were sent: mended here, or
    /// no key with "=" would pass.
    private static let script = """
        import json, logging, os, sys, threading
        os.environ["INITIAL_NO_AUTH_ACTION_COUNT"] = "3"
        logging.disable(logging.CRITICAL)
        from urllib.parse import quote, unquote
        import boto3
        from moto.iam import access_control
        from moto.server import ThreadedMotoServer
        original = access_control.IAMRequestBase._create_aws_request
        def as_sent(self):
            path, mark, query = self._path.partition("?")
            pairs = [pair.partition("=") for pair in query.split("&")]
            query = "&".join(name + equals + quote(unquote(value), safe="~") for name, equals, value in pairs)
            self._path = quote(unquote(path), safe="/~") + mark + query
            return original(self)
        access_control.IAMRequestBase._create_aws_request = as_sent
        server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
        server.start()
        port = server.get_host_and_port()[1]
        def client(service, id, secret):
            return boto3.client(service, endpoint_url=f"http://127.0.0.1:{port}", region_name="us-east-1",
                aws_access_key_id=id, aws_secret_access_key=secret)
        iam = client("iam", "none", "none")
        iam.create_user(UserName="sluice")
        allowed = {"Effect": "Allow", "Action": "s3:*", "Resource": "*"}
        denied = {"Effect": "Deny", "Action": "s3:*", "Resource": "arn:aws:s3:::sluice-forbidden*"}
        policy = {"Version": "2012-10-17", "Statement": [allowed, denied]}
        iam.put_user_policy(UserName="sluice", PolicyName="s3", PolicyDocument=json.dumps(policy))
        key = iam.create_access_key(UserName="sluice")["AccessKey"]
        client("s3", key["AccessKeyId"], key["SecretAccessKey"]).create_bucket(Bucket="sluice-test")
        ready = {"port": port, "id": key["AccessKeyId"], "secret": key["SecretAccessKey"]}
        print(json.dumps(ready), flush=True)
        sys.stdin.read()
        os._exit(0)
        """

    /// The server reads its standard input until this process ends, however it ends: the kernel closes the pipe then.
    private static func start(_ python: String) -> Ready? {
        var input: [Int32] = [0, 0]
        var output: [Int32] = [0, 0]
        guard pipe(&input) == 0, pipe(&output) == 0 else { return nil }
        for end in input + output { _ = fcntl(end, F_SETFD, FD_CLOEXEC) }
        defer { [input[0], output[0], output[1]].filter { $0 >= 0 }.forEach { close($0) } }
        var actions = posix_spawn_file_actions_t()
        posix_spawn_file_actions_init(&actions)
        defer { posix_spawn_file_actions_destroy(&actions) }
        posix_spawn_file_actions_adddup2(&actions, input[0], STDIN_FILENO)
        posix_spawn_file_actions_adddup2(&actions, output[1], STDOUT_FILENO)
        posix_spawn_file_actions_addopen(&actions, STDERR_FILENO, "/dev/null", O_WRONLY, 0)
        let arguments: [String] = ["python", "-c", script]
        var words: [UnsafeMutablePointer<CChar>?] = arguments.map { strdup($0) }
        defer { words.forEach { free($0) } }
        words.append(nil)
        var pid = pid_t()
        guard posix_spawnp(&pid, python, &actions, nil, words, environ) == 0 else {
            close(input[1])
            return nil
        }
        close(output[1])
        output[1] = -1
        let line = firstLine(output[0], seconds: 60)
        guard let ready = try? JSONDecoder().decode(Ready.self, from: line) else {
            close(input[1])
            kill(pid, SIGKILL)
            var status: Int32 = 0
            waitpid(pid, &status, 0)
            return nil
        }
        return ready
    }

    private static func firstLine(_ descriptor: Int32, seconds: Int32) -> Data {
        var line = Data()
        var byte: UInt8 = 0
        while line.count < 4_096 {
            var waiting = pollfd(fd: descriptor, events: Int16(POLLIN), revents: 0)
            guard poll(&waiting, 1, seconds * 1_000) == 1, read(descriptor, &byte, 1) == 1, byte != 10 else { break }
            line.append(byte)
        }
        return line
    }
}
