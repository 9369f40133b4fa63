-- History that is half as large and goes back only so far: numbers for words, ids as bytes, the floor of
-- what was deleted. For people nothing changes: the views show the same columns.

DROP VIEW branches;
DROP VIEW transactions;
DROP INDEX history_newest;
DROP INDEX history_attention;
DROP INDEX history_open;
ALTER TABLE history RENAME TO history_before;

CREATE TABLE history (
    -- One row per transaction, written by an asynchronous projection. For people use the views
    -- `transactions` and `branches`.
    -- The global transaction's id.
    xid             BLOB    NOT NULL PRIMARY KEY CHECK (length(xid) = 16),
    -- When it began. Never changes.
    begun_at_ms     INTEGER NOT NULL,
    -- Its partition.
    partition       INTEGER NOT NULL,
    -- 1 tcc, 2 saga, 3 two_phase, 4 message; null for a presumed abort of an xid that nobody had begun.
    mode            INTEGER CHECK (mode BETWEEN 1 AND 4),
    -- 1 active, 2 preparing, 3 committing, 4 committed, 5 aborting, 6 aborted. A decision never changes.
    status          INTEGER NOT NULL CHECK (status BETWEEN 1 AND 6),
    -- Until when it had to be decided.
    deadline_ms     INTEGER NOT NULL,
    -- When it was decided.
    decided_at_ms   INTEGER,
    -- When its last branch was settled.
    finished_at_ms  INTEGER,
    -- 1 if a branch was resolved by hand.
    heuristic       INTEGER NOT NULL CHECK (heuristic IN (0, 1)),
    -- The epoch of the owner that wrote the row: rows change only upwards by (epoch, seq).
    epoch           INTEGER NOT NULL,
    -- The block of the last event that the row knows.
    seq             INTEGER NOT NULL,
    -- A fingerprint of the request that began it: tells a repetition from a reuse of the xid.
    digest          BLOB    NOT NULL CHECK (length(digest) = 16),
    -- Why it was aborted.
    abort_reason    TEXT,
    -- The code of what needs attention; null if nothing does.
    attention       TEXT,
    -- Its name; empty if it has none.
    name            TEXT    NOT NULL,
    -- The distinct participants, sorted, as a JSON array.
    participants    TEXT    NOT NULL CHECK (json_valid(participants)),
    -- Branches "b": [[id, key, target, status, attempts, error, resolved_by, resolved_reason, more], …]
    -- without what is empty at the end of each; a key in brackets goes on after the target's text; a
    -- status is its number in the view `branches`, or its word; more is {"k": kind unless tcc,
    -- "p": parked, "l": [lock key, …], "s": [role, [number of a step before it, …], result]} without
    -- what is empty. Timeline "d": [[ms after the begin, number of the event, branch_id, detail], …];
    -- rows from before have "t": [[at_ms, event, branch_id, detail], …].
    -- Attention "a": [code, message, since_ms, branch_id].
    detail          TEXT    NOT NULL CHECK (json_valid(detail)),
    CHECK (abort_reason IS NULL OR status >= 5)
) STRICT;
CREATE INDEX history_newest ON history (begun_at_ms, xid);
-- What people look for first: what is open, and what needs attention.
CREATE INDEX history_watched ON history (begun_at_ms, xid) WHERE attention IS NOT NULL OR status NOT IN (4, 6);

CREATE TABLE history_retention (
    -- One row: how far back history goes.
    -- Always 1: keeps the table at one row.
    singleton  INTEGER NOT NULL PRIMARY KEY CHECK (singleton = 1),
    -- What finished before this moment may have been deleted. What participants ask about from before
    -- it, and nobody knows, is answered "forgotten". Only grows.
    floor_ms   INTEGER NOT NULL CHECK (floor_ms >= 0)
) STRICT;
INSERT INTO history_retention (singleton, floor_ms) VALUES (1, 0);

INSERT INTO history (xid, begun_at_ms, partition, mode, status, deadline_ms, decided_at_ms, finished_at_ms,
    heuristic, epoch, seq, digest, abort_reason, attention, name, participants, detail)
SELECT unhex(xid, '-'), begun_at_ms, partition,
    CASE mode WHEN 'tcc' THEN 1 WHEN 'saga' THEN 2 WHEN 'two_phase' THEN 3 WHEN 'message' THEN 4 END,
    CASE status WHEN 'active' THEN 1 WHEN 'preparing' THEN 2 WHEN 'committing' THEN 3 WHEN 'committed' THEN 4
        WHEN 'aborting' THEN 5 WHEN 'aborted' THEN 6 END,
    deadline_ms, decided_at_ms, finished_at_ms, heuristic, epoch, seq, digest, abort_reason, attention, name,
    participants, detail
