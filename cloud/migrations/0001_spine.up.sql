-- formerly: 3144116e0e5be8cdd520f2f746a15bd29013bf49f9ce815a978cb4932a9e3c74
-- The spine: who sent (gateway, source, device, metric), what came (measurement, event), what was dropped and why
-- (ledger), and what the processor needs to store each message exactly once (ingest_offset, deduplication).

CREATE TABLE gateway (
    id         integer     GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name       text        NOT NULL UNIQUE,
    created_at timestamptz NOT NULL DEFAULT now()
);

-- One per (gateway, epoch): with a sequence it names a message. Rows carry its id instead of 16 bytes and a name.
CREATE TABLE source (
    id         integer     GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    gateway_id integer     NOT NULL REFERENCES gateway,
    epoch      uuid        NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    UNIQUE (gateway_id, epoch)
);

-- What a gateway says of an epoch; sequences 1 to last_sequence were given away. closed: there will be no more.
CREATE TABLE gateway_epoch (
    source        integer     PRIMARY KEY REFERENCES source,
    last_sequence bigint      NOT NULL CHECK (last_sequence >= 0),
    closed        boolean     NOT NULL DEFAULT false,
    updated_at    timestamptz NOT NULL DEFAULT now()
);

-- A device id used again after deletion is a new generation, so that its rows never mix with its predecessor's.
CREATE TABLE device (
    id         integer     GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name       text        NOT NULL,
    generation integer     NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    deleted_at timestamptz,
    UNIQUE (name, generation)
);
CREATE UNIQUE INDEX device_live ON device (name) WHERE deleted_at IS NULL;

-- Processors cache device ids; they read this version in each of their transactions and forget when it has changed.
CREATE TABLE registry_version (
    only_one boolean PRIMARY KEY DEFAULT true CHECK (only_one),
    version  bigint  NOT NULL
);
INSERT INTO registry_version (version) VALUES (1);

CREATE FUNCTION bump_registry_version() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    UPDATE registry_version SET version = version + 1;
    RETURN NULL;
END $$;
CREATE TRIGGER device_changed AFTER UPDATE OR DELETE ON device
    FOR EACH STATEMENT EXECUTE FUNCTION bump_registry_version();

-- A number of a device: the topic it came on and its path in the JSON object.
CREATE TABLE metric (
    id        integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    device_id integer NOT NULL REFERENCES device,
    topic     text    NOT NULL,
    path      text    NOT NULL,
    UNIQUE (device_id, topic, path)
);

-- Next offset of each partition of the event log, in the same transaction as its rows. epoch fences: who claims a
-- partition increments it, and who finds another one has lost the partition. incarnation names the log itself.
CREATE TABLE ingest_offset (
    partition   integer     PRIMARY KEY,
    next_offset bigint      NOT NULL CHECK (next_offset >= 0),
    epoch       bigint      NOT NULL,
    incarnation text        NOT NULL,
    updated_at  timestamptz NOT NULL DEFAULT now()
);

-- Numbers, dense per (epoch, device), that are stored or in the ledger. By the device's name, not its generation:
-- a message repeated after the device's deletion is still a repetition.
CREATE TABLE deduplication (
    source  integer        NOT NULL,
    device  text           NOT NULL,
    numbers int8multirange NOT NULL,
    PRIMARY KEY (source, device)
) WITH (fillfactor = 50);

