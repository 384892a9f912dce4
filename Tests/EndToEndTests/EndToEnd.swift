import Testing

/// Tests of the whole path on real processes, one after another: each starts daemons, and some measure time.
@Suite(.serialized, .timeLimit(.minutes(10))) enum EndToEnd {}
