-- The outbox: messages that a service wrote in its own local transaction, until a relay has brought
-- them to the coordinator and the coordinator says that they are delivered. A relay takes them by
-- state, never by a cursor.
CREATE TABLE unanimity_outbox (
    -- The order of messages with the same key. Never used twice, so that a late write cannot meet
    -- another row.
    n INTEGER PRIMARY KEY AUTOINCREMENT,
    -- The message's id: the xid of the transaction that delivers it, in hyphenated form.
    id TEXT NOT NULL UNIQUE,
    -- From the hash of the key, or of the id where there is no key.
    shard INTEGER NOT NULL CHECK (shard BETWEEN 0 AND 15),
    -- What the message is, for people.
    name TEXT NOT NULL,
    -- Messages of one key are delivered one after another; empty: no order.
    message_key TEXT NOT NULL,
    -- JSON: where it goes, and when a delivery is tried again.
    plan TEXT NOT NULL,
    -- What the receivers get.
    payload BLOB NOT NULL,
    -- pending: nobody has it. handed: the coordinator may have it. delivered: every receiver has it.
    -- dead: it will not be delivered unless somebody replays it.
    state TEXT NOT NULL CHECK (state IN ('pending', 'handed', 'delivered', 'dead')),
    -- The epoch of the lease under which the state last changed.
    epoch INTEGER NOT NULL,
    -- Why it is dead. refused: the coordinator does not take it. parked: a receiver refused it, or
    -- its attempts ran out. aborted: its transaction was aborted.
    cause TEXT CHECK (cause IN ('refused', 'parked', 'aborted')),
    -- The same in a sentence.
    reason TEXT,
    -- Milliseconds since the Unix epoch, by this database's clock.
    created_at_ms INTEGER NOT NULL,
    -- When the state last changed.
    updated_at_ms INTEGER NOT NULL,
    CHECK ((state = 'dead') = (cause IS NOT NULL))
);

-- What a relay reads: small, since delivered rows are not in it.
CREATE INDEX unanimity_outbox_open ON unanimity_outbox (shard, state, message_key, n)
    WHERE state IN ('pending', 'handed');

-- What the deletion of old rows, and a look at the dead letters, read.
CREATE INDEX unanimity_outbox_over ON unanimity_outbox (state, shard, updated_at_ms)
    WHERE state IN ('delivered', 'dead');

-- Which relay works on which shard. By the clock of this database alone.
CREATE TABLE unanimity_outbox_shards (
    shard INTEGER PRIMARY KEY CHECK (shard BETWEEN 0 AND 15),
    owner TEXT NOT NULL,
    -- Grows with each owner: what a former owner still wants to write is refused by it.
    epoch INTEGER NOT NULL,
    until_ms INTEGER NOT NULL
);

INSERT INTO unanimity_outbox_shards (shard, owner, epoch, until_ms) VALUES
    (0, '', 0, 0), (1, '', 0, 0), (2, '', 0, 0), (3, '', 0, 0),
    (4, '', 0, 0), (5, '', 0, 0), (6, '', 0, 0), (7, '', 0, 0),
    (8, '', 0, 0), (9, '', 0, 0), (10, '', 0, 0), (11, '', 0, 0),
    (12, '', 0, 0), (13, '', 0, 0), (14, '', 0, 0), (15, '', 0, 0);

-- Which relays live, so that they share the shards.
CREATE TABLE unanimity_outbox_relays (
    relay TEXT PRIMARY KEY,
    until_ms INTEGER NOT NULL
) WITHOUT ROWID;