-- Messages that were dropped on purpose. sequences spans them (others may lie between), numbers counts them.
CREATE TABLE ledger (
    id          bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    source      integer     NOT NULL REFERENCES source,
    device      text        NOT NULL,
    sequences   int8range   NOT NULL CHECK (NOT isempty(sequences)),
    numbers     int8range   NOT NULL CHECK (NOT isempty(numbers)),
    -- 1 buffer full, 2 expired by age, 3 damaged, 4 malformed, 5 aggregated, 6 filtered
    reason      integer     NOT NULL,
    -- Of what was aggregated: the messages of the same device that stand for it.
    aggregate_epoch uuid,
    aggregates      int8range,
    recorded_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX ledger_source ON ledger (source);

-- Records of the event log that could not be decoded: no message can be named, so the bytes are kept for an engineer.
CREATE TABLE rejected_record (
    incarnation text        NOT NULL,
    partition   integer     NOT NULL,
    log_offset  bigint      NOT NULL,
    key         bytea       NOT NULL,
    value       bytea       NOT NULL,
    reason      text        NOT NULL,
    rejected_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (incarnation, partition, log_offset)
);

-- Rows. No foreign keys and one index that begins with the time: both decide how fast COPY is (docs/decisions).
-- part of parts: a message's rows are numbered 0 to parts - 1 over both tables, so that an audit sees one that is
-- missing or doubled. flags and kind: see docs/decisions/0008.
DO $migration$
DECLARE
    timescale boolean := false;
    tail      text;
BEGIN
    IF EXISTS (SELECT FROM pg_extension WHERE extname = 'timescaledb') THEN
        timescale := true;
    ELSIF EXISTS (SELECT FROM pg_available_extensions WHERE name = 'timescaledb')
        -- Its loader is there. Who is no superuser may not read shared_preload_libraries.
        AND current_setting('timescaledb.disable_load', true) IS NOT NULL
    THEN
        BEGIN
            CREATE EXTENSION timescaledb;
            timescale := true;
        EXCEPTION WHEN insufficient_privilege THEN
            RAISE EXCEPTION 'TimescaleDB is installed but not enabled in this database, and % may not do it', current_user
                USING HINT = 'Run CREATE EXTENSION timescaledb as a superuser, then migrate again.';
        END;
    END IF;
    tail := CASE WHEN timescale THEN '' ELSE ' PARTITION BY RANGE (time)' END;
    EXECUTE $sql$
        CREATE TABLE measurement (
            time        timestamptz NOT NULL,
            sequence    bigint      NOT NULL,
            value       double precision,
            device_time timestamptz,
            device_id   integer     NOT NULL,
            metric_id   integer     NOT NULL,
            source      integer     NOT NULL,
            part        smallint    NOT NULL,
            parts       smallint    NOT NULL,
            flags       smallint    NOT NULL,
            text        text
        )$sql$ || tail;
    EXECUTE $sql$
        CREATE TABLE event (
            time        timestamptz NOT NULL,
            sequence    bigint      NOT NULL,
            device_time timestamptz,
            device_id   integer     NOT NULL,
            source      integer     NOT NULL,
            part        smallint    NOT NULL,
            parts       smallint    NOT NULL,
            flags       smallint    NOT NULL,
            kind        smallint    NOT NULL,
            topic       text        NOT NULL,
            body        jsonb,
            bytes       bytea,
            reason      text
        )$sql$ || tail;
    CREATE INDEX measurement_time ON measurement (time, device_id, metric_id);
    CREATE INDEX event_time ON event (time, device_id);
    IF timescale THEN
        PERFORM create_hypertable('measurement', 'time',
            chunk_time_interval => INTERVAL '1 day', create_default_indexes => false);
        PERFORM create_hypertable('event', 'time',
            chunk_time_interval => INTERVAL '1 day', create_default_indexes => false);
    END IF;
END $migration$;

-- Makes the partitions of one UTC day, where TimescaleDB does not. There is no default partition: a row without one
-- is an error that is seen. Attaching needs only SHARE UPDATE EXCLUSIVE on the parent, so nobody who writes waits.
CREATE FUNCTION ensure_partitions(day date) RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
    parent text;
    child  text;
    made   boolean := false;
BEGIN
    FOREACH parent IN ARRAY ARRAY['measurement', 'event'] LOOP
        CONTINUE WHEN (SELECT relkind FROM pg_class WHERE oid = parent::regclass) <> 'p';
        child := parent || '_' || to_char(day, 'YYYYMMDD');
        CONTINUE WHEN EXISTS (
            SELECT FROM pg_inherits WHERE inhparent = parent::regclass AND inhrelid = to_regclass(child));
        -- Two processors may want the same day at once.
        PERFORM pg_advisory_xact_lock(hashtext('sluice partition'), day - date '2000-01-01');
        CONTINUE WHEN EXISTS (
            SELECT FROM pg_inherits WHERE inhparent = parent::regclass AND inhrelid = to_regclass(child));
        EXECUTE format('CREATE TABLE %I (LIKE %I INCLUDING ALL)', child, parent);
        EXECUTE format('ALTER TABLE %I ATTACH PARTITION %I FOR VALUES FROM (%L) TO (%L)', parent, child,
            day::timestamp AT TIME ZONE 'UTC', (day + 1)::timestamp AT TIME ZONE 'UTC');
        made := true;
    END LOOP;
    RETURN made;
END $$;
