-- The outbox: messages that a service wrote in its own local transaction, until a relay has brought
-- them to the coordinator and the coordinator says that they are delivered.
CREATE TABLE unanimity_outbox (
    n bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    id uuid NOT NULL UNIQUE,
    shard smallint NOT NULL CHECK (shard BETWEEN 0 AND 15),
    name text NOT NULL,
    message_key text COLLATE "C" NOT NULL,
    plan text NOT NULL,
    payload bytea NOT NULL,
    state text NOT NULL CHECK (state IN ('pending', 'handed', 'delivered', 'dead')),
    epoch bigint NOT NULL,
    cause text CHECK (cause IN ('refused', 'parked', 'aborted')),
    reason text,
    created_at_ms bigint NOT NULL,
    updated_at_ms bigint NOT NULL,
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
    shard smallint PRIMARY KEY CHECK (shard BETWEEN 0 AND 15),
    owner text NOT NULL,
    epoch bigint NOT NULL,
    until_ms bigint NOT NULL
);

INSERT INTO unanimity_outbox_shards (shard, owner, epoch, until_ms)
SELECT shard, '', 0, 0 FROM generate_series(0, 15) AS shard;

-- Which relays live, so that they share the shards.
CREATE TABLE unanimity_outbox_relays (
    relay text PRIMARY KEY,
    until_ms bigint NOT NULL
);

COMMENT ON TABLE unanimity_outbox IS
    'Messages written in the sender''s own transactions. A relay takes them by state, never by a cursor: rows of lower n may commit late.';
COMMENT ON COLUMN unanimity_outbox.n IS 'The order of messages with the same key.';
COMMENT ON COLUMN unanimity_outbox.id IS 'The message''s id: the xid of the transaction that delivers it.';
COMMENT ON COLUMN unanimity_outbox.shard IS 'From the hash of the key, or of the id where there is no key.';
COMMENT ON COLUMN unanimity_outbox.name IS 'What the message is, for people.';
COMMENT ON COLUMN unanimity_outbox.message_key IS 'Messages of one key are delivered one after another; empty: no order.';
COMMENT ON COLUMN unanimity_outbox.plan IS 'JSON: where it goes, and when a delivery is tried again.';
COMMENT ON COLUMN unanimity_outbox.payload IS 'What the receivers get.';
COMMENT ON COLUMN unanimity_outbox.state IS
    'pending: nobody has it. handed: the coordinator may have it. delivered: every receiver has it. dead: it will not be delivered unless somebody replays it.';
COMMENT ON COLUMN unanimity_outbox.epoch IS 'The epoch of the lease under which the state last changed.';
COMMENT ON COLUMN unanimity_outbox.cause IS
    'Why it is dead. refused: the coordinator does not take it. parked: a receiver refused it, or its attempts ran out. aborted: its transaction was aborted.';
COMMENT ON COLUMN unanimity_outbox.reason IS 'The same in a sentence.';
COMMENT ON COLUMN unanimity_outbox.created_at_ms IS 'Milliseconds since the Unix epoch, by this database''s clock.';
COMMENT ON COLUMN unanimity_outbox.updated_at_ms IS 'When the state last changed.';
COMMENT ON COLUMN unanimity_outbox_shards.epoch IS 'Grows with each owner: what a former owner still wants to write is refused by it.';
