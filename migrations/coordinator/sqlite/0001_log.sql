-- The transaction log of Unanimity and its history, for one coordinator and one file.
-- Migrations are append-only: once released, a file here is never edited; a later one changes it.
-- Times are milliseconds since the Unix epoch (partition time) in tables, texts in UTC in views.
-- SQLite keeps these comments: `.schema` shows them.

CREATE TABLE log_identity (
    -- One row: who this log is. Written by `unanimity migrate` at birth, never changed.
    -- Always 1: keeps the table at one row.
    singleton   INTEGER NOT NULL PRIMARY KEY CHECK (singleton = 1),
    -- The log's id. Participants keep it and show it; another log answers them "not mine".
    log_id      TEXT    NOT NULL CHECK (length(log_id) = 36),
    -- How many partitions the log has, for ever.
    partitions  INTEGER NOT NULL CHECK (partitions BETWEEN 1 AND 4096),
    -- When the log was born.
    born_at_ms  INTEGER NOT NULL
) STRICT;

CREATE TABLE log_blocks (
    -- The truth. Per partition a chain of blocks of events; rows are inserted and trimmed, never
    -- updated. The primary key is the fence against a deposed owner.
    -- The partition, from 0.
    partition      INTEGER NOT NULL CHECK (partition >= 0),
    -- The block's place in its partition; 0 is the birth block.
    seq            INTEGER NOT NULL CHECK (seq >= 0),
    -- The version of the block's format.
    version        INTEGER NOT NULL CHECK (version >= 1),
    -- 0 birth (body: the log's id), 1 epoch (a new owner; body: a nonce), 2 data, 3 closing.
    -- Births and epochs are never trimmed.
    kind           INTEGER NOT NULL CHECK (kind BETWEEN 0 AND 3),
    -- The epoch of the owner that wrote the block; 0 for the birth block.
    epoch          INTEGER NOT NULL CHECK (epoch >= 0),
    -- Nothing below this place is needed any more. Recorded here before anything is deleted.
    floor          INTEGER NOT NULL CHECK (floor BETWEEN 0 AND seq),
    -- Partition time when the block was sealed; never goes backwards.
    time_ms        INTEGER NOT NULL CHECK (time_ms >= 0),
    -- The checksum of the block before: the chain.
    previous       BLOB    NOT NULL CHECK (length(previous) = 16),
    -- The first 16 bytes of a SHA-256 over header, previous and body.
    checksum       BLOB    NOT NULL CHECK (length(checksum) = 16),
    -- Events: an encoded unanimity.log.v1.Body (see `unanimity log dump`).
    body           BLOB    NOT NULL,
    -- When the row was written. Not under the checksum.
    written_at_ms  INTEGER NOT NULL DEFAULT (CAST(unixepoch('subsec') * 1000 AS INTEGER)),
    PRIMARY KEY (partition, seq),
    CHECK ((kind = 0) = (seq = 0))
) STRICT;

CREATE TABLE partitions (
    -- Leases: which node may try to append to which partition. They keep live nodes from fighting;
    -- the log itself decides who wins.
    -- The partition, from 0.
    partition       INTEGER NOT NULL PRIMARY KEY CHECK (partition >= 0),
    -- The node that holds the lease; null if nobody does.
    owner           TEXT,
    -- The holder's address.
    address         TEXT,
    -- When the lease ends, by this machine's clock.
    lease_until_ms  INTEGER,
    CHECK ((owner IS NULL) = (address IS NULL) AND (owner IS NULL) = (lease_until_ms IS NULL))
) STRICT;

CREATE TABLE history (
    -- One row per transaction, written by an asynchronous projection. For people use the views
    -- `transactions` and `branches`.
    -- The global transaction's id, hyphenated, in lower case.
    xid             TEXT    NOT NULL PRIMARY KEY CHECK (length(xid) = 36),
    -- Its partition.
    partition       INTEGER NOT NULL,
    -- Its mode; null for a presumed abort of an xid that nobody had begun.
    mode            TEXT,
    -- Its name; empty if it has none.
    name            TEXT    NOT NULL,
    -- active, preparing, committing, committed, aborting or aborted.
    status          TEXT    NOT NULL,
    -- commit or abort; null while undecided. Never changes.
    decision        TEXT,
    -- Why it was aborted.
    abort_reason    TEXT,
    -- A fingerprint of the request that began it: tells a repetition from a reuse of the xid.
    digest          BLOB    NOT NULL CHECK (length(digest) = 16),
    -- When it began.
    begun_at_ms     INTEGER NOT NULL,
    -- Until when it had to be decided.
    deadline_ms     INTEGER NOT NULL,
    -- When it was decided.
    decided_at_ms   INTEGER,
    -- When its last branch was settled.
    finished_at_ms  INTEGER,
    -- The code of what needs attention; null if nothing does.
    attention       TEXT,
    -- 1 if a branch was resolved by hand.
    heuristic       INTEGER NOT NULL CHECK (heuristic IN (0, 1)),
    -- The distinct participants, sorted, as a JSON array.
    participants    TEXT    NOT NULL CHECK (json_valid(participants)),
    -- Branches "b": [[id, key, target, status, attempts, error, resolved_by, resolved_reason], …],
    -- timeline "t": [[at_ms, event, branch_id, detail], …], attention "a": [code, message, since_ms].
    detail          TEXT    NOT NULL CHECK (json_valid(detail)),
    -- The epoch of the owner that wrote the row: rows change only upwards by (epoch, seq).
    epoch           INTEGER NOT NULL,
    -- The block of the last event that the row knows.
    seq             INTEGER NOT NULL,
    CHECK (
        (status IN ('active', 'preparing') AND decision IS NULL)
        OR (status IN ('committing', 'committed') AND decision IS NOT NULL AND decision = 'commit')
        OR (status IN ('aborting', 'aborted') AND decision IS NOT NULL AND decision = 'abort')),
    CHECK (abort_reason IS NULL OR (decision IS NOT NULL AND decision = 'abort'))
) STRICT;
CREATE INDEX history_newest ON history (begun_at_ms DESC, xid DESC);
CREATE INDEX history_attention ON history (begun_at_ms DESC, xid DESC) WHERE attention IS NOT NULL;
CREATE INDEX history_open ON history (begun_at_ms DESC, xid DESC) WHERE status NOT IN ('committed', 'aborted');

CREATE TABLE history_watermarks (
    -- How far each partition's history speaks. Changes only upwards by (epoch, seq).
    -- The partition.
    partition  INTEGER NOT NULL PRIMARY KEY,
    -- The epoch of the owner that wrote it.
    epoch      INTEGER NOT NULL CHECK (epoch >= 0),
    -- Every transaction that finished in a block up to this one has its row.
    seq        INTEGER NOT NULL CHECK (seq >= 0)
) STRICT;

CREATE VIEW transactions AS
-- One row per global transaction: finished ones, and open ones that live longer than about a second.
SELECT
    -- The global transaction's id.
    xid,
    -- Its mode; null for a presumed abort of an xid that nobody had begun.
    mode,
    -- Its name; empty if it has none.
    name,
    -- active, preparing, committing, committed, aborting or aborted. Only committed and aborted are
    -- outcomes.
    status,
    -- commit or abort; null while undecided.
    decision,
    -- Why it was aborted.
    abort_reason,
    -- When it began, in UTC.
    strftime('%Y-%m-%d %H:%M:%f', begun_at_ms / 1000.0, 'unixepoch') AS begun_at,
    -- Until when it had to be decided.
    strftime('%Y-%m-%d %H:%M:%f', deadline_ms / 1000.0, 'unixepoch') AS deadline,
    -- When it was decided.
    strftime('%Y-%m-%d %H:%M:%f', decided_at_ms / 1000.0, 'unixepoch') AS decided_at,
    -- When its last branch was settled.
    strftime('%Y-%m-%d %H:%M:%f', finished_at_ms / 1000.0, 'unixepoch') AS finished_at,
    -- From its begin to its end, in milliseconds.
    finished_at_ms - begun_at_ms AS duration_ms,
    -- The distinct participants, sorted, as a JSON array.
    participants,
    -- How many branches it has.
    coalesce(json_array_length(detail, '$.b'), 0) AS branch_count,
    -- The code of what needs attention; null if nothing does.
    attention,
    -- What needs attention, in words.
    json_extract(detail, '$.a[1]') AS attention_message,
    -- Since when.
    strftime('%Y-%m-%d %H:%M:%f', json_extract(detail, '$.a[2]') / 1000.0, 'unixepoch') AS attention_since,
    -- 1 if a branch was resolved by hand.
    heuristic,
    -- The partition of the log that it lives in.
    partition
FROM history;

CREATE VIEW branches AS
-- One row per branch of every transaction in `transactions`.
SELECT
    -- The global transaction's id.
    history.xid AS xid,
    -- The branch's number in its transaction, from 1.
    json_extract(branch.value, '$[0]') AS branch_id,
    -- The branch's identity, minted by whoever registered it.
    json_extract(branch.value, '$[1]') AS key,
    -- Where its operations go.
    json_extract(branch.value, '$[2]') AS target,
    -- registered, confirming, confirmed, cancelling, cancelled, heuristic_confirmed or
    -- heuristic_cancelled.
    json_extract(branch.value, '$[3]') AS status,
    -- How often its operation was tried, as far as recorded.
    json_extract(branch.value, '$[4]') AS attempts,
    -- What the last failed attempt said.
    json_extract(branch.value, '$[5]') AS last_error,
    -- Who resolved it by hand.
    json_extract(branch.value, '$[6]') AS resolved_by,
    -- Why it was resolved by hand.
    json_extract(branch.value, '$[7]') AS resolved_reason,
    -- The transaction's name.
    history.name AS transaction_name,
    -- The transaction's status.
    history.status AS transaction_status
FROM history, json_each(history.detail, '$.b') AS branch;
