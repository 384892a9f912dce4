import ArgumentParser
import EventLog
import Foundation
import Logging
import Operations

/// `sluice topics`.
struct TopicsCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "topics", abstract: "Bring Kafka's topics to what is declared, or prove that they are so.",
        discussion: """
            Without --topics the declaration is looked for in $SLUICE_TOPICS, ./cloud/topics.yaml, ../share/sluice/topics.yaml \
            beside the program's folder, and cloud/topics.yaml in each folder above the program.
            """,
        subcommands: [TopicsApply.self, TopicsCheck.self])
}

struct TopicsOptions: ParsableArguments {
    @Option(help: ArgumentHelp("The configuration of sluice-cloud.", valueName: "file"))
    var config: String

    @Option(help: ArgumentHelp("The declaration.", valueName: "file"))
    var topics: String?

    @Option(
        help: ArgumentHelp(
            "Replicas instead of the declared ones, for a cluster of fewer brokers; no more in-sync replicas are demanded.",
            valueName: "count"))
    var replication: Int?

    @Flag(help: "Print the differences as JSON.")
    var json = false

    func validate() throws {
        if let replication, !(1...100).contains(replication) {
            throw ValidationError("--replication \(replication): from 1 to 100 are allowed")
        }
    }

    struct Setup {
        var admin: KafkaTopicAdmin
        var declarations: [TopicDeclaration]
    }

    func open() throws -> Setup {
        // The role's only meaning here: an embedded log is refused, and no listener is needed.
        guard case .kafka(let kafka) = try CloudConfiguration.load(file: config, role: .process).eventLog else {
            throw ValidationError("\(config): eventLog is no Kafka")
        }
        let file = try Self.declaration(given: topics)
        var declarations = try TopicsFile.load(file)
        guard declarations.contains(where: { $0.name == kafka.topic }) else {
            throw ValidationError(
                "\(file) does not declare \(kafka.topic), which \(config) names as eventLog.kafka.topic")
        }
        if let replication { declarations = declarations.map { $0.replicated(replication) } }
        var logger = Logger(label: "sluice.topics")
        logger.logLevel = .error
        let quiet = logger
        let admin = try TopicsFailure.inWords { () throws(EventLogError) in
            try KafkaTopicAdmin(KafkaConfiguration(kafka), logger: quiet)
        }
        return Setup(admin: admin, declarations: declarations)
    }

    private static func declaration(given: String?) throws -> String {
        if let given = given ?? ProcessInfo.processInfo.environment["SLUICE_TOPICS"] { return given }
        let files = FileManager.default
        var candidates = [files.currentDirectoryPath + "/cloud/topics.yaml"]
        if let program = try? files.destinationOfSymbolicLink(atPath: "/proc/self/exe") {
            var folder = URL(fileURLWithPath: program).deletingLastPathComponent()
            candidates.append(folder.deletingLastPathComponent().path + "/share/sluice/topics.yaml")
            while folder.path != "/" {
                folder = folder.deletingLastPathComponent()
                candidates.append((folder.path == "/" ? "" : folder.path) + "/cloud/topics.yaml")
            }
        }
        if let found = candidates.first(where: files.fileExists) { return found }
        throw ValidationError("no topics.yaml in \(candidates.joined(separator: ", ")): name it with --topics")
    }

    /// Prints what is different.
    ///
    /// - Returns: whether nothing is.
    func report(_ plans: [(TopicDeclaration, TopicPlan)]) throws -> Bool {
        let lines = plans.flatMap { topic, plan in
            plan.differences.map {
                TopicLine(topic: topic.name, difference: "\($0)", remedy: $0.remedy)
            }
        }
        if json {
            print(try jsonText(lines))
        } else {
            for line in lines {
                print("\(line.topic): \(line.difference)\(line.remedy.map { "; \($0)" } ?? "")")
            }
            if lines.isEmpty {
                for (topic, _) in plans { print("\(topic.name): as declared, \(topic.partitions) partitions") }
            }
        }
        return lines.isEmpty
    }
}

/// What the brokers or librdkafka said.
private struct TopicsFailure: Error, CustomStringConvertible {
    let description: String

    static func inWords<Value>(_ body: () throws(EventLogError) -> Value) throws(TopicsFailure) -> Value {
        do { return try body() } catch {
            switch error {
            case .busy(let text), .unavailable(let text), .other(let text): throw TopicsFailure(description: text)
            case .outOfRange, .recordTooLarge, .closed: throw TopicsFailure(description: "Kafka: \(error)")
            }
        }
    }
}

private struct TopicLine: Encodable {
    var topic: String
    var difference: String
    var remedy: String?
}

extension TopicsOptions.Setup {
    func plans() throws -> [(TopicDeclaration, TopicPlan)] {
        try declarations.map { topic in
            let state = try TopicsFailure.inWords { () throws(EventLogError) in try admin.state(of: topic.name) }
            return (topic, TopicPlan(topic, state))
        }
    }
}

struct TopicsCheck: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "check", abstract: "Name every difference; the exit code is 1 where there is one.")

    @OptionGroup var options: TopicsOptions

    func run() async throws {
        if try !options.report(try options.open().plans()) { throw ExitCode(1) }
    }
}

struct TopicsApply: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "apply", abstract: "Create what is missing, add partitions and set configurations.",
        discussion: """
            What would lose messages is refused. What the declaration does not name stays as it is, and is named. \
            The exit code is 1 where a difference is left.
            """)

    @OptionGroup var options: TopicsOptions

    func run() async throws {
        let setup = try options.open()
        if try !perform(try setup.plans(), setup) {
            // What others have made has their settings.
            try perform(try await plans(setup) { $0 == .create }, setup)
        }
        if try !options.report(try await plans(setup) { _ in true }) { throw ExitCode(1) }
    }

    /// - Returns: false where somebody else has made a topic meanwhile.
    @discardableResult
    private func perform(_ plans: [(TopicDeclaration, TopicPlan)], _ setup: TopicsOptions.Setup) throws -> Bool {
        var isOurs = true
        for (topic, plan) in plans {
            for action in plan.actions {
                let isDone = try TopicsFailure.inWords { () throws(EventLogError) in
                    try setup.admin.perform(action, on: topic)
                }
                if !isDone { isOurs = false } else if !options.json { print("\(topic.name): \(action.done)") }
            }
        }
        return isOurs
    }

    /// What is left to do. Brokers need some moments until all of them know what was done.
    private func plans(
        _ setup: TopicsOptions.Setup, without isUnfinished: (TopicAction) -> Bool
    ) async throws -> [(TopicDeclaration, TopicPlan)] {
        let end = ContinuousClock.now + .seconds(10)
        var plans = try setup.plans()
        while plans.contains(where: { $0.1.actions.contains(where: isUnfinished) }), ContinuousClock.now < end {
            try await Task.sleep(for: .milliseconds(200))
            plans = try setup.plans()
        }
        return plans
    }
}

extension TopicAction {
    fileprivate var done: String {
        switch self {
        case .create: "created"
        case .grow(let partitions): "has \(partitions) partitions now"
        case .configure: "configured"
        }
    }
}
