-- The transaction log of Unanimity and its history.
-- Migrations are append-only: once released, a file here is never edited; a later one changes it.
-- Times are milliseconds since the Unix epoch (partition time) in tables, timestamps in views.

-- ------------------------------------------------------------------------------ what this log is
CREATE TABLE log_identity (
    singleton   boolean     NOT NULL DEFAULT true,
    log_id      uuid        NOT NULL,
    partitions  integer     NOT NULL,
    born_at     timestamptz NOT NULL DEFAULT clock_timestamp(),
    CONSTRAINT log_identity_one_row PRIMARY KEY (singleton),
    CONSTRAINT log_identity_singleton CHECK (singleton),
    CONSTRAINT log_identity_partitions CHECK (partitions BETWEEN 1 AND 4096)
);
COMMENT ON TABLE  log_identity IS 'One row: who this log is. Written by `unanimity migrate` at birth, never changed.';
COMMENT ON COLUMN log_identity.singleton IS 'Always true: keeps the table at one row.';
COMMENT ON COLUMN log_identity.log_id IS 'The log''s id. Participants keep it and show it; another log answers them "not mine".';
COMMENT ON COLUMN log_identity.partitions IS 'How many partitions the log has, for ever.';
COMMENT ON COLUMN log_identity.born_at IS 'When the log was born.';

-- ------------------------------------------------------------------------------------- the truth
CREATE TABLE log_blocks (
    partition   integer     NOT NULL,
    seq         bigint      NOT NULL,
    version     integer     NOT NULL,
    kind        smallint    NOT NULL,
    epoch       bigint      NOT NULL,
    floor       bigint      NOT NULL,
    time_ms     bigint      NOT NULL,
    previous    bytea       NOT NULL,
    checksum    bytea       NOT NULL,
    body        bytea       NOT NULL,
    written_at  timestamptz NOT NULL DEFAULT clock_timestamp(),
    CONSTRAINT log_blocks_fence PRIMARY KEY (partition, seq),
    CONSTRAINT log_blocks_numbers CHECK (partition >= 0 AND version >= 1 AND epoch >= 0 AND time_ms >= 0),
    CONSTRAINT log_blocks_kind CHECK (kind BETWEEN 0 AND 3),
    CONSTRAINT log_blocks_birth CHECK ((kind = 0) = (seq = 0) AND seq >= 0),
    CONSTRAINT log_blocks_floor CHECK (floor BETWEEN 0 AND seq),
    CONSTRAINT log_blocks_checksums CHECK (octet_length(previous) = 16 AND octet_length(checksum) = 16)
);
COMMENT ON TABLE  log_blocks IS 'The truth. Per partition a chain of blocks of events; rows are inserted and trimmed, never updated. The primary key is the fence against a deposed owner.';
COMMENT ON COLUMN log_blocks.partition IS 'The partition, from 0.';
COMMENT ON COLUMN log_blocks.seq IS 'The block''s place in its partition; 0 is the birth block.';
COMMENT ON COLUMN log_blocks.version IS 'The version of the block''s format.';
COMMENT ON COLUMN log_blocks.kind IS '0 birth (body: the log''s id), 1 epoch (a new owner; body: a nonce), 2 data, 3 closing. Births and epochs are never trimmed.';
COMMENT ON COLUMN log_blocks.epoch IS 'The epoch of the owner that wrote the block; 0 for the birth block.';
COMMENT ON COLUMN log_blocks.floor IS 'Nothing below this place is needed any more. Recorded here before anything is deleted.';
COMMENT ON COLUMN log_blocks.time_ms IS 'Partition time when the block was sealed; never goes backwards.';
COMMENT ON COLUMN log_blocks.previous IS 'The checksum of the block before: the chain.';
COMMENT ON COLUMN log_blocks.checksum IS 'The first 16 bytes of a SHA-256 over header, previous and body.';
COMMENT ON COLUMN log_blocks.body IS 'Events: an encoded unanimity.log.v1.Body (see `unanimity log dump`).';
COMMENT ON COLUMN log_blocks.written_at IS 'When the row was written, by the database''s clock. Not under the checksum.';

-- --------------------------------------------------------------------------------- who may try
CREATE TABLE partitions (
    partition    integer     NOT NULL,
    owner        text,
    address      text,
    lease_until  timestamptz,
    CONSTRAINT partitions_pk PRIMARY KEY (partition),
    CONSTRAINT partitions_number CHECK (partition >= 0),
    CONSTRAINT partitions_whole_lease CHECK (
        (owner IS NULL AND address IS NULL AND lease_until IS NULL)
        OR (owner IS NOT NULL AND address IS NOT NULL AND lease_until IS NOT NULL))
);
COMMENT ON TABLE  partitions IS 'Leases: which node may try to append to which partition. They keep live nodes from fighting; the log itself decides who wins.';
COMMENT ON COLUMN partitions.partition IS 'The partition, from 0.';
COMMENT ON COLUMN partitions.owner IS 'The node that holds the lease; null if nobody does.';
COMMENT ON COLUMN partitions.address IS 'The holder''s address.';
COMMENT ON COLUMN partitions.lease_until IS 'When the lease ends, by this database''s clock.';

