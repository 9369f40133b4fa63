-- The fence: one row for each branch that this database has heard of, written in the same local
-- transaction as the branch's effect.
CREATE TABLE unanimity_fence (
    xid uuid NOT NULL,
    branch_key text NOT NULL,
    participant text NOT NULL,
    operation text NOT NULL,
    state text NOT NULL CHECK (state IN ('trying', 'tried', 'confirmed', 'cancelled', 'tombstone')),
    log_id text,
    payload bytea NOT NULL,
    answer bytea,
    witness_partition bigint,
    witness_epoch bigint,
    witness_epoch_tag bigint,
    witness_seq bigint,
    created_at_ms bigint NOT NULL,
    updated_at_ms bigint NOT NULL,
    PRIMARY KEY (xid, branch_key),
    CHECK (state NOT IN ('tried', 'confirmed') OR answer IS NOT NULL)
);

-- What the in-doubt loop scans: small, since only open rows are in it.
CREATE INDEX unanimity_fence_open ON unanimity_fence (participant, created_at_ms, xid, branch_key)
    WHERE state IN ('trying', 'tried');

-- What the collection scans.
CREATE INDEX unanimity_fence_settled ON unanimity_fence (participant, updated_at_ms, xid, branch_key)
    WHERE state IN ('confirmed', 'cancelled', 'tombstone');

COMMENT ON TABLE unanimity_fence IS
    'One row for each branch that this database has heard of. Rows are deleted only when the coordinator says that their transaction is settled (protocol H9): never delete one by hand or by age.';
COMMENT ON COLUMN unanimity_fence.xid IS 'The global transaction.';
COMMENT ON COLUMN unanimity_fence.branch_key IS 'The branch''s identity inside the transaction.';
COMMENT ON COLUMN unanimity_fence.participant IS 'Whose branch it is: several participants may share a database.';
COMMENT ON COLUMN unanimity_fence.operation IS 'The name of the hook set.';
COMMENT ON COLUMN unanimity_fence.state IS
    'trying: an external try has begun. tried: reserved. confirmed, cancelled: settled. tombstone: cancelled before any try; a late try is refused.';
COMMENT ON COLUMN unanimity_fence.log_id IS 'The identity of the coordinator''s log in which the branch is registered.';
COMMENT ON COLUMN unanimity_fence.payload IS 'What the hooks get: the in-doubt loop has no other source of it.';
COMMENT ON COLUMN unanimity_fence.answer IS 'What the try answered: a repeated try answers the same.';
COMMENT ON COLUMN unanimity_fence.witness_partition IS
    'With epoch, epoch_tag and seq: the place in the coordinator''s log that the registration was answered with, a witness against a log that lost its tail.';
COMMENT ON COLUMN unanimity_fence.witness_epoch IS 'See witness_partition.';
COMMENT ON COLUMN unanimity_fence.witness_epoch_tag IS 'See witness_partition.';
COMMENT ON COLUMN unanimity_fence.witness_seq IS 'See witness_partition.';
COMMENT ON COLUMN unanimity_fence.created_at_ms IS
    'Milliseconds since the Unix epoch, by the service''s clock: to_timestamp(created_at_ms / 1000.0).';
COMMENT ON COLUMN unanimity_fence.updated_at_ms IS 'When the state last changed.';
