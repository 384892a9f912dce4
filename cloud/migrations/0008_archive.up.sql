-- The cold archive: which whole UTC days of measurement and event are in the object store, and which messages of them.

-- A day is a row from its first manifest on; the row stays when the objects are deleted after their time.
CREATE TABLE archive_day (
    day              date        PRIMARY KEY,
    -- Manifests 0 to manifests - 1; those from 1 on are addenda of rows that came late.
    manifests        integer     NOT NULL CHECK (manifests > 0),
    measurement_rows bigint      NOT NULL,
    event_rows       bigint      NOT NULL,
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
    PRIMARY KEY (day, number)
);

-- Messages whose rows of the day are archived. A message's rows are stored in one transaction, so all of them that
-- belong to the day are, in both tables. The ranges of a day and source do not overlap.
CREATE TABLE archive_range (
    day            date    NOT NULL REFERENCES archive_day,
    source         integer NOT NULL REFERENCES source,
    first_sequence bigint  NOT NULL,
    last_sequence  bigint  NOT NULL CHECK (last_sequence >= first_sequence),
    PRIMARY KEY (day, source, first_sequence)
);

-- Whether every row that the tables have of the day is in the archive, late ones included; true where they have none.
-- Counts the day's rows. Rows must not come for the day between this and its end: days older than the processors'
-- hotDays get none.
CREATE FUNCTION archive_is_complete(day date) RETURNS boolean LANGUAGE sql STABLE AS $$
    SELECT n.measurements <= coalesce(a.measurement_rows, 0) AND n.events <= coalesce(a.event_rows, 0)
    FROM (
        SELECT
            (SELECT count(*) FROM measurement
                WHERE time >= $1::timestamp AT TIME ZONE 'UTC' AND time < ($1 + 1)::timestamp AT TIME ZONE 'UTC')
                AS measurements,
            (SELECT count(*) FROM event
                WHERE time >= $1::timestamp AT TIME ZONE 'UTC' AND time < ($1 + 1)::timestamp AT TIME ZONE 'UTC')
                AS events) n
    LEFT JOIN archive_day a ON a.day = $1
$$;