-- --------------------------------------------------------------------------------------- history
CREATE TABLE history (
    xid             uuid     NOT NULL,
    partition       integer  NOT NULL,
    mode            text,
    name            text     NOT NULL,
    status          text     NOT NULL,
    decision        text,
    abort_reason    text,
    digest          bytea    NOT NULL,
    begun_at_ms     bigint   NOT NULL,
    deadline_ms     bigint   NOT NULL,
    decided_at_ms   bigint,
    finished_at_ms  bigint,
    attention       text,
    heuristic       boolean  NOT NULL,
    participants    text[]   NOT NULL,
    detail          json     NOT NULL,
    epoch           bigint   NOT NULL,
    seq             bigint   NOT NULL,
    CONSTRAINT history_pk PRIMARY KEY (xid),
    CONSTRAINT history_status CHECK (
        (status IN ('active', 'preparing') AND decision IS NULL)
        OR (status IN ('committing', 'committed') AND decision IS NOT NULL AND decision = 'commit')
        OR (status IN ('aborting', 'aborted') AND decision IS NOT NULL AND decision = 'abort')),
    CONSTRAINT history_abort_reason CHECK (abort_reason IS NULL OR (decision IS NOT NULL AND decision = 'abort')),
    CONSTRAINT history_digest CHECK (octet_length(digest) = 16)
);
CREATE INDEX history_newest ON history (begun_at_ms DESC, xid DESC);
CREATE INDEX history_attention ON history (begun_at_ms DESC, xid DESC) WHERE attention IS NOT NULL;
CREATE INDEX history_open ON history (begun_at_ms DESC, xid DESC) WHERE status NOT IN ('committed', 'aborted');
COMMENT ON TABLE  history IS 'One row per transaction, written by an asynchronous projection. For people use the views `transactions` and `branches`.';
COMMENT ON COLUMN history.xid IS 'The global transaction''s id.';
COMMENT ON COLUMN history.partition IS 'Its partition.';
COMMENT ON COLUMN history.mode IS 'Its mode; null for a presumed abort of an xid that nobody had begun.';
COMMENT ON COLUMN history.name IS 'Its name; empty if it has none.';
COMMENT ON COLUMN history.status IS 'active, preparing, committing, committed, aborting or aborted.';
COMMENT ON COLUMN history.decision IS 'commit or abort; null while undecided. Never changes.';
COMMENT ON COLUMN history.abort_reason IS 'Why it was aborted.';
COMMENT ON COLUMN history.digest IS 'A fingerprint of the request that began it: tells a repetition from a reuse of the xid.';
COMMENT ON COLUMN history.begun_at_ms IS 'When it began.';
COMMENT ON COLUMN history.deadline_ms IS 'Until when it had to be decided.';
COMMENT ON COLUMN history.decided_at_ms IS 'When it was decided.';
COMMENT ON COLUMN history.finished_at_ms IS 'When its last branch was settled.';
COMMENT ON COLUMN history.attention IS 'The code of what needs attention; null if nothing does.';
COMMENT ON COLUMN history.heuristic IS 'Whether a branch was resolved by hand.';
COMMENT ON COLUMN history.participants IS 'The distinct participants, sorted.';
COMMENT ON COLUMN history.detail IS 'Branches "b": [[id, key, target, status, attempts, error, resolved_by, resolved_reason], …], timeline "t": [[at_ms, event, branch_id, detail], …], attention "a": [code, message, since_ms].';
COMMENT ON COLUMN history.epoch IS 'The epoch of the owner that wrote the row: rows change only upwards by (epoch, seq).';
COMMENT ON COLUMN history.seq IS 'The block of the last event that the row knows.';

CREATE TABLE history_watermarks (
    partition  integer NOT NULL,
    epoch      bigint  NOT NULL,
    seq        bigint  NOT NULL,
    CONSTRAINT history_watermarks_pk PRIMARY KEY (partition),
    CONSTRAINT history_watermarks_numbers CHECK (epoch >= 0 AND seq >= 0)
);
COMMENT ON TABLE  history_watermarks IS 'How far each partition''s history speaks. Changes only upwards by (epoch, seq).';
COMMENT ON COLUMN history_watermarks.partition IS 'The partition.';
COMMENT ON COLUMN history_watermarks.epoch IS 'The epoch of the owner that wrote it.';
COMMENT ON COLUMN history_watermarks.seq IS 'Every transaction that finished in a block up to this one has its row.';

