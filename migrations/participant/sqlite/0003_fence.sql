-- Rows of saga steps, of delivered messages and of messages' senders beside those of TCC branches.
-- tcc: try, confirm, cancel. step: a saga's action (tried), its compensation (cancelled, tombstone),
-- its saga over (confirmed). message: delivered (confirmed). sender: the local transaction that a
-- message goes with committed (tried, confirmed) or never will (tombstone).
ALTER TABLE unanimity_fence ADD COLUMN kind TEXT NOT NULL DEFAULT 'tcc'
    CHECK (kind IN ('tcc', 'step', 'message', 'sender'));
