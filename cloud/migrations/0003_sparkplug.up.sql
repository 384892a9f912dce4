-- What Sparkplug's births say of their metrics: data names its metrics by aliases, and leaves their types out.
--
-- Data is read by the newest birth before it in the gateway's order, whenever either comes: a gateway that was offline
-- sends what is live before its backlog. So each birth has its place there, and what it says is kept once for all births
-- of a node or device that say the same.

-- Nodes, and devices behind them; device is empty for a node's own. As many a gateway as the processor allows: those that
-- were not heard of for longest make room.
CREATE TABLE sparkplug_entity (
    id         bigint  GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    gateway_id integer NOT NULL REFERENCES gateway,
    group_name text    NOT NULL,
    node       text    NOT NULL,
    device     text    NOT NULL,
    -- Microseconds since 1970 by the log's clock, up to an hour old.
    used_at    bigint  NOT NULL,
    UNIQUE (gateway_id, group_name, node, device)
);
CREATE INDEX sparkplug_entity_used ON sparkplug_entity (gateway_id, used_at, id);

-- One element a metric in each array.
CREATE TABLE sparkplug_definition (
    entity_id bigint        NOT NULL REFERENCES sparkplug_entity ON DELETE CASCADE,
    digest    bytea         NOT NULL,
    names     text[]        NOT NULL,
    aliases   numeric(20)[] NOT NULL,
    datatypes bigint[]      NOT NULL,
    PRIMARY KEY (entity_id, digest)
);

-- source and sequence are those of the birth's message. Where runs of the gateway have to be compared, the monotonic clock
-- does it within a boot and the wall clock between boots; microseconds, the wall clock's since 1970.
CREATE TABLE sparkplug_birth (
    entity_id      bigint  NOT NULL,
    source         integer NOT NULL,
    sequence       bigint  NOT NULL,
    wall_time      bigint  NOT NULL,
    monotonic_time bigint  NOT NULL,
    boot           uuid    NOT NULL,
    digest         bytea   NOT NULL,
    -- Of its definition, so that it need not be looked at before it is needed.
    metric_count   integer NOT NULL,
    PRIMARY KEY (entity_id, source, sequence),
    FOREIGN KEY (entity_id, digest) REFERENCES sparkplug_definition ON DELETE CASCADE
);
CREATE INDEX sparkplug_birth_definition ON sparkplug_birth (entity_id, digest);

-- For people: what each birth says of each metric.
CREATE VIEW sparkplug_metric AS
    SELECT e.gateway_id, e.group_name, e.node, e.device, b.source, b.sequence, m.alias, m.name, m.datatype
    FROM sparkplug_entity e
    JOIN sparkplug_birth b ON b.entity_id = e.id
    JOIN sparkplug_definition d ON (d.entity_id, d.digest) = (b.entity_id, b.digest)
    CROSS JOIN unnest(d.names, d.aliases, d.datatypes) AS m (name, alias, datatype);
