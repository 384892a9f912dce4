/// Reason codes of MQTT 5.0, table 2-6. `success` is also Normal disconnection and Granted QoS 0.
package struct ReasonCode: RawRepresentable, Hashable, Sendable {
    package let rawValue: UInt8

    package init(rawValue: UInt8) { self.rawValue = rawValue }
    private init(_ rawValue: UInt8) { self.rawValue = rawValue }

    /// 0x80 and above are failures.
    package var isFailure: Bool { rawValue >= 0x80 }

    package static let success = ReasonCode(0x00)
    package static let grantedQoS1 = ReasonCode(0x01)
    package static let grantedQoS2 = ReasonCode(0x02)
    package static let disconnectWithWill = ReasonCode(0x04)
    package static let noMatchingSubscribers = ReasonCode(0x10)
    package static let noSubscriptionExisted = ReasonCode(0x11)
    package static let continueAuthentication = ReasonCode(0x18)
    package static let reAuthenticate = ReasonCode(0x19)
    package static let unspecifiedError = ReasonCode(0x80)
    package static let malformedPacket = ReasonCode(0x81)
    package static let protocolError = ReasonCode(0x82)
    package static let implementationSpecificError = ReasonCode(0x83)
    package static let unsupportedProtocolVersion = ReasonCode(0x84)
    package static let clientIdentifierNotValid = ReasonCode(0x85)
    package static let badUserNameOrPassword = ReasonCode(0x86)
    package static let notAuthorized = ReasonCode(0x87)
    package static let serverUnavailable = ReasonCode(0x88)
    package static let serverBusy = ReasonCode(0x89)
    package static let banned = ReasonCode(0x8A)
    package static let serverShuttingDown = ReasonCode(0x8B)
    package static let badAuthenticationMethod = ReasonCode(0x8C)
    package static let keepAliveTimeout = ReasonCode(0x8D)
    package static let sessionTakenOver = ReasonCode(0x8E)
    package static let topicFilterInvalid = ReasonCode(0x8F)
    package static let topicNameInvalid = ReasonCode(0x90)
    package static let packetIdentifierInUse = ReasonCode(0x91)
    package static let packetIdentifierNotFound = ReasonCode(0x92)
    package static let receiveMaximumExceeded = ReasonCode(0x93)
    package static let topicAliasInvalid = ReasonCode(0x94)
    package static let packetTooLarge = ReasonCode(0x95)
    package static let messageRateTooHigh = ReasonCode(0x96)
    package static let quotaExceeded = ReasonCode(0x97)
    package static let administrativeAction = ReasonCode(0x98)
    package static let payloadFormatInvalid = ReasonCode(0x99)
    package static let retainNotSupported = ReasonCode(0x9A)
    package static let qosNotSupported = ReasonCode(0x9B)
    package static let useAnotherServer = ReasonCode(0x9C)
    package static let serverMoved = ReasonCode(0x9D)
    package static let sharedSubscriptionsNotSupported = ReasonCode(0x9E)
    package static let connectionRateExceeded = ReasonCode(0x9F)
    package static let maximumConnectTime = ReasonCode(0xA0)
    package static let subscriptionIdentifiersNotSupported = ReasonCode(0xA1)
    package static let wildcardSubscriptionsNotSupported = ReasonCode(0xA2)
}
