-- Rows of saga steps, of delivered messages and of messages' senders beside those of TCC branches.
ALTER TABLE unanimity_fence ADD COLUMN kind text NOT NULL DEFAULT 'tcc'
    CHECK (kind IN ('tcc', 'step', 'message', 'sender'));

COMMENT ON COLUMN unanimity_fence.kind IS
    'tcc: try, confirm, cancel. step: a saga''s action (tried), its compensation (cancelled, tombstone), its saga over (confirmed). message: delivered (confirmed). sender: the local transaction that a message goes with committed (tried, confirmed) or never will (tombstone).';
