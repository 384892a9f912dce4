-- The cold archive: which whole UTC days of measurement and event are in the object store, and which messages of them.

-- A day is a row from its first manifest on; the row stays when the objects are deleted after their time.
CREATE TABLE archive_day (
    day              date        PRIMARY KEY,
    -- Manifests 0 to manifests - 1; those from 1 on are addenda of rows that came late.
    manifests        integer     NOT NULL CHECK (manifests > 0),
    measurement_rows bigint      NOT NULL,
    event_rows       bigint      NOT NULL,
    -- Of these, those that have left the tables.
    dropped_measurement_rows bigint NOT NULL DEFAULT 0,
    dropped_event_rows       bigint NOT NULL DEFAULT 0,
    bytes            bigint      NOT NULL,
    archived_at      timestamptz NOT NULL,
    -- When its rows in the tables were last counted against the archive's.
    checked_at       timestamptz NOT NULL,
    -- The objects are deleted, or about to be.
    deleted_at       timestamptz
);

CREATE TABLE archive_manifest (
    day    date    NOT NULL REFERENCES archive_day,
    number integer NOT NULL,
    -- SHA-256 of the manifest's bytes, which hold those of its files.
    digest text    NOT NULL,
    -- When its rows left the tables; late rows of the same day may be in the tables again.
    dropped_at timestamptz,
    PRIMARY KEY (day, number)
);

-- Messages whose rows of the day are archived. A message's rows are stored in one transaction, so all of them that
-- belong to the day are, in both tables. The ranges of a day and source do not overlap.
CREATE TABLE archive_range (
    day            date    NOT NULL REFERENCES archive_day,
    source         integer NOT NULL REFERENCES source,
    first_sequence bigint  NOT NULL,
    last_sequence  bigint  NOT NULL CHECK (last_sequence >= first_sequence),
    -- Which of the day's manifests has them.
    manifest       integer NOT NULL,
    PRIMARY KEY (day, source, first_sequence)
);

-- Whether the message's rows of the day are archived.
CREATE FUNCTION archive_has(day date, source integer, sequence bigint) RETURNS boolean LANGUAGE sql STABLE AS $$
    SELECT coalesce((
        SELECT r.last_sequence >= $3 FROM archive_range r
        WHERE r.day = $1 AND r.source = $2 AND r.first_sequence <= $3 ORDER BY r.first_sequence DESC LIMIT 1), false)
$$;

-- Whether so many rows of the day are all that the archive has and the tables may have still: 0; more than that: 1; fewer,
-- so that their number tells nothing: -1. A day that was dropped may have late rows again, so what it had then does not
-- count any more.
CREATE FUNCTION archive_compare(day date, measurements bigint, events bigint) RETURNS integer LANGUAGE sql STABLE AS $$
    SELECT CASE
        WHEN $2 > n.measurements OR $3 > n.events THEN 1
        WHEN $2 = n.measurements AND $3 = n.events THEN 0
        ELSE -1 END
    FROM (
        SELECT coalesce(sum(measurement_rows - dropped_measurement_rows), 0) AS measurements,
            coalesce(sum(event_rows - dropped_event_rows), 0) AS events
        FROM archive_day a WHERE a.day = $1) n
$$;

-- Whether every row that the tables have of the day is in the archive, late ones included; true where they have none.
-- Counts the day's rows.
CREATE FUNCTION archive_is_complete(day date) RETURNS boolean LANGUAGE sql STABLE AS $$
    SELECT CASE archive_compare($1,
        (SELECT count(*) FROM measurement
            WHERE time >= $1::timestamp AT TIME ZONE 'UTC' AND time < ($1 + 1)::timestamp AT TIME ZONE 'UTC'),
        (SELECT count(*) FROM event
            WHERE time >= $1::timestamp AT TIME ZONE 'UTC' AND time < ($1 + 1)::timestamp AT TIME ZONE 'UTC'))
    WHEN 0 THEN true
    WHEN 1 THEN false
    ELSE
        NOT EXISTS (SELECT FROM measurement m WHERE m.time >= $1::timestamp AT TIME ZONE 'UTC'
            AND m.time < ($1 + 1)::timestamp AT TIME ZONE 'UTC' AND NOT archive_has($1, m.source, m.sequence))
        AND NOT EXISTS (SELECT FROM event e WHERE e.time >= $1::timestamp AT TIME ZONE 'UTC'
            AND e.time < ($1 + 1)::timestamp AT TIME ZONE 'UTC' AND NOT archive_has($1, e.source, e.sequence))
    END
$$;
