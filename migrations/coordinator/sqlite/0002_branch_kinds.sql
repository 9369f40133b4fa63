-- What a branch is besides a plain TCC one: in the view `branches`.
-- A row's detail holds it as a ninth element of each branch, without what is empty: "k" kind unless tcc,
-- "p" parked, "l" lock keys, "s" [role, [number of a step before it, …], result]. Rows from before have
-- none.
DROP VIEW branches;
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
    -- How far it is: registered; then by its kind, for example confirming, confirmed, prepared,
    -- committed, rolled_back, running, done, compensating, compensated, delivering, delivered;
    -- heuristic_confirmed or heuristic_cancelled where it was settled by hand.
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
    history.status AS transaction_status,
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
