-- Dead letters, and the ranges of the event log of which only a sample is stored.

-- What was not stored as rows in the ordinary way, and why.
-- kind 1: a range of the log in an object, written while the database did not answer. 'replayed': its messages are rows.
-- kind 2: a message whose rows PostgreSQL refused. Its bytes are in event (kind 9 there), under its source and sequence.
CREATE TABLE dead_letter (
    id           bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    kind         smallint    NOT NULL CHECK (kind IN (1, 2)),
    state        text        NOT NULL DEFAULT 'stored' CHECK (state IN ('stored', 'replayed')),
    reason       text        NOT NULL,
    created_at   timestamptz NOT NULL DEFAULT now(),
    replayed_at  timestamptz,
    -- Kind 1. The object's offsets are first_offset up to, and without, next_offset.
    object       text        UNIQUE,
    digest       bytea,
    bytes        bigint,
    partition    integer,
    first_offset bigint,
    next_offset  bigint,
    -- Kind 2.
    source       integer,
    sequence     bigint,
    device       text,
    CHECK (kind <> 1 OR (object IS NOT NULL AND digest IS NOT NULL AND bytes IS NOT NULL AND partition IS NOT NULL
        AND first_offset IS NOT NULL AND next_offset IS NOT NULL)),
    CHECK (kind <> 2 OR (source IS NOT NULL AND sequence IS NOT NULL AND device IS NOT NULL))
);
CREATE INDEX dead_letter_waiting ON dead_letter (id) WHERE kind = 1 AND state = 'stored';

-- Offsets of a partition that the processor has passed, storing every tenth message alone. The rest is stored from the
-- log again, in the transaction that deletes the row.
CREATE TABLE sample_range (
    partition    integer     NOT NULL,
    first_offset bigint      NOT NULL,
    next_offset  bigint      NOT NULL CHECK (next_offset > first_offset),
    -- Fencing epoch of the processor that passed them.
    epoch        bigint      NOT NULL,
    incarnation  text        NOT NULL,
    created_at   timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (incarnation, partition, first_offset)
);
