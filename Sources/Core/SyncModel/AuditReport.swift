/// What an audit found; its keys are part of `sluice audit --json`.
package struct AuditReport: Codable, Sendable, Equatable {
    /// Sequences first to last of one epoch, ends included.
    package struct Gap: Codable, Sendable, Equatable {
        package var gateway: String
        package var epoch: String
        package var first: UInt64
        package var last: UInt64
        /// Messages of it that nothing explains; fewer than its length where ledger lines explain some.
        package var lost: UInt64

        package init(gateway: String, epoch: String, first: UInt64, last: UInt64, lost: UInt64) {
            self.gateway = gateway
            self.epoch = epoch
            self.first = first
            self.last = last
            self.lost = lost
        }
    }

    /// Messages that the journals' devices published; `nil` without a journal.
    package var published: UInt64?
    /// With a journal: acknowledged to a device. Without: committed by the gateways.
    package var acknowledged: UInt64 = 0
    /// In the gateways' buffers and not in the log or the tables yet.
    package var buffered: UInt64 = 0
    /// In the event log and not in the tables yet.
    package var inLog: UInt64 = 0
    /// Messages with a row, or whose rows were dropped at the end of their time.
    package var stored: UInt64 = 0
    package var rows: UInt64 = 0
    /// Messages whose rows were dropped at the end of their time; part of `stored`.
    package var retired: UInt64 = 0
    /// In the cold archive, with their day no more in the tables; part of `stored`.
    package var archived: UInt64 = 0
    /// Messages that PostgreSQL refused, stored with their bytes and a reason (part of `stored`), and those of
    /// `deadLettersWaiting`.
    package var deadLettered: UInt64 = 0
    /// In objects that are not replayed, and in no table.
    package var deadLettersWaiting: UInt64 = 0
    /// By the reason of their ledger lines.
    package var dropped: [String: UInt64] = [:]
    /// By ledger lines that are in the event log and not in the tables yet.
    package var dropsInLog: UInt64 = 0
    /// Stored twice because the device sent twice (MQTT 4.3.2), as the journal shows.
    package var redelivered: UInt64 = 0
    /// Messages with a doubled row, or stored twice though sent once.
    package var duplicated: UInt64 = 0
    package var lost: UInt64 = 0
    /// Where messages are lost, at most `AuditTally.maximumGaps`.
    package var gaps: [Gap] = []
    /// Nothing is lost, doubled, unexplained, on its way or in doubt.
    package var closed = false
    /// What is wrong or in doubt, in a person's words.
    package var problems: [String] = []
    /// Nothing is lost or duplicated and no table contradicts another; messages may still be on their way.
    package var sound = false
    /// What is wrong stays wrong; else it may be on its way through an event log that the audit could not read.
    package var conclusive = false

    package init() {}
}
