-- What a branch is besides a plain TCC one: in the view `branches` and in words.
-- A row's detail holds it as a ninth element of each branch; rows from before have none.
CREATE OR REPLACE VIEW branches AS
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
    history.status AS transaction_status,
    coalesce(branch -> 8 ->> 'k', 'tcc') AS kind,
    coalesce(branch -> 8 ->> 'p' = 'true', false) AS parked,
    ARRAY(
        SELECT json_array_elements_text(
            CASE WHEN json_typeof(branch -> 8 -> 'l') = 'array' THEN branch -> 8 -> 'l' ELSE '[]'::json END)
    ) AS lock_keys,
    branch -> 8 -> 's' ->> 0 AS role
FROM history,
    json_array_elements(CASE WHEN json_typeof(detail -> 'b') = 'array' THEN detail -> 'b' ELSE '[]'::json END) AS branch;
COMMENT ON COLUMN branches.status IS 'How far it is: registered; then by its kind, for example confirming, confirmed, prepared, committed, rolled_back, running, done, compensating, compensated, delivering, delivered; heuristic_confirmed or heuristic_cancelled where it was settled by hand.';
COMMENT ON COLUMN branches.kind IS 'What it is: tcc, step (of a saga), two_phase, message (one delivery) or sender (of a message).';
COMMENT ON COLUMN branches.parked IS 'Whether no more attempts are made until an operator asks for one.';
COMMENT ON COLUMN branches.lock_keys IS 'The locks that were taken for it.';
COMMENT ON COLUMN branches.role IS 'How far a saga''s step can be turned back: compensatable, pivot or forward_only; null for what is no step.';
COMMENT ON COLUMN history.detail IS 'Branches "b": [[id, key, target, status, attempts, error, resolved_by, resolved_reason, more], …], where more is {"k": kind unless tcc, "p": parked, "l": [lock key, …], "s": [role, [number of a step before it, …], result]} without what is empty; timeline "t": [[at_ms, event, branch_id, detail], …], attention "a": [code, message, since_ms, branch_id].';
