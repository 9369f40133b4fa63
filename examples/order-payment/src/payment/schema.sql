-- Money, in cents.
CREATE TABLE IF NOT EXISTS accounts (
    name TEXT PRIMARY KEY,
    -- What was there at the beginning.
    opening BIGINT NOT NULL CHECK (opening >= 0),
    -- Free to be spent.
    balance BIGINT NOT NULL CHECK (balance >= 0),
    -- Set aside for orders that are not decided yet.
    held BIGINT NOT NULL CHECK (held >= 0)
);

-- What was set aside for which order.
CREATE TABLE IF NOT EXISTS holds (
    -- The order is the global transaction.
    xid TEXT PRIMARY KEY,
    customer TEXT NOT NULL REFERENCES accounts (name),
    cents BIGINT NOT NULL CHECK (cents > 0),
    status TEXT NOT NULL CHECK (status IN ('held', 'paid', 'released'))
);
