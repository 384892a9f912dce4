extension Schema {
    /// `answered_run` holds what is answered beyond `progress`, each run with the totals before its first frame and with
    /// its last, since the rows of its frames are deleted. `live_start` has at most one row: frames up to it that are not
    /// answered are backlog. `cut` has at most one row a lane, and the totals before and with its frames: rows of them may be
    /// dropped before the answer comes.
    static let lanes = """
        CREATE TABLE answered_run (
            start_frame INTEGER PRIMARY KEY, start_messages INTEGER NOT NULL, start_bytes INTEGER NOT NULL,
            end_frame INTEGER NOT NULL, end_messages INTEGER NOT NULL, end_bytes INTEGER NOT NULL);
        CREATE TABLE live_start (
            id INTEGER PRIMARY KEY CHECK (id = 1), frame INTEGER NOT NULL, messages INTEGER NOT NULL,
            bytes INTEGER NOT NULL);
        ALTER TABLE cut ADD COLUMN lane INTEGER NOT NULL DEFAULT 0;
        ALTER TABLE cut ADD COLUMN start_messages INTEGER NOT NULL DEFAULT 0;
        ALTER TABLE cut ADD COLUMN start_bytes INTEGER NOT NULL DEFAULT 0;
        ALTER TABLE cut ADD COLUMN end_messages INTEGER NOT NULL DEFAULT 0;
        ALTER TABLE cut ADD COLUMN end_bytes INTEGER NOT NULL DEFAULT 0;
        UPDATE cut SET start_messages = answered_messages, start_bytes = answered_bytes,
            end_messages = answered_messages + messages, end_bytes = answered_bytes + bytes FROM progress;
        """
}
