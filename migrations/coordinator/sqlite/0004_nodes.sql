-- The node of this file, as it says itself that it lives, and the block format that is written.

CREATE TABLE nodes (
    -- The node's name.
    node            TEXT    NOT NULL PRIMARY KEY,
    -- The process that bears the name: a later one takes it over from an earlier one.
    instance        TEXT    NOT NULL CHECK (length(instance) = 36),
    -- Where clients reach it.
    address         TEXT    NOT NULL,
    -- Its version of Unanimity.
    version         TEXT    NOT NULL,
    -- The highest block format that it reads and writes.
    formats         INTEGER NOT NULL CHECK (formats >= 1),
    -- 1 if an operator wants it to own nothing: see `unanimity cluster drain`.
    draining        INTEGER NOT NULL DEFAULT 0 CHECK (draining IN (0, 1)),
    -- 1 if it stops, and hands over what it owns.
    leaving         INTEGER NOT NULL CHECK (leaving IN (0, 1)),
    -- When it last said that it lives, by this machine's clock.
    heard_at_ms     INTEGER NOT NULL,
    -- Until when it counts as living without a further word.
    alive_until_ms  INTEGER NOT NULL
) STRICT;

CREATE TABLE log_format (
    -- One row: the block format that is written. Only grows; a node that knows less is refused.
    -- Always 1: keeps the table at one row.
    singleton  INTEGER NOT NULL PRIMARY KEY CHECK (singleton = 1),
    format     INTEGER NOT NULL CHECK (format >= 1)
) STRICT;
INSERT INTO log_format (singleton, format) VALUES (1, 1);
