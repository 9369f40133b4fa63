-- The epoch of whoever claimed the partition last: a hint that turns an owner away which lost its lease and goes on. The
-- fence is the key of log_blocks.
ALTER TABLE partitions ADD COLUMN epoch INTEGER CHECK (epoch >= 0);
