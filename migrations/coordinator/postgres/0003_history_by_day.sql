-- History by day: dropped a day at a time, and half as large.
--
-- A row lives in the partition of the day (UTC) on which its transaction began, or in `history_rest` if
-- that day has none. A begin never changes, so neither does a row's place while its partition is there.
-- Partitions are made ahead and dropped by the functions below, which coordinators call: with the rights of
-- the role that migrates, so that the role that coordinators run under needs no right to change the schema.
-- For people nothing changes: the views `transactions` and `branches` show the same columns.

DROP VIEW branches;
DROP VIEW transactions;
ALTER TABLE history RENAME TO history_before;
ALTER INDEX history_pk RENAME TO history_before_pk;
DROP INDEX history_newest;
DROP INDEX history_attention;
DROP INDEX history_open;

CREATE TABLE history (
    begun_at_ms     bigint   NOT NULL,
    deadline_ms     bigint   NOT NULL,
    decided_at_ms   bigint,
    finished_at_ms  bigint,
    epoch           bigint   NOT NULL,
    seq             bigint   NOT NULL,
    xid             uuid     NOT NULL,
    partition       smallint NOT NULL,
    mode            smallint,
    status          smallint NOT NULL,
    heuristic       boolean  NOT NULL,
    digest          bytea    NOT NULL,
    abort_reason    text,
    attention       text,
    name            text     NOT NULL,
    participants    text     NOT NULL,
    detail          json     NOT NULL,
    -- In the order of pages, newest begun first: the key is their index too.
    CONSTRAINT history_pk PRIMARY KEY (begun_at_ms, xid),
    CONSTRAINT history_mode CHECK (mode BETWEEN 1 AND 4),
    CONSTRAINT history_status CHECK (status BETWEEN 1 AND 6),
    CONSTRAINT history_abort_reason CHECK (abort_reason IS NULL OR status >= 5),
    CONSTRAINT history_digest CHECK (octet_length(digest) = 16)
) PARTITION BY RANGE (begun_at_ms);
CREATE INDEX history_xid ON history (xid);
-- What people look for first: what is open, and what needs attention.
CREATE INDEX history_watched ON history (begun_at_ms, xid) WHERE attention IS NOT NULL OR status NOT IN (4, 6);
-- Finds the few rows of an old day that are still needed, without reading the day.
CREATE INDEX history_finished ON history USING brin (finished_at_ms);
COMMENT ON TABLE  history IS 'One row per transaction, written by an asynchronous projection. For people use the views `transactions` and `branches`.';
COMMENT ON COLUMN history.begun_at_ms IS 'When it began. Never changes.';
COMMENT ON COLUMN history.deadline_ms IS 'Until when it had to be decided.';
COMMENT ON COLUMN history.decided_at_ms IS 'When it was decided.';
COMMENT ON COLUMN history.finished_at_ms IS 'When its last branch was settled.';
COMMENT ON COLUMN history.epoch IS 'The epoch of the owner that wrote the row: rows change only upwards by (epoch, seq).';
COMMENT ON COLUMN history.seq IS 'The block of the last event that the row knows.';
COMMENT ON COLUMN history.xid IS 'The global transaction''s id.';
COMMENT ON COLUMN history.partition IS 'Its partition of the log.';
COMMENT ON COLUMN history.mode IS '1 tcc, 2 saga, 3 two_phase, 4 message; null for a presumed abort of an xid that nobody had begun.';
COMMENT ON COLUMN history.status IS '1 active, 2 preparing, 3 committing, 4 committed, 5 aborting, 6 aborted. A decision never changes.';
COMMENT ON COLUMN history.heuristic IS 'Whether a branch was resolved by hand.';
COMMENT ON COLUMN history.digest IS 'A fingerprint of the request that began it: tells a repetition from a reuse of the xid.';
COMMENT ON COLUMN history.abort_reason IS 'Why it was aborted.';
COMMENT ON COLUMN history.attention IS 'The code of what needs attention; null if nothing does.';
COMMENT ON COLUMN history.name IS 'Its name; empty if it has none.';
COMMENT ON COLUMN history.participants IS 'The distinct participants, sorted, one a line.';
COMMENT ON COLUMN history.detail IS 'Branches "b": [[id, key, target, status, attempts, error, resolved_by, resolved_reason, more], …] without what is empty at the end of each; a key in brackets goes on after the target''s text; a status is its number in the view `branches`, or its word; more is {"k": kind unless tcc, "p": parked, "l": [lock key, …], "s": [role, [number of a step before it, …], result]} without what is empty. Timeline "d": [[ms after the begin, number of the event, branch_id, detail], …]; rows from before have "t": [[at_ms, event, branch_id, detail], …]. Attention "a": [code, message, since_ms, branch_id].';

