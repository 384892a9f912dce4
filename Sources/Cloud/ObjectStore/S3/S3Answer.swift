/// What S3 says in XML: errors and lists. They are flat enough for a reader of elements without a tree.
enum S3Answer {
    /// Of an error's document; empty where it is none.
    struct Failure: Equatable {
        var code = ""
        var message = ""
    }

    static func failure(_ body: String) -> Failure {
        var elements = XMLElements(body)
        var failure = Failure()
        while let element = elements.next() {
            switch element.path.last {
            case "Code" where failure.code.isEmpty: failure.code = element.text
            case "Message" where failure.message.isEmpty: failure.message = element.text
            default: break
            }
        }
        return failure
    }

    struct Page: Equatable {
        var objects: [StoredObject] = []
        var isTruncated = false
    }

    /// - Returns: `nil` where it is no `ListBucketResult`.
    static func page(_ body: String) -> Page? {
        var elements = XMLElements(body)
        var page = Page()
        var key: String?
        var bytes: Int?
        var isTruncated: Bool?
        while let element = elements.next() {
            guard element.path.first == "ListBucketResult" else { return nil }
            switch element.path.dropFirst() {
            case ["IsTruncated"]: isTruncated = element.text == "true"
            case ["Contents", "Key"]: key = element.text
            case ["Contents", "Size"]: bytes = Int(element.text)
            case ["Contents"]:
                guard let found = key, let size = bytes else { return nil }
                page.objects.append(StoredObject(key: found, bytes: size))
                (key, bytes) = (nil, nil)
            default: break
            }
        }
        guard let isTruncated, elements.isWhole else { return nil }
        page.isTruncated = isTruncated
        return page
    }
}

/// The elements of a document in the order of their ends, each with the names that lead to it and its own text.
/// Attributes, comments and declarations are passed over; there are no entities but XML's own and numbers.
struct XMLElements {
    struct Element {
        var path: [Substring]
        var text: String
    }

    private static let maximumDepth = 16

    private var rest: Substring
    private var open: [Substring] = []
    private var text = ""
    private var isBroken = false

    init(_ document: String) { rest = document[...] }

    /// Every element that began has ended.
    var isWhole: Bool { open.isEmpty && !isBroken }

    mutating func next() -> Element? {
        while let start = rest.firstIndex(of: "<") {
            text += Self.decoded(rest[..<start])
            let tag = rest[start...]
            if tag.hasPrefix("<?") || tag.hasPrefix("<!") {
                guard pass(tag.hasPrefix("<?") ? "?>" : tag.hasPrefix("<!--") ? "-->" : ">") else { return broken() }
                continue
            }
            guard let end = tag.firstIndex(of: ">") else { return broken() }
            let inner = tag[tag.index(after: start)..<end]
            rest = tag[tag.index(after: end)...]
            if inner.hasPrefix("/") {
                guard let name = open.last, inner.dropFirst() == name else { return broken() }
                let element = Element(path: open, text: text)
                open.removeLast()
                text = ""
                return element
            }
            let name = inner.prefix { !$0.isWhitespace && $0 != "/" }
            guard !name.isEmpty, open.count < Self.maximumDepth else { return broken() }
            text = ""
            if inner.hasSuffix("/") { return Element(path: open + [name], text: "") }
            open.append(name)
        }
        return nil
    }

    private mutating func broken() -> Element? {
        isBroken = true
        rest = ""
        return nil
    }

    private mutating func pass(_ closing: String) -> Bool {
        var place = rest
        while let first = place.firstIndex(of: closing.first ?? ">") {
            place = place[first...]
            if place.hasPrefix(closing) {
                rest = place.dropFirst(closing.count)
                return true
            }
            place = place.dropFirst()
        }
        return false
    }

    private static func decoded(_ text: Substring) -> String {
        guard text.contains("&") else { return String(text) }
        var result = ""
        var rest = text
        while let start = rest.firstIndex(of: "&") {
            result += rest[..<start]
            rest = rest[start...]
            guard let end = rest.prefix(12).firstIndex(of: ";"),
                let character = character(rest[rest.index(after: start)..<end])
            else {
                result.append("&")
                rest = rest.dropFirst()
                continue
            }
            result.unicodeScalars.append(character)
            rest = rest[rest.index(after: end)...]
        }
        return result + rest
    }

    private static func character(_ name: Substring) -> Unicode.Scalar? {
        switch name {
        case "amp": return "&"
        case "lt": return "<"
        case "gt": return ">"
        case "quot": return "\""
        case "apos": return "'"
        default:
            guard name.hasPrefix("#") else { return nil }
            let digits = name.dropFirst()
            let number = digits.hasPrefix("x") ? UInt32(digits.dropFirst(), radix: 16) : UInt32(digits)
            return number.flatMap(Unicode.Scalar.init)
        }
    }
}
