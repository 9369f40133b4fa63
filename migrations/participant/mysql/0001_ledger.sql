-- The ledger of the XA resource manager. A branch's row is written inside the transaction that is
-- prepared, so that a row in state `committed` is there exactly if the branch's effect is
-- (reliability, row P5): XAER_NOTA alone does not say whether a branch was never prepared or is
-- finished already. Rows are deleted only when the coordinator says that their transaction is
-- settled (protocol H9): never delete one by hand or by age.
CREATE TABLE IF NOT EXISTS unanimity_ledger (
    -- una1:log:xid:digest of the branch key.
    gid varchar(180) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    -- The identity of the coordinator's log in which the branch is registered.
    log_id binary(16) NOT NULL,
    -- The global transaction.
    xid binary(16) NOT NULL,
    -- The branch's identity inside it. A rollback that came before any work does not know it.
    branch_key varchar(512) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin,
    -- Whose branch it is: several participants may share a database.
    participant varchar(512) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin,
    -- The name under which the participant serves the branch.
    operation varchar(512) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin,
    -- committed: the effect is there. rolled_back: it is not and never will be, late work is refused.
    -- working: visible only if the work ended its own transaction, which it must not.
    state varchar(16) CHARACTER SET ascii COLLATE ascii_bin NOT NULL
        CHECK (state IN ('working', 'committed', 'rolled_back')),
    -- Milliseconds since the Unix epoch, by the service's clock.
    created_at_ms bigint NOT NULL,
    -- When the state last changed.
    updated_at_ms bigint NOT NULL,
    PRIMARY KEY (gid),
    -- What the collection scans.
    KEY unanimity_ledger_age (log_id, updated_at_ms, gid)
) ENGINE = InnoDB;