CREATE TABLE history_rest (LIKE history INCLUDING ALL);
ALTER TABLE history ATTACH PARTITION history_rest DEFAULT;
COMMENT ON TABLE history_rest IS 'The rows of history whose day has no partition: transactions that stayed open for longer than history is kept.';

CREATE TABLE history_retention (
    singleton  boolean NOT NULL DEFAULT true,
    floor_ms   bigint  NOT NULL DEFAULT 0,
    CONSTRAINT history_retention_one_row PRIMARY KEY (singleton),
    CONSTRAINT history_retention_singleton CHECK (singleton),
    CONSTRAINT history_retention_floor CHECK (floor_ms >= 0)
);
COMMENT ON TABLE  history_retention IS 'One row: how far back history goes.';
COMMENT ON COLUMN history_retention.singleton IS 'Always true: keeps the table at one row.';
COMMENT ON COLUMN history_retention.floor_ms IS 'What finished before this moment may have been dropped. What participants ask about from before it, and nobody knows, is answered "forgotten". Only grows.';
INSERT INTO history_retention DEFAULT VALUES;

-- ------------------------------------------------------------------------------------- partitions
-- Makes the partition of the day in which this moment lies; answers whether it was missing.
CREATE FUNCTION history_make_day(moment_ms bigint) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET lock_timeout = '2s' AS $body$
DECLARE
    first_ms CONSTANT bigint := moment_ms - moment_ms % 86400000;
    next_ms  CONSTANT bigint := first_ms + 86400000;
    day      CONSTANT text := 'history_' || to_char(to_timestamp(first_ms / 1000.0) AT TIME ZONE 'UTC', 'YYYYMMDD');
BEGIN
    IF to_regclass(day) IS NOT NULL THEN
        RETURN false;
    END IF;
    -- So that nobody fills the partition with days of the far future.
    IF moment_ms < 0 OR moment_ms > (extract(epoch FROM clock_timestamp()) * 1000)::bigint + 8 * 86400000::bigint THEN
        RAISE EXCEPTION 'a day of history is made at most a week ahead';
    END IF;
    -- One at a time, in the order of locks that a drop has; and nobody writes rows of this day meanwhile.
    LOCK TABLE ONLY history IN SHARE UPDATE EXCLUSIVE MODE;
    LOCK TABLE history_rest IN ACCESS EXCLUSIVE MODE;
    IF to_regclass(day) IS NOT NULL THEN
        RETURN false;
    END IF;
    EXECUTE format('CREATE TABLE %I (LIKE history INCLUDING ALL)', day);
    EXECUTE format('COMMENT ON TABLE %I IS %L', day, 'The rows of history that began on this day (UTC).');
    EXECUTE format(
        'WITH moved AS (DELETE FROM history_rest WHERE begun_at_ms >= %s AND begun_at_ms < %s RETURNING *) '
        'INSERT INTO %I SELECT * FROM moved', first_ms, next_ms, day);
    EXECUTE format('ALTER TABLE history ATTACH PARTITION %I FOR VALUES FROM (%s) TO (%s)', day, first_ms, next_ms);
    RETURN true;
END
$body$;
COMMENT ON FUNCTION history_make_day(bigint) IS 'Makes the partition of history for the day of this moment, if it is missing.';

-- Drops the oldest day that ended before the moment, or else some old rows of `history_rest`: what is open
-- stays, and what finished since. Answers whether there may be more to drop.
CREATE FUNCTION history_drop_before(cut_ms bigint) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET lock_timeout = '2s' AS $body$
DECLARE
    at_once CONSTANT integer := 10000;
    day     text;
    gone    bigint;
