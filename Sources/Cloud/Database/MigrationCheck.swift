/// Whether a migration's text keeps the house's rules: what programs of the release before use is added to and never taken
/// away, except by a migration that says so in its first line: `-- contracts: why no program needs it any more`. Pure.
package enum MigrationCheck {
    /// What takes away or changes, or keeps writers waiting for as long as a table is large. Names in lower case.
    private static let contracting: [(words: [String], why: String)] = [
        (["drop", "table"], "drops a table"), (["drop", "view"], "drops a view"),
        (["drop", "function"], "drops a function"), (["drop", "type"], "drops a type"),
        (["drop", "column"], "drops a column"), (["rename"], "renames"), (["truncate"], "empties a table"),
        (["delete", "from"], "deletes rows"), (["set", "not", "null"], "demands what earlier programs do not write"),
        (["alter", "column", "*", "type"], "rewrites a table"), (["set", "data", "type"], "rewrites a table"),
    ]

    package static func contracts(_ sql: String) -> Bool { sql.hasPrefix("-- contracts: ") }

    /// What is wrong, in a person's words; empty: nothing.
    package static func problems(of file: MigrationFile) -> [String] {
        let statements = Self.statements(file.up)
        var problems: [String] = []
        let made = Set(statements.compactMap(Self.madeTable))
        for statement in statements {
            if statement.first == "commit" || statement.first == "rollback" || statement.first == "begin" {
                problems.append("\(statement[0].uppercased()): each file is one transaction by itself")
            }
            if !contracts(file.up) {
                for rule in contracting where contains(statement, rule.words) {
                    problems.append("\(rule.why): \(statement.prefix(6).joined(separator: " ")) …")
                }
                if demandsColumn(statement) {
                    problems.append(
                        "adds a column that earlier programs do not fill: give it a constant default, or allow NULL")
                }
            }
            if contains(statement, ["create", "index"]) || contains(statement, ["create", "unique", "index"]),
                let table = word(after: "on", in: statement), !made.contains(table)
            {
                problems.append("makes an index on \(table), which is there: writers would wait until it is done")
            }
        }
        if statements.isEmpty { problems.append("holds no statement") }
        if Self.statements(file.down).isEmpty { problems.append("its down file holds no statement") }
        return problems.map { "\(file.fileName): \($0)" }
    }

    private static func madeTable(_ statement: [String]) -> String? {
        guard contains(Array(statement.prefix(4)), ["create", "table"]), let index = statement.firstIndex(of: "table")
        else { return nil }
        return statement.dropFirst(index + 1).first { !["if", "not", "exists"].contains($0) }
    }

    private static func demandsColumn(_ statement: [String]) -> Bool {
        contains(statement, ["add", "column"]) && contains(statement, ["not", "null"]) && !statement.contains("default")
    }

    private static func word(after word: String, in statement: [String]) -> String? {
        guard let index = statement.firstIndex(of: word), index + 1 < statement.count else { return nil }
        return statement[index + 1] == "only" ? statement.dropFirst(index + 2).first : statement[index + 1]
    }

    /// `*` stands for any one word.
    private static func contains(_ statement: [String], _ words: [String]) -> Bool {
        guard statement.count >= words.count else { return false }
        return (0...statement.count - words.count).contains { start in
            zip(words, statement[start...]).allSatisfy { $0 == "*" || $0 == $1 }
        }
    }

    /// Words of each statement in lower case, without comments, texts and the bodies of functions.
    static func statements(_ sql: String) -> [[String]] {
        var statements: [[String]] = []
        var words: [String] = []
        var word = ""
        var rest = Substring(sql)
        func endWord() {
            if !word.isEmpty { words.append(word.lowercased()) }
            word = ""
        }
        func endStatement() {
            endWord()
            if !words.isEmpty { statements.append(words) }
            words = []
        }
        while let character = rest.first {
            if rest.hasPrefix("--") {
                rest = rest.drop { $0 != "\n" }
            } else if character == "'" {
                rest = rest.dropFirst().drop { $0 != "'" }.dropFirst()
            } else if character == "$", let tag = dollarTag(rest) {
                rest = end(of: tag, in: rest.dropFirst(tag.count))
            } else if character == ";" {
                endStatement()
                rest = rest.dropFirst()
            } else if character.isLetter || character.isNumber || character == "_" {
                word.append(character)
                rest = rest.dropFirst()
                continue
            } else {
                rest = rest.dropFirst()
            }
            endWord()
        }
        endStatement()
        return statements
    }

    private static func dollarTag(_ text: Substring) -> Substring? {
        guard let end = text.dropFirst().firstIndex(of: "$") else { return nil }
        let tag = text[text.startIndex...end]
        return tag.dropFirst().dropLast().allSatisfy { $0.isLetter || $0 == "_" } ? tag : nil
    }

    private static func end(of tag: Substring, in text: Substring) -> Substring {
        var rest = text
        while !rest.isEmpty, !rest.hasPrefix(tag) { rest = rest.dropFirst() }
        return rest.dropFirst(tag.count)
    }
}
