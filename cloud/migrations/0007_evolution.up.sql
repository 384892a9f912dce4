-- What lets programs of two releases work on one schema: flags, versions of JSON, and which database this is.

-- Code that needs a new table or column runs only while its flag is on: it is turned on when every program is of the
-- release that has it. Programs look every few seconds, and when they are notified.
CREATE TABLE feature_flag (
    name       text        PRIMARY KEY,
    enabled    boolean     NOT NULL,
    changed_at timestamptz NOT NULL DEFAULT now()
);
CREATE FUNCTION feature_flag_changed() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NOTIFY sluice_feature_flag;
    RETURN NULL;
END $$;
CREATE TRIGGER feature_flag_changed AFTER INSERT OR UPDATE OR DELETE ON feature_flag
    FOR EACH STATEMENT EXECUTE FUNCTION feature_flag_changed();

-- In a new database no program of an earlier release can be at work.
INSERT INTO feature_flag (name, enabled) SELECT 'rollups', NOT EXISTS (SELECT FROM ingest_offset);

-- Of the structure of body, by kind: docs/decisions/0023. A constant default: no row is written.
ALTER TABLE event ADD COLUMN body_version smallint NOT NULL DEFAULT 1;

-- Where the database's history began to differ from all others: a copy, a restored backup or a promoted standby is known
-- by it, and nothing is stored until sluice database restored has raised the fencing epochs.
CREATE TABLE database_identity (
    only_one          boolean     PRIMARY KEY DEFAULT true CHECK (only_one),
    system_identifier bigint      NOT NULL,
    timeline          text        NOT NULL,
    accepted_at       timestamptz NOT NULL DEFAULT now()
);
INSERT INTO database_identity (system_identifier, timeline)
    SELECT system_identifier, left(pg_walfile_name(pg_current_wal_lsn()), 8) FROM pg_control_system();
