-- The fence: one row for each branch that this database has heard of, written in the same local
-- transaction as the branch's effect. Rows are deleted only when the coordinator says that their
-- transaction is settled (protocol H9): never delete one by hand or by age.
CREATE TABLE unanimity_fence (
    -- The global transaction, in hyphenated form.
    xid TEXT NOT NULL,
    -- The branch's identity inside the transaction.
    branch_key TEXT NOT NULL,
    -- Whose branch it is: several participants may share a database.
    participant TEXT NOT NULL,
    -- The name of the hook set.
    operation TEXT NOT NULL,
    -- trying: an external try has begun. tried: reserved. confirmed, cancelled: settled.
    -- tombstone: cancelled before any try; a late try is refused.
    state TEXT NOT NULL CHECK (state IN ('trying', 'tried', 'confirmed', 'cancelled', 'tombstone')),
    -- The identity of the coordinator's log in which the branch is registered.
    log_id TEXT,
    -- What the hooks get: the in-doubt loop has no other source of it.
    payload BLOB NOT NULL,
    -- What the try answered: a repeated try answers the same.
    answer BLOB,
    -- The place in the coordinator's log that its registration was answered with: a witness
    -- against a log that lost its tail.
    witness_partition INTEGER,
    witness_epoch INTEGER,
    witness_epoch_tag INTEGER,
    witness_seq INTEGER,
    -- Milliseconds since the Unix epoch, by this service's clock.
    created_at_ms INTEGER NOT NULL,
    -- When the state last changed.
    updated_at_ms INTEGER NOT NULL,
    PRIMARY KEY (xid, branch_key),
    CHECK (state NOT IN ('tried', 'confirmed') OR answer IS NOT NULL)
) WITHOUT ROWID;

-- What the in-doubt loop scans: small, since only open rows are in it.
CREATE INDEX unanimity_fence_open ON unanimity_fence (participant, created_at_ms, xid, branch_key)
    WHERE state IN ('trying', 'tried');

-- What the collection scans.
CREATE INDEX unanimity_fence_settled ON unanimity_fence (participant, updated_at_ms, xid, branch_key)
    WHERE state IN ('confirmed', 'cancelled', 'tombstone');
