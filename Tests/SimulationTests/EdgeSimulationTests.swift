import Foundation
import Testing

/// Seeds are run one after the other, each in a directory of its own.
struct SeededRuns {
    struct Totals: Sendable {
        var runs = 0
        var messages = 0
        var rows = 0
        var lines = 0
        var cuts = 0
        var kills = 0
        var salvages = 0

        static func += (a: inout Self, b: Self) {
            a.runs += b.runs
            a.messages += b.messages
            a.rows += b.rows
            a.lines += b.lines
            a.cuts += b.cuts
            a.kills += b.kills
            a.salvages += b.salvages
        }
    }

    private(set) var totals = Totals()
    private let root: String
    private let empty: EmptyFiles

    init() throws {
        // Memory, where there is some: a simulation syncs all the time.
        let shared = "/dev/shm"
        let base = FileManager.default.isWritableFile(atPath: shared) ? shared : NSTemporaryDirectory()
        root = base + "/sluice-simulation-\(ProcessInfo.processInfo.processIdentifier)-\(UUID().uuidString.prefix(8))"
        try FileManager.default.createDirectory(atPath: root, withIntermediateDirectories: true)
        empty = try EmptyFiles(in: root)
    }

    func remove() { try? FileManager.default.removeItem(atPath: root) }

    mutating func run(_ seed: UInt64, bug: PlantedBug? = nil, profile: Plan.Profile = .ordinary) -> World {
        let directory = root + "/\(seed)"
        mkdir(directory, 0o700)
        defer { try? FileManager.default.removeItem(atPath: directory) }
        let world = World(seed: seed, plan: Plan(seed: seed, profile), bug: bug, directory: directory, empty: empty)
        world.problems = world.run()
        totals.runs += 1
        totals.messages += world.truth.published.count
        totals.rows += world.cloud.tables.rows.count
        totals.lines += world.cloud.tables.ledger.count
        totals.cuts += world.disk.cuts
        totals.kills += world.kills
        totals.salvages += world.salvages
        return world
    }
}

@Suite struct EdgeSimulationTests {
    private static func number(_ name: String) -> UInt64? {
        ProcessInfo.processInfo.environment[name].flatMap { UInt64($0) }
    }

    /// `SLUICE_SIMULATION_SEEDS` seeds from `SLUICE_SIMULATION_FIRST` on; without them those that are named here, unless the
    /// machine is too slow for them.
    @Test func thePromiseHoldsWhateverHappens() async throws { try await run(.ordinary, seeds: 2_000, seconds: 45) }

    /// Writes, syncs and reads that fail, and a disk that is full.
    @Test func thePromiseHoldsOnAFailingDisk() async throws { try await run(.failingDisk, seeds: 700, seconds: 20) }

    /// What is missing then is in the ledger.
    @Test func thePromiseHoldsWhereBytesAreWrong() async throws { try await run(.rotten, seeds: 700, seconds: 20) }

    /// A stripe of the seeds on each processor.
    private func run(_ profile: Plan.Profile, seeds: UInt64, seconds: Int) async throws {
        let first = Self.number("SLUICE_SIMULATION_FIRST") ?? 1
        let count = Self.number("SLUICE_SIMULATION_SEEDS")
        // `scripts/simulate.sh` has a process for each processor.
        let stripes = count == nil ? UInt64(max(1, min(8, ProcessInfo.processInfo.activeProcessorCount))) : 1
        let start = ContinuousClock.now
        let totals = try await withThrowingTaskGroup(of: SeededRuns.Totals.self) { group in
            for stripe in 0..<stripes {
                group.addTask {
                    var runs = try SeededRuns()
                    defer { runs.remove() }
                    var failures = 0
                    var seed = first + stripe
                    while failures < 5, seed - first < count ?? seeds,
                        count != nil || ContinuousClock.now - start < .seconds(seconds)
                    {
                        let world = runs.run(seed, profile: profile)
                        if !world.problems.isEmpty {
                            failures += 1
                            Issue.record("\(Self.report(world, profile))")
                        }
                        seed += stripes
                    }
                    return runs.totals
                }
            }
            return try await group.reduce(into: SeededRuns.Totals()) { $0 += $1 }
        }
        print("simulation: \(profile), \(totals), \(ContinuousClock.now - start)")
        #expect(totals.rows > 0)
    }

    @Test func aSeedReproducesItsRun() throws {
        var runs = try SeededRuns()
        defer { runs.remove() }
        for seed in UInt64(1)...15 {
            let digests = (0..<2).map { _ in runs.run(seed, profile: .ordinary).trace.digest }
            #expect(digests[0] == digests[1], "seed \(seed)")
        }
    }

    /// Each mistake is found, and the seed that finds it is silent without it.
    @Test(arguments: PlantedBug.allCases) func aPlantedBugIsFound(bug: PlantedBug) throws {
        var runs = try SeededRuns()
        defer { runs.remove() }
        let profile: Plan.Profile = bug == .renumberedSalvage ? .rotten : .ordinary
        for seed in UInt64(1)...400 where !runs.run(seed, bug: bug, profile: profile).problems.isEmpty {
            let sound = runs.run(seed, profile: profile)
            #expect(sound.problems.isEmpty, "\(Self.report(sound, profile))")
            print("\(bug) is found by seed \(seed)")
            return
        }
        Issue.record("\(bug) is not found")
    }

    private static func report(_ world: World, _ profile: Plan.Profile) -> String {
        """
        seed \(world.seed): \(world.problems.prefix(6).joined(separator: "\n  "))
        \(world.trace.lines.suffix(Trace.maximumLines).joined(separator: "\n"))
        again: SLUICE_SIMULATION_FIRST=\(world.seed) SLUICE_SIMULATION_SEEDS=1 SWIFT_DETERMINISTIC_HASHING=1 \
        swift test --filter \(profile.test)
        """
    }
}
