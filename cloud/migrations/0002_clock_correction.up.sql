-- Gateways whose clock nobody had set: what the times of some of their messages are to be moved by.

-- The true time of the source's messages first_sequence to last_sequence is the gateway's wall time and wall_offset, in
-- microseconds. Ranges of a source do not overlap.
CREATE TABLE clock_correction (
    source         integer     NOT NULL REFERENCES source,
    first_sequence bigint      NOT NULL,
    last_sequence  bigint      NOT NULL CHECK (last_sequence >= first_sequence),
    wall_offset    bigint      NOT NULL,
    recorded_at    timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (source, first_sequence)
);

-- The true time of a row of measurement or event, from its columns source, sequence, flags, time and device_time. NULL
-- where nobody knows: the gateway's clock was not synchronised (flag 8), and never was in that boot afterwards.
--
-- A time from the payload (flag 2) is the device's own and taken as it is, like one of a synchronised clock. Where the
-- time is the log's (flag 1), the gateway's is in device_time if it can be told at all.
CREATE FUNCTION true_time(integer, bigint, smallint, timestamptz, timestamptz) RETURNS timestamptz
LANGUAGE sql STABLE PARALLEL SAFE AS $$
    SELECT CASE
        WHEN $3 & 8 = 0 OR $3 & 2 <> 0 THEN coalesce($5, $4)
        WHEN $3 & 1 <> 0 AND $5 IS NULL THEN NULL
        ELSE (
            SELECT timestamptz 'epoch' + t.corrected * interval '1 microsecond'
            FROM (
                SELECT (extract(epoch FROM coalesce($5, $4)) * 1000000)::bigint + c.wall_offset AS corrected
                FROM (
                    SELECT * FROM clock_correction WHERE source = $1 AND first_sequence <= $2
                    ORDER BY first_sequence DESC LIMIT 1) c
                WHERE c.last_sequence >= $2) t
            -- 0001 to 9999, which every client can show.
            WHERE t.corrected BETWEEN -62135596800000000 AND 253402300799999999)
    END
$$;