BEGIN
    IF cut_ms > (extract(epoch FROM clock_timestamp()) * 1000)::bigint - 3600000 THEN
        RAISE EXCEPTION 'history of the last hour is not dropped';
    END IF;
    -- One at a time. The floor rises with the drop, in one transaction.
    UPDATE history_retention SET floor_ms = greatest(floor_ms, cut_ms);
    SELECT c.relname INTO day FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
    WHERE i.inhparent = 'history'::regclass AND c.relname ~ '^history_[0-9]{8}$'
        AND extract(epoch FROM (to_date(right(c.relname, 8), 'YYYYMMDD') + 1)::timestamp) * 1000 <= cut_ms
    ORDER BY c.relname LIMIT 1;
    IF day IS NOT NULL THEN
        EXECUTE format('ALTER TABLE history DETACH PARTITION %I', day);
        EXECUTE format(
            'INSERT INTO history SELECT * FROM %I WHERE finished_at_ms IS NULL OR finished_at_ms >= %s', day, cut_ms);
        EXECUTE format('DROP TABLE %I', day);
        RETURN true;
    END IF;
    DELETE FROM history_rest WHERE (begun_at_ms, xid) IN (
        SELECT begun_at_ms, xid FROM history_rest WHERE finished_at_ms < cut_ms LIMIT at_once);
    GET DIAGNOSTICS gone = ROW_COUNT;
    RETURN gone = at_once;
END
$body$;
COMMENT ON FUNCTION history_drop_before(bigint) IS 'Drops what finished before this moment, a day or some rows at a time, and records the floor. Answers whether there may be more.';

-- They act with their owner's rights: nobody else's tables may come in between.
DO $body$
BEGIN
    EXECUTE format('ALTER FUNCTION history_make_day(bigint) SET search_path = %I, pg_temp', current_schema());
    EXECUTE format('ALTER FUNCTION history_drop_before(bigint) SET search_path = %I, pg_temp', current_schema());
END
$body$;

-- ------------------------------------------------------------------------------ rows from before
SELECT history_make_day(day * 86400000) FROM (
    SELECT DISTINCT begun_at_ms / 86400000 AS day FROM history_before
    WHERE begun_at_ms BETWEEN
        (extract(epoch FROM clock_timestamp()) * 1000)::bigint - 60 * 86400000::bigint
        AND (extract(epoch FROM clock_timestamp()) * 1000)::bigint
    UNION
    SELECT (extract(epoch FROM clock_timestamp()) * 1000)::bigint / 86400000 + ahead
    FROM generate_series(0, 3) AS ahead
) AS days;
INSERT INTO history (begun_at_ms, deadline_ms, decided_at_ms, finished_at_ms, epoch, seq, xid, partition, mode,
    status, heuristic, digest, abort_reason, attention, name, participants, detail)
SELECT begun_at_ms, deadline_ms, decided_at_ms, finished_at_ms, epoch, seq, xid, partition,
    array_position(ARRAY['tcc', 'saga', 'two_phase', 'message'], mode),
    array_position(ARRAY['active', 'preparing', 'committing', 'committed', 'aborting', 'aborted'], status),
    heuristic, digest, abort_reason, attention, name, array_to_string(participants, E'\n'), detail
FROM history_before;
DROP TABLE history_before;

