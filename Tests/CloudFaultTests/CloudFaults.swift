import Testing

/// Faults of the cloud's surroundings under load. One at a time: each wants the machine for itself.
@Suite(.serialized) struct CloudFaults {}
