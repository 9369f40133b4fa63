-- The ledger of the XA resource manager. A branch's row is written inside the transaction that is
-- prepared, so that a row in state `committed` is there exactly if the branch's effect is
-- (reliability, row P5): COMMIT PREPARED itself gives one error for a gid that was never prepared
-- and for one that is finished already.
CREATE TABLE unanimity_ledger (
    gid text PRIMARY KEY,
    log_id uuid NOT NULL,
    xid uuid NOT NULL,
    branch_key text,
    participant text,
    operation text,
    state text NOT NULL CHECK (state IN ('working', 'committed', 'rolled_back')),
    created_at_ms bigint NOT NULL,
    updated_at_ms bigint NOT NULL,
    CHECK (state = 'rolled_back' OR (branch_key IS NOT NULL AND participant IS NOT NULL AND operation IS NOT NULL))
);

-- What the collection scans.
CREATE INDEX unanimity_ledger_age ON unanimity_ledger (log_id, updated_at_ms, gid);

COMMENT ON TABLE unanimity_ledger IS
    'One row for each XA branch that was committed or rolled back here. Rows are deleted only when the coordinator says that their transaction is settled (protocol H9): never delete one by hand or by age.';
COMMENT ON COLUMN unanimity_ledger.gid IS 'The name of the prepared transaction: una1:log:xid:digest of the branch key.';
COMMENT ON COLUMN unanimity_ledger.log_id IS 'The identity of the coordinator''s log in which the branch is registered.';
COMMENT ON COLUMN unanimity_ledger.xid IS 'The global transaction.';
COMMENT ON COLUMN unanimity_ledger.branch_key IS 'The branch''s identity inside the transaction. A rollback that came before any work does not know it.';
COMMENT ON COLUMN unanimity_ledger.participant IS 'Whose branch it is: several participants may share a database.';
COMMENT ON COLUMN unanimity_ledger.operation IS 'The name under which the participant serves the branch.';
COMMENT ON COLUMN unanimity_ledger.state IS
    'committed: the effect is there. rolled_back: it is not and never will be, late work is refused. working: visible only if the work ended its own transaction, which it must not.';
COMMENT ON COLUMN unanimity_ledger.created_at_ms IS
    'Milliseconds since the Unix epoch, by the service''s clock: to_timestamp(created_at_ms / 1000.0).';
COMMENT ON COLUMN unanimity_ledger.updated_at_ms IS 'When the state last changed.';