-- -------------------------------------------------------------------------------- views for people
-- Guards in both views: a row of another shape shows fewer columns, it does not break the view.
-- Times beyond the year 9999 show as infinity.
CREATE VIEW transactions AS
SELECT
    xid,
    (ARRAY['tcc', 'saga', 'two_phase', 'message'])[mode] AS mode,
    name,
    (ARRAY['active', 'preparing', 'committing', 'committed', 'aborting', 'aborted'])[status] AS status,
    (ARRAY[NULL, NULL, 'commit', 'commit', 'abort', 'abort'])[status] AS decision,
    abort_reason,
    to_timestamp(begun_at_ms / 1000.0) AS begun_at,
    CASE WHEN deadline_ms < 253402300800000 THEN to_timestamp(deadline_ms / 1000.0) ELSE 'infinity'::timestamptz END AS deadline,
    to_timestamp(decided_at_ms / 1000.0) AS decided_at,
    to_timestamp(finished_at_ms / 1000.0) AS finished_at,
    (finished_at_ms - begun_at_ms) * interval '1 millisecond' AS duration,
    string_to_array(participants, E'\n') AS participants,
    CASE WHEN json_typeof(detail -> 'b') = 'array' THEN json_array_length(detail -> 'b') ELSE 0 END AS branch_count,
    attention,
    CASE WHEN json_typeof(detail -> 'a') = 'array' THEN detail -> 'a' ->> 1 END AS attention_message,
    CASE WHEN json_typeof(detail -> 'a' -> 2) = 'number' THEN to_timestamp((detail -> 'a' ->> 2)::numeric / 1000) END AS attention_since,
    heuristic,
    partition::integer AS partition
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
    CASE json_typeof(branch -> 1) WHEN 'array' THEN (branch ->> 2) || (branch -> 1 ->> 0) ELSE branch ->> 1 END AS key,
    branch ->> 2 AS target,
    CASE json_typeof(branch -> 3) WHEN 'number' THEN (ARRAY[
        'registered', 'confirming', 'confirmed', 'cancelling', 'cancelled', 'heuristic_confirmed', 'heuristic_cancelled',
        'preparing', 'prepared', 'read_only', 'refused', 'committing', 'committed', 'rolling_back', 'rolled_back',
        'delegated', 'running', 'done', 'to_compensate', 'compensating', 'compensated', 'skipped', 'kept', 'checking',
        'answered', 'delivering', 'delivered', 'discarded'
    ])[(branch ->> 3)::integer] ELSE branch ->> 3 END AS status,
    coalesce((branch ->> 4)::bigint, 0) AS attempts,
    nullif(branch ->> 5, '') AS last_error,
    nullif(branch ->> 6, '') AS resolved_by,
    nullif(branch ->> 7, '') AS resolved_reason,
    history.name AS transaction_name,
    (ARRAY['active', 'preparing', 'committing', 'committed', 'aborting', 'aborted'])[history.status] AS transaction_status,
    coalesce(branch -> 8 ->> 'k', 'tcc') AS kind,
    coalesce(branch -> 8 ->> 'p' = 'true', false) AS parked,
    ARRAY(
        SELECT json_array_elements_text(
            CASE WHEN json_typeof(branch -> 8 -> 'l') = 'array' THEN branch -> 8 -> 'l' ELSE '[]'::json END)
    ) AS lock_keys,
    branch -> 8 -> 's' ->> 0 AS role
FROM history,
    json_array_elements(CASE WHEN json_typeof(detail -> 'b') = 'array' THEN detail -> 'b' ELSE '[]'::json END) AS branch;
COMMENT ON VIEW   branches IS 'One row per branch of every transaction in `transactions`.';
COMMENT ON COLUMN branches.xid IS 'The global transaction''s id.';
COMMENT ON COLUMN branches.branch_id IS 'The branch''s number in its transaction, from 1.';
COMMENT ON COLUMN branches.key IS 'The branch''s identity, minted by whoever registered it.';
COMMENT ON COLUMN branches.target IS 'Where its operations go.';
COMMENT ON COLUMN branches.status IS 'How far it is: registered; then by its kind, for example confirming, confirmed, prepared, committed, rolled_back, running, done, compensating, compensated, delivering, delivered; heuristic_confirmed or heuristic_cancelled where it was settled by hand.';
COMMENT ON COLUMN branches.attempts IS 'How often its operation was tried, as far as recorded.';
COMMENT ON COLUMN branches.last_error IS 'What the last failed attempt said; null if it said nothing or none failed.';
COMMENT ON COLUMN branches.resolved_by IS 'Who resolved it by hand; null if nobody did.';
COMMENT ON COLUMN branches.resolved_reason IS 'Why it was resolved by hand; null if it was not.';
COMMENT ON COLUMN branches.transaction_name IS 'The transaction''s name.';
COMMENT ON COLUMN branches.transaction_status IS 'The transaction''s status.';
COMMENT ON COLUMN branches.kind IS 'What it is: tcc, step (of a saga), two_phase, message (one delivery) or sender (of a message).';
COMMENT ON COLUMN branches.parked IS 'Whether no more attempts are made until an operator asks for one.';
COMMENT ON COLUMN branches.lock_keys IS 'The locks that were taken for it.';
COMMENT ON COLUMN branches.role IS 'How far a saga''s step can be turned back: compensatable, pivot or forward_only; null for what is no step.';
