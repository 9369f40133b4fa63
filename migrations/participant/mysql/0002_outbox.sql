-- The outbox: messages that a service wrote in its own local transaction, until a relay has brought
-- them to the coordinator and the coordinator says that they are delivered. A relay takes them by
-- state, never by a cursor. InnoDB, whatever the server's default: it must be transactional.
CREATE TABLE IF NOT EXISTS unanimity_outbox (
    n BIGINT NOT NULL AUTO_INCREMENT PRIMARY KEY COMMENT 'The order of messages with the same key.',
    id CHAR(36) CHARACTER SET ascii COLLATE ascii_bin NOT NULL UNIQUE
        COMMENT 'The message''s id: the xid of the transaction that delivers it, in hyphenated form.',
    shard SMALLINT NOT NULL COMMENT 'From the hash of the key, or of the id where there is no key.',
    name VARCHAR(128) CHARACTER SET utf8mb4 NOT NULL COMMENT 'What the message is, for people.',
    -- Bytes: every collation of text calls some different keys the same.
    message_key VARBINARY(128) NOT NULL
        COMMENT 'Messages of one key are delivered one after another; empty: no order. UTF-8.',
    plan MEDIUMTEXT CHARACTER SET utf8mb4 NOT NULL
        COMMENT 'JSON: where it goes, and when a delivery is tried again.',
    payload LONGBLOB NOT NULL COMMENT 'What the receivers get.',
    state VARCHAR(16) CHARACTER SET ascii COLLATE ascii_bin NOT NULL
        COMMENT 'pending: nobody has it. handed: the coordinator may have it. delivered: every receiver has it. dead: it will not be delivered unless somebody replays it.',
    epoch BIGINT NOT NULL COMMENT 'The epoch of the lease under which the state last changed.',
    cause VARCHAR(16) CHARACTER SET ascii COLLATE ascii_bin
        COMMENT 'Why it is dead. refused: the coordinator does not take it. parked: a receiver refused it, or its attempts ran out. aborted: its transaction was aborted.',
    reason TEXT CHARACTER SET utf8mb4 COMMENT 'The same in a sentence.',
    created_at_ms BIGINT NOT NULL COMMENT 'Milliseconds since the Unix epoch, by this database''s clock.',
    updated_at_ms BIGINT NOT NULL COMMENT 'When the state last changed.',
    CHECK (shard BETWEEN 0 AND 15),
    CHECK (state IN ('pending', 'handed', 'delivered', 'dead')),
    CHECK (cause IS NULL OR cause IN ('refused', 'parked', 'aborted')),
    CHECK ((state = 'dead') = (cause IS NOT NULL)),
    KEY unanimity_outbox_open (shard, state, message_key, n),
    KEY unanimity_outbox_over (state, shard, updated_at_ms)
) ENGINE = InnoDB;

-- Which relay works on which shard. By the clock of this database alone.
CREATE TABLE IF NOT EXISTS unanimity_outbox_shards (
    shard SMALLINT NOT NULL PRIMARY KEY,
    owner VARCHAR(64) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    epoch BIGINT NOT NULL
        COMMENT 'Grows with each owner: what a former owner still wants to write is refused by it.',
    until_ms BIGINT NOT NULL
) ENGINE = InnoDB;

-- MySQL commits each statement of a migration by itself: one that begins again finds its rows.
INSERT IGNORE INTO unanimity_outbox_shards (shard, owner, epoch, until_ms) VALUES
    (0, '', 0, 0), (1, '', 0, 0), (2, '', 0, 0), (3, '', 0, 0),
    (4, '', 0, 0), (5, '', 0, 0), (6, '', 0, 0), (7, '', 0, 0),
    (8, '', 0, 0), (9, '', 0, 0), (10, '', 0, 0), (11, '', 0, 0),
    (12, '', 0, 0), (13, '', 0, 0), (14, '', 0, 0), (15, '', 0, 0);

-- Which relays live, so that they share the shards.
CREATE TABLE IF NOT EXISTS unanimity_outbox_relays (
    relay VARCHAR(64) CHARACTER SET ascii COLLATE ascii_bin NOT NULL PRIMARY KEY,
    until_ms BIGINT NOT NULL
) ENGINE = InnoDB;
