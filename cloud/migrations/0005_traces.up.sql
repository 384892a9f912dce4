-- From a row to its trace and back (W3C Trace Context). A message whose publisher gave it no context has one that follows
-- from its identity, so nothing is stored of it (docs/sync-protocol.md, "Trace context").

-- Contexts that publishers gave, in MQTT's user property traceparent.
CREATE TABLE message_trace (
    source      integer     NOT NULL,
    sequence    bigint      NOT NULL,
    trace_id    uuid        NOT NULL,
    traceparent text        NOT NULL,
    stored_at   timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (source, sequence)
);
CREATE INDEX message_trace_id ON message_trace (trace_id);
CREATE INDEX message_trace_stored ON message_trace USING brin (stored_at);

-- The traceparent of a row of measurement or event, from its columns source and sequence; NULL: there is no such source.
CREATE FUNCTION traceparent(integer, bigint) RETURNS text LANGUAGE sql STABLE PARALLEL SAFE AS $$
    SELECT coalesce(
        (SELECT t.traceparent FROM message_trace t WHERE t.source = $1 AND t.sequence = $2),
        (SELECT '00-' || CASE WHEN h.high # h.low = 0 THEN '0000000000000001'
                ELSE lpad(to_hex(h.high # h.low), 16, '0') END
            || lpad(to_hex($2), 16, '0') || '-' || lpad(to_hex($2), 16, '0') || '-00'
        FROM (
            SELECT ('x' || substr(replace(s.epoch::text, '-', ''), 1, 16))::bit(64)::bigint AS high,
                ('x' || substr(replace(s.epoch::text, '-', ''), 17, 16))::bit(64)::bigint AS low
            FROM source s WHERE s.id = $1) h))
$$;

-- Its trace id alone, 32 hexadecimal digits, as log lines and tracing systems have it.
CREATE FUNCTION trace_id(integer, bigint) RETURNS text LANGUAGE sql STABLE PARALLEL SAFE AS $$
    SELECT substr(traceparent($1, $2), 4, 32)
$$;

-- The messages of a trace id: a publisher's own may have many, one that follows from an identity has one.
CREATE FUNCTION messages_of_trace(text) RETURNS TABLE (source integer, sequence bigint)
LANGUAGE sql STABLE PARALLEL SAFE AS $$
    SELECT t.source, t.sequence FROM message_trace t WHERE t.trace_id = $1::uuid
    UNION ALL
    SELECT s.id, ('x' || substr($1, 17, 16))::bit(64)::bigint FROM source s
    WHERE trace_id(s.id, ('x' || substr($1, 17, 16))::bit(64)::bigint) = $1
        AND NOT EXISTS (SELECT FROM message_trace t
            WHERE t.source = s.id AND t.sequence = ('x' || substr($1, 17, 16))::bit(64)::bigint)
$$;

-- Deletes contexts that are older than the rows they belong to, so many at a time.
CREATE FUNCTION forget_traces(age interval, most integer) RETURNS bigint LANGUAGE sql AS $$
    WITH gone AS (
        DELETE FROM message_trace m USING (
            SELECT source, sequence FROM message_trace WHERE stored_at < now() - age LIMIT most) o
        WHERE m.source = o.source AND m.sequence = o.sequence RETURNING 1)
    SELECT count(*) FROM gone
$$;
