-- The nodes of the cluster, as they say themselves that they live, and the block format that all of them know.

CREATE TABLE nodes (
    node         text        NOT NULL,
    instance     uuid        NOT NULL,
    address      text        NOT NULL,
    version      text        NOT NULL,
    formats      integer     NOT NULL,
    draining     boolean     NOT NULL DEFAULT false,
    leaving      boolean     NOT NULL,
    heard_at     timestamptz NOT NULL,
    alive_until  timestamptz NOT NULL,
    CONSTRAINT nodes_pk PRIMARY KEY (node),
    CONSTRAINT nodes_formats CHECK (formats >= 1)
);
COMMENT ON TABLE  nodes IS 'Which nodes live, by this database''s clock. They share the partitions out among themselves by it; the log alone decides who wins.';
COMMENT ON COLUMN nodes.node IS 'The node''s name, unique in the cluster.';
COMMENT ON COLUMN nodes.instance IS 'The process that bears the name: a later one takes it over from an earlier one.';
COMMENT ON COLUMN nodes.address IS 'Where other nodes and clients reach it.';
COMMENT ON COLUMN nodes.version IS 'Its version of Unanimity.';
COMMENT ON COLUMN nodes.formats IS 'The highest block format that it reads and writes.';
COMMENT ON COLUMN nodes.draining IS 'An operator wants it to own nothing: see `unanimity cluster drain`.';
COMMENT ON COLUMN nodes.leaving IS 'It stops, and hands over what it owns.';
COMMENT ON COLUMN nodes.heard_at IS 'When it last said that it lives.';
COMMENT ON COLUMN nodes.alive_until IS 'Until when it counts as living without a further word.';

CREATE TABLE log_format (
    singleton  boolean NOT NULL DEFAULT true,
    format     integer NOT NULL,
    CONSTRAINT log_format_one_row PRIMARY KEY (singleton),
    CONSTRAINT log_format_singleton CHECK (singleton),
    CONSTRAINT log_format_number CHECK (format >= 1)
);
INSERT INTO log_format (format) VALUES (1);
COMMENT ON TABLE  log_format IS 'One row: the block format that the cluster writes. Who joins locks it.';
COMMENT ON COLUMN log_format.singleton IS 'Always true: keeps the table at one row.';
COMMENT ON COLUMN log_format.format IS 'Only grows, to what every living node knows. A node that knows less is refused.';
