-- What becomes of rows with time: sums that stay when rows go, and a record of what went.

-- One metric in one hour; bucket is the hour's start. Made from the rows of measurement that have a value.
CREATE TABLE rollup_hour (
    metric_id  integer          NOT NULL,
    bucket     timestamptz      NOT NULL,
    count      bigint           NOT NULL,
    min        double precision NOT NULL,
    max        double precision NOT NULL,
    -- NULL where values of 1e290 and more would make it overflow.
    sum        double precision,
    first_time timestamptz      NOT NULL,
    first      double precision NOT NULL,
    last_time  timestamptz      NOT NULL,
    last       double precision NOT NULL,
    PRIMARY KEY (metric_id, bucket)
);
-- Hours are written in their order, so a few bytes find a day's.
CREATE INDEX rollup_hour_bucket ON rollup_hour USING brin (bucket) WITH (pages_per_range = 32);

-- The same of a UTC day.
CREATE TABLE rollup_day (LIKE rollup_hour INCLUDING DEFAULTS, PRIMARY KEY (metric_id, bucket));
CREATE INDEX rollup_day_bucket ON rollup_day USING brin (bucket) WITH (pages_per_range = 32);

-- Hours before closed_before are marked by whoever stores rows in them; those before computed_before are rolled up.
-- marking_since: of the flag that has writers mark. See docs/decisions/0024.
CREATE TABLE rollup_progress (
    only_one        boolean     PRIMARY KEY DEFAULT true CHECK (only_one),
    closed_before   timestamptz,
    computed_before timestamptz,
    marking_since   timestamptz
);
INSERT INTO rollup_progress DEFAULT VALUES;

-- Late rows' hours, as often as they were marked: without a unique index no writer waits for another or for the roll-up.
CREATE TABLE rollup_dirty (
    hour      timestamptz NOT NULL,
    marked_at timestamptz NOT NULL DEFAULT now()
);

-- Days whose rows were dropped at the end of their time.
CREATE TABLE retired_day (
    day        date        PRIMARY KEY,
    retired_at timestamptz NOT NULL DEFAULT now()
);

-- Which messages these rows were, where no archive tells: those with all their rows in one day.
CREATE TABLE retired_messages (
    source       integer        NOT NULL,
    day          date           NOT NULL,
    sequences    int8multirange NOT NULL,
    -- As many as sequences holds, or a message was there twice.
    messages     bigint         NOT NULL,
    row_count    bigint         NOT NULL,
    -- Of these messages, those that PostgreSQL had refused (event.kind 9).
    dead_letters bigint         NOT NULL,
    PRIMARY KEY (source, day)
);

-- Rows of the other messages: of several days, incomplete or doubled ones.
CREATE TABLE retired_row (
    source   integer  NOT NULL,
    sequence bigint   NOT NULL,
    part     smallint NOT NULL,
    parts    smallint NOT NULL,
    day      date     NOT NULL
);

-- As before, but a partition that is being detached is none, and a detached one may still have the day's name.
CREATE OR REPLACE FUNCTION ensure_partitions(day date) RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
    parent text;
    base   text;
    child  text;
    number integer;
    made   boolean := false;
BEGIN
    FOREACH parent IN ARRAY ARRAY['measurement', 'event'] LOOP
        CONTINUE WHEN (SELECT relkind FROM pg_class WHERE oid = parent::regclass) <> 'p';
        base := parent || '_' || to_char(day, 'YYYYMMDD');
        CONTINUE WHEN EXISTS (
            SELECT FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
            WHERE i.inhparent = parent::regclass AND NOT i.inhdetachpending AND c.relname ~ ('^' || base || '(_[0-9]+)?$'));
        -- Two processors may want the same day at once.
        PERFORM pg_advisory_xact_lock(hashtext('sluice partition'), day - date '2000-01-01');
        CONTINUE WHEN EXISTS (
            SELECT FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
            WHERE i.inhparent = parent::regclass AND NOT i.inhdetachpending AND c.relname ~ ('^' || base || '(_[0-9]+)?$'));
        child := base;
        number := 1;
        WHILE to_regclass(child) IS NOT NULL LOOP
            child := base || '_' || number;
            number := number + 1;
        END LOOP;
        EXECUTE format('CREATE TABLE %I (LIKE %I INCLUDING ALL)', child, parent);
        EXECUTE format('ALTER TABLE %I ATTACH PARTITION %I FOR VALUES FROM (%L) TO (%L)', parent, child,
            day::timestamp AT TIME ZONE 'UTC', (day + 1)::timestamp AT TIME ZONE 'UTC');
        made := true;
    END LOOP;
    RETURN made;
END $$;
