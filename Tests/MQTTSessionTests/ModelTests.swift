import Foundation
import MQTTWire
import Testing

@testable import MQTTSession

/// What a client got, in the broker's form.
struct Arrival {
    var topic: String
    var payload: String
    var qos: QoS
    var id: UInt16
    var isDuplicate: Bool
    /// When the broker sent it.
    var time: Int64
    var form: ReferenceModel.Owed.Form
}

extension ModelRun {
    /// Judges a message by the model: it is owed to this session in this form and did not come before, or it is a repeat.
    func got(_ arrival: Arrival, _ client: ModelClient) {
        let came = ModelClient.Received(topic: arrival.topic, payload: arrival.payload, form: arrival.form)
        if arrival.qos == .exactlyOnce, !client.known.insert(arrival.id).inserted {
            // The client knows this id: no new message, but it must be the old one.
            if client.lastByID[arrival.id] != came {
                problem("\(client.clientID): id \(arrival.id) means another message")
            }
            return
        }
        if arrival.qos == .atLeastOnce, arrival.isDuplicate, client.lastByID[arrival.id] == came {
            repeats.insert(came)
            return
        }
        if arrival.qos != .atMostOnce { client.lastByID[arrival.id] = came }
        guard let owed = owed(for: arrival) else {
            let owed = model.owed.filter { $0.message.payload == arrival.payload }.map {
                "\($0), \(received[$0.number] as Any)"
            }
            problem("\(client.clientID) got what it is not owed: \(arrival), there is: \(owed)")
            return
        }
        received[owed.number] = (arrival.form, life)
        checkOrder(arrival, owed, client)
    }

    private func owed(for arrival: Arrival) -> ReferenceModel.Owed? {
        let copies = model.owed.filter { owed in
            // What has expired before its first sending is not sent. A QoS 2 message may have waited for its id's commit.
            let isExpired = (owed.message.expiresAt ?? .max) <= arrival.time
            return owed.message.payload == arrival.payload && owed.message.topic == arrival.topic
                && !(isExpired && arrival.qos != .exactlyOnce && !arrival.isDuplicate)
        }
        var tried: Set<Int> = []
        if let owed = free(for: arrival.form, among: copies, &tried) { return owed }
        // QoS 1: the sending may have been forgotten in a crash.
        return copies.first { owed in
            received[owed.number].map { $0.form == arrival.form && $0.life < life } ?? false
                && arrival.qos == .atLeastOnce
        }
    }

    /// A copy that nobody has yet; one that is taken is free if who has it may have another as well.
    private func free(
        for form: ReferenceModel.Owed.Form, among copies: [ReferenceModel.Owed], _ tried: inout Set<Int>
    ) -> ReferenceModel.Owed? {
        for owed in copies where owed.forms.contains(form) && tried.insert(owed.number).inserted {
            guard let holder = received[owed.number] else { return owed }
            if let other = free(for: holder.form, among: copies, &tried) {
                received[other.number] = holder
                received[owed.number] = nil
                return owed
            }
        }
        return nil
    }

    /// 4.6: one client's messages of one topic and QoS come in their order.
    private func checkOrder(_ arrival: Arrival, _ owed: ReferenceModel.Owed, _ client: ModelClient) {
        guard !arrival.isDuplicate, !owed.isRetainedCopy, owed.forms.count == 1, !arrival.payload.isEmpty,
            let sender = owed.message.sender
        else { return }
        // Of several copies alike it cannot be told which one came.
        let alike = model.owed.count {
            $0.message.payload == arrival.payload && $0.forms.contains { $0.instance == arrival.form.instance }
        }
        guard alike == 1 else { return }
        let key = "\(sender) \(arrival.topic) \(arrival.qos.rawValue) \(client.instance) \(life)"
        if let last = lastInOrder[key], last > owed.number { problem("\(client.clientID): out of order: \(arrival)") }
        lastInOrder[key] = owed.number
    }

