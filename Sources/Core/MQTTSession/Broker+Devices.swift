import MQTTWire
import SyncModel

/// Who a client is, and what is kept of it.
extension Broker {
    /// A plaintext client is the device of its client id. One without an id of its own, or with one that can name no device
    /// (with a space, say), is one of the device "local": its session is its own all the same, and chance ids do not fill
    /// the device table. Who comes back with the id that it was assigned finds its session (MQTT-3.1.3-7).
    func localDeviceID(_ clientID: String, isAssigned: Bool) -> String {
        let isOfLocal =
            isAssigned || !Self.isValidDeviceID(clientID)
            || sessionIndex[SessionKey(deviceID: "local", clientID: clientID)] != nil
        return isOfLocal ? "local" : clientID
    }

    /// What the sync protocol carries: an id that the cloud refused would hold up the uplink for everybody. Of that, printable
    /// ASCII without spaces, so that two ids are equal exactly when their bytes are, wherever they are compared; and nothing
    /// that changes the meaning of a topic filter when it takes the place of `%d`.
    static func isValidDeviceID(_ id: String) -> Bool {
        Identifier.isValid(id)
            && id.utf8.allSatisfy {
                0x21...0x7E ~= $0 && $0 != UInt8(ascii: "+") && $0 != UInt8(ascii: "#") && $0 != UInt8(ascii: "/")
            }
    }

    mutating func deviceHandle(_ id: String, isLocal: Bool, now: BrokerTime) -> DeviceHandle? {
        let key = BytewiseString(id)
        if let handle = deviceHandles[key] {
            if devices[Int(handle)].isLocal, !isLocal {
                devices[Int(handle)].isLocal = false
                devices[Int(handle)].apply(configuration, now: now.monotonic)
            }
            return handle
        }
        if deviceHandles.count >= configuration.maximumDevices { forgetLocalDevices(now: now) }
        guard deviceHandles.count < configuration.maximumDevices else { return nil }
        return addDevice(key, isLocal: isLocal, now: now)
    }

    mutating func addDevice(_ key: BytewiseString, isLocal: Bool, now: BrokerTime) -> DeviceHandle {
        let state = DeviceState(id: key.string, isLocal: isLocal, configuration: configuration, now: now.monotonic)
        if let handle = freeDevices.popLast() {
            devices[Int(handle)] = state
            deviceHandles[key] = handle
            return handle
        }
        let handle = DeviceHandle(devices.count)
        devices.append(state)
        deviceHandles[key] = handle
        return handle
    }

    /// Plaintext clients make up their ids, some at each start. Those that have neither a session nor a message on its way
    /// give their place to others, so that they never keep out a device with a certificate. Until the table is full they
    /// stay, and with them what they have used of their rate.
    private mutating func forgetLocalDevices(now: BrokerTime) {
        guard now.monotonic >= nextDeviceSearch else { return }
        nextDeviceSearch = now.monotonic + 1_000_000
        for (key, handle) in deviceHandles {
            let state = devices[Int(handle)]
            guard state.isLocal, state.sessions == 0, state.pendingRoutes == 0 else { continue }
            deviceHandles[key] = nil
            forgottenDevices.append(handle)
        }
    }

    mutating func freeForgottenDevices(_ group: CommitGroup) {
        guard !forgottenDevices.isEmpty, group.frames.isEmpty else { return }
        freeDevices += forgottenDevices
        forgottenDevices = []
    }
}