-- -------------------------------------------------------------------------------- views for people
-- Guards in both views: a row of another shape shows fewer columns, it does not break the view.
-- Times beyond the year 9999 show as infinity.
CREATE VIEW transactions AS
SELECT
    xid,
    mode,
    name,
    status,
    decision,
    abort_reason,
    to_timestamp(begun_at_ms / 1000.0) AS begun_at,
    CASE WHEN deadline_ms < 253402300800000 THEN to_timestamp(deadline_ms / 1000.0) ELSE 'infinity'::timestamptz END AS deadline,
    to_timestamp(decided_at_ms / 1000.0) AS decided_at,
    to_timestamp(finished_at_ms / 1000.0) AS finished_at,
    (finished_at_ms - begun_at_ms) * interval '1 millisecond' AS duration,
    participants,
    CASE WHEN json_typeof(detail -> 'b') = 'array' THEN json_array_length(detail -> 'b') ELSE 0 END AS branch_count,
    attention,
    CASE WHEN json_typeof(detail -> 'a') = 'array' THEN detail -> 'a' ->> 1 END AS attention_message,
    CASE WHEN json_typeof(detail -> 'a' -> 2) = 'number' THEN to_timestamp((detail -> 'a' ->> 2)::numeric / 1000) END AS attention_since,
    heuristic,
    partition
FROM history;
COMMENT ON VIEW   transactions IS 'One row per global transaction: finished ones, and open ones that live longer than about a second.';
COMMENT ON COLUMN transactions.xid IS 'The global transaction''s id.';
COMMENT ON COLUMN transactions.mode IS 'Its mode; null for a presumed abort of an xid that nobody had begun.';
COMMENT ON COLUMN transactions.name IS 'Its name; empty if it has none.';
COMMENT ON COLUMN transactions.status IS 'active, preparing, committing, committed, aborting or aborted. Only committed and aborted are outcomes.';
COMMENT ON COLUMN transactions.decision IS 'commit or abort; null while undecided.';
COMMENT ON COLUMN transactions.abort_reason IS 'Why it was aborted.';
COMMENT ON COLUMN transactions.begun_at IS 'When it began.';
COMMENT ON COLUMN transactions.deadline IS 'Until when it had to be decided.';
COMMENT ON COLUMN transactions.decided_at IS 'When it was decided.';
COMMENT ON COLUMN transactions.finished_at IS 'When its last branch was settled.';
COMMENT ON COLUMN transactions.duration IS 'From its begin to its end.';
COMMENT ON COLUMN transactions.participants IS 'The distinct participants, sorted.';
COMMENT ON COLUMN transactions.branch_count IS 'How many branches it has.';
COMMENT ON COLUMN transactions.attention IS 'The code of what needs attention; null if nothing does.';
COMMENT ON COLUMN transactions.attention_message IS 'What needs attention, in words.';
COMMENT ON COLUMN transactions.attention_since IS 'Since when.';
COMMENT ON COLUMN transactions.heuristic IS 'Whether a branch was resolved by hand.';
COMMENT ON COLUMN transactions.partition IS 'The partition of the log that it lives in.';

CREATE VIEW branches AS
SELECT
    history.xid,
    (branch ->> 0)::bigint AS branch_id,
    branch ->> 1 AS key,
    branch ->> 2 AS target,
    branch ->> 3 AS status,
    (branch ->> 4)::bigint AS attempts,
    branch ->> 5 AS last_error,
    branch ->> 6 AS resolved_by,
    branch ->> 7 AS resolved_reason,
    history.name AS transaction_name,
    history.status AS transaction_status
FROM history,
    json_array_elements(CASE WHEN json_typeof(detail -> 'b') = 'array' THEN detail -> 'b' ELSE '[]'::json END) AS branch;
COMMENT ON VIEW   branches IS 'One row per branch of every transaction in `transactions`.';
COMMENT ON COLUMN branches.xid IS 'The global transaction''s id.';
COMMENT ON COLUMN branches.branch_id IS 'The branch''s number in its transaction, from 1.';
COMMENT ON COLUMN branches.key IS 'The branch''s identity, minted by whoever registered it.';
COMMENT ON COLUMN branches.target IS 'Where its operations go.';
COMMENT ON COLUMN branches.status IS 'registered, confirming, confirmed, cancelling, cancelled, heuristic_confirmed or heuristic_cancelled.';
COMMENT ON COLUMN branches.attempts IS 'How often its operation was tried, as far as recorded.';
COMMENT ON COLUMN branches.last_error IS 'What the last failed attempt said.';
COMMENT ON COLUMN branches.resolved_by IS 'Who resolved it by hand.';
COMMENT ON COLUMN branches.resolved_reason IS 'Why it was resolved by hand.';
COMMENT ON COLUMN branches.transaction_name IS 'The transaction''s name.';
COMMENT ON COLUMN branches.transaction_status IS 'The transaction''s status.';