    /// The same sessions, at every moment.
    func compareSessions() {
        let mine = model.sessions.map { "\($0.clientID) \($0.slot != nil) \($0.isStored) \($0.filters.count)" }.sorted()
        let its = h.broker.sessions.map {
            "\($0.clientID) \($0.connection != nil) \($0.isStored) \($0.subscriptions)"
        }.sorted()
        if mine != its { problem("sessions: \(its), the model says \(mine)") }
    }

    /// Everything owed at QoS 1 or 2 to sessions that are still there has come, or has expired.
    func compareReceived() {
        for owed in model.owed where received[owed.number] == nil && mustCome(owed) && !cameAsRepeat(owed) {
            var tried: Set<Int> = [owed.number]
            if !takeAnother(for: owed, &tried) {
                let copies = model.owed.filter { $0.message.payload == owed.message.payload }
                    .map { "\($0.number) \($0.forms) \(received[$0.number] as Any)" }
                problem("it never came: \(owed); of this message there is \(copies)")
            }
        }
    }

    /// What came may have been taken for a copy alike that need not have come, as one of a shared subscription, or that
    /// another arrival can stand for.
    private func takeAnother(for owed: ReferenceModel.Owed, _ tried: inout Set<Int>) -> Bool {
        for copy in model.owed
        where copy.message.payload == owed.message.payload && copy.message.topic == owed.message.topic {
            guard let holder = received[copy.number], owed.forms.contains(holder.form),
                tried.insert(copy.number).inserted
            else { continue }
            received[copy.number] = nil
            if !mustCome(copy) || takeAnother(for: copy, &tried) {
                received[owed.number] = holder
                return true
            }
            received[copy.number] = holder
        }
        return false
    }

    /// The second of two copies alike, sent after a crash with DUP under the id that the first had before it.
    private func cameAsRepeat(_ owed: ReferenceModel.Owed) -> Bool {
        owed.forms.contains { form in
            let came = ModelClient.Received(topic: owed.message.topic, payload: owed.message.payload, form: form)
            return repeats.contains(came) && model.owed.contains { $0.number != owed.number && isReceived($0, came) }
        }
    }

    private func isReceived(_ copy: ReferenceModel.Owed, _ came: ModelClient.Received) -> Bool {
        copy.message.payload == came.payload && copy.message.topic == came.topic
            && received[copy.number]?.form == came.form
    }

    private func mustCome(_ owed: ReferenceModel.Owed) -> Bool {
        (owed.message.expiresAt ?? .max) > h.time
            && owed.forms.allSatisfy { form in
                form.qos != .atMostOnce && model.sessions.contains { $0.instance == form.instance }
            }
    }
}

/// Sessions against a reference model under random disconnects and crashes, in both versions.
@Suite struct ModelTests {
    /// `SLUICE_TEST_SEEDS` is the number of seeds.
    static let seeds = ProcessInfo.processInfo.environment["SLUICE_TEST_SEEDS"].flatMap { Int($0) } ?? 1_500

    @Test(arguments: 1...seeds)
    func everyClientGetsWhatTheModelSaysItIsOwed(seed: Int) {
        let run = ModelRun(seed: UInt64(seed))
        for _ in 0..<250 {
            run.step()
            if !run.problems.isEmpty { break }
        }
        if run.problems.isEmpty {
            run.finish()
            run.compareSessions()
            run.compareReceived()
        }
        #expect(
            run.problems.isEmpty, "seed \(seed), the script's end:\n\(run.script.suffix(60).joined(separator: "\n"))")
    }

    @Test func theModelMatchesTopicsAsTheStandardSays() {
        let cases: [(String, String, Bool)] = [
            ("#", "a/b", true), ("a/#", "a", true), ("a/+", "a", false), ("+", "a", true), ("+/+", "/a", true),
            ("#", "$x/a", false), ("+/a", "$x/a", false), ("$x/#", "$x/a", true), ("a/+/c", "a//c", true),
            ("a", "A", false),
        ]
        for (filter, topic, expected) in cases { #expect(ReferenceModel.matches(filter, topic) == expected) }
    }
}
