-- What is in these tables is nowhere else: without this check, undoing would lose messages.
DO $migration$
BEGIN
    IF EXISTS (SELECT FROM dead_letter WHERE kind = 1 AND state = 'stored') THEN
        RAISE EXCEPTION 'dead letters are not replayed' USING HINT = 'Run sluice dlq replay first.';
    END IF;
    IF EXISTS (SELECT FROM sample_range) THEN
        RAISE EXCEPTION 'ranges of the event log are stored as samples only'
            USING HINT = 'Let the processor store the rest first.';
    END IF;
END $migration$;
DROP TABLE sample_range;
DROP TABLE dead_letter;