FROM history_before ORDER BY begun_at_ms;
DROP TABLE history_before;

CREATE VIEW transactions AS
-- One row per global transaction: finished ones, and open ones that live longer than about a second.
SELECT
    -- The global transaction's id, hyphenated, in lower case.
    lower(substr(hex(xid), 1, 8) || '-' || substr(hex(xid), 9, 4) || '-' || substr(hex(xid), 13, 4) || '-'
        || substr(hex(xid), 17, 4) || '-' || substr(hex(xid), 21)) AS xid,
    -- Its mode; null for a presumed abort of an xid that nobody had begun.
    CASE mode WHEN 1 THEN 'tcc' WHEN 2 THEN 'saga' WHEN 3 THEN 'two_phase' WHEN 4 THEN 'message' END AS mode,
    -- Its name; empty if it has none.
    name,
    -- active, preparing, committing, committed, aborting or aborted. Only committed and aborted are
    -- outcomes.
    CASE status WHEN 1 THEN 'active' WHEN 2 THEN 'preparing' WHEN 3 THEN 'committing' WHEN 4 THEN 'committed'
        WHEN 5 THEN 'aborting' WHEN 6 THEN 'aborted' END AS status,
    -- commit or abort; null while undecided.
    CASE WHEN status IN (3, 4) THEN 'commit' WHEN status IN (5, 6) THEN 'abort' END AS decision,
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
    -- The global transaction's id, hyphenated, in lower case.
    lower(substr(hex(history.xid), 1, 8) || '-' || substr(hex(history.xid), 9, 4) || '-'
        || substr(hex(history.xid), 13, 4) || '-' || substr(hex(history.xid), 17, 4) || '-'
        || substr(hex(history.xid), 21)) AS xid,
    -- The branch's number in its transaction, from 1.
    json_extract(branch.value, '$[0]') AS branch_id,
    -- The branch's identity, minted by whoever registered it.
    CASE json_type(branch.value, '$[1]') WHEN 'array'
        THEN json_extract(branch.value, '$[2]') || json_extract(branch.value, '$[1][0]')
        ELSE json_extract(branch.value, '$[1]') END AS key,
    -- Where its operations go.
    json_extract(branch.value, '$[2]') AS target,
    -- How far it is: registered; then by its kind, for example confirming, confirmed, prepared,
    -- committed, rolled_back, running, done, compensating, compensated, delivering, delivered;
    -- heuristic_confirmed or heuristic_cancelled where it was settled by hand.
    CASE json_type(branch.value, '$[3]') WHEN 'integer' THEN json_extract(
        '[null, "registered", "confirming", "confirmed", "cancelling", "cancelled", "heuristic_confirmed", "heuristic_cancelled",
        "preparing", "prepared", "read_only", "refused", "committing", "committed", "rolling_back", "rolled_back",
        "delegated", "running", "done", "to_compensate", "compensating", "compensated", "skipped", "kept", "checking",
        "answered", "delivering", "delivered", "discarded"]',
        '$[' || json_extract(branch.value, '$[3]') || ']') ELSE json_extract(branch.value, '$[3]') END AS status,
    -- How often its operation was tried, as far as recorded.
    coalesce(json_extract(branch.value, '$[4]'), 0) AS attempts,
    -- What the last failed attempt said; null if it said nothing or none failed.
    nullif(json_extract(branch.value, '$[5]'), '') AS last_error,
    -- Who resolved it by hand; null if nobody did.
    nullif(json_extract(branch.value, '$[6]'), '') AS resolved_by,
    -- Why it was resolved by hand; null if it was not.
    nullif(json_extract(branch.value, '$[7]'), '') AS resolved_reason,
    -- The transaction's name.
    history.name AS transaction_name,
    -- The transaction's status.
    CASE history.status WHEN 1 THEN 'active' WHEN 2 THEN 'preparing' WHEN 3 THEN 'committing'
        WHEN 4 THEN 'committed' WHEN 5 THEN 'aborting' WHEN 6 THEN 'aborted' END AS transaction_status,
    -- What it is: tcc, step (of a saga), two_phase, message (one delivery) or sender (of a message).
    coalesce(json_extract(branch.value, '$[8].k'), 'tcc') AS kind,
    -- 1 if no more attempts are made until an operator asks for one.
    coalesce(json_extract(branch.value, '$[8].p'), 0) AS parked,
    -- The locks that were taken for it, as a JSON array.
    coalesce(json_extract(branch.value, '$[8].l'), '[]') AS lock_keys,
    -- How far a saga's step can be turned back: compensatable, pivot or forward_only; null for what is
    -- no step.
    json_extract(branch.value, '$[8].s[0]') AS role
FROM history, json_each(history.detail, '$.b') AS branch;
