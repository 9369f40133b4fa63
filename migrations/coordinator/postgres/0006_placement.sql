-- Who claims a partition, and on which server its log lives.

-- ---------------------------------------------------------------------------- who may try, and where
ALTER TABLE partitions
    ADD COLUMN epoch      bigint,
    ADD COLUMN server     text   NOT NULL DEFAULT 'home',
    ADD COLUMN placed_seq bigint NOT NULL DEFAULT 0,
    ADD CONSTRAINT partitions_epoch CHECK (epoch >= 0),
    ADD CONSTRAINT partitions_server CHECK (server <> ''),
    ADD CONSTRAINT partitions_placed CHECK (placed_seq >= 0);
COMMENT ON COLUMN partitions.epoch IS 'The epoch of whoever claimed the partition last, on the server that holds its log. A hint that turns an owner away which lost its lease and goes on; the fence is the key of log_blocks. Null: nobody claimed it since this column exists.';
COMMENT ON COLUMN partitions.server IS 'In the home database: the name of the server that holds the partition''s log, home for this one. Elsewhere without meaning.';
COMMENT ON COLUMN partitions.placed_seq IS 'In the home database: the place of the sealing block that brought the log there; 0 for where it was born. Only grows.';

-- --------------------------------------------------------------------------- several servers, one log
ALTER TABLE log_identity
    ADD COLUMN server text NOT NULL DEFAULT 'home',
    ADD CONSTRAINT log_identity_server CHECK (server <> '');
COMMENT ON COLUMN log_identity.server IS 'Which of the log''s servers this database is: home, or the name under which `unanimity migrate` bore it.';

CREATE TABLE log_servers (
    name       text        NOT NULL,
    joined_at  timestamptz NOT NULL DEFAULT clock_timestamp(),
    CONSTRAINT log_servers_pk PRIMARY KEY (name),
    CONSTRAINT log_servers_name CHECK (name <> '' AND name <> 'home')
);
COMMENT ON TABLE  log_servers IS 'In the home database: the further servers that `unanimity migrate` bore for this log.';
COMMENT ON COLUMN log_servers.name IS 'The server''s name. Where it is found is said by every node''s configuration.';
COMMENT ON COLUMN log_servers.joined_at IS 'When it joined.';

CREATE TABLE partition_servers (
    partition  integer     NOT NULL,
    server     text        NOT NULL,
    left_at    timestamptz NOT NULL DEFAULT clock_timestamp(),
    CONSTRAINT partition_servers_pk PRIMARY KEY (partition, server)
);
COMMENT ON TABLE  partition_servers IS 'In the home database: the servers that a partition''s log was moved away from. Rows of its history may be there.';
COMMENT ON COLUMN partition_servers.partition IS 'The partition.';
COMMENT ON COLUMN partition_servers.server IS 'The server that it left.';
COMMENT ON COLUMN partition_servers.left_at IS 'When it left that server for the last time.';

-- ------------------------------------------------------------------------------------ sealing blocks
-- Without a scan: what is there has the kinds of before.
ALTER TABLE log_blocks DROP CONSTRAINT log_blocks_kind;
ALTER TABLE log_blocks ADD CONSTRAINT log_blocks_kind CHECK (kind BETWEEN 0 AND 4) NOT VALID;
COMMENT ON COLUMN log_blocks.kind IS '0 birth (body: the log''s id), 1 epoch (a new owner; body: a nonce and the first valid epoch), 2 data, 3 closing, 4 sealing (the log goes on at the server that the body names). Births, epochs and seals are never trimmed.';
