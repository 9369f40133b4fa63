-- What lies on the shelves. The checks are the last line of defence: whatever the code does,
-- nothing is sold twice.
CREATE TABLE IF NOT EXISTS stock (
    sku TEXT PRIMARY KEY,
    -- How many there were at the beginning.
    initial BIGINT NOT NULL CHECK (initial >= 0),
    -- Free to be reserved.
    available BIGINT NOT NULL CHECK (available >= 0),
    -- Held for orders that are not decided yet.
    reserved BIGINT NOT NULL CHECK (reserved >= 0)
);

-- What was taken for which order.
CREATE TABLE IF NOT EXISTS reservations (
    -- The order is the global transaction.
    xid TEXT PRIMARY KEY,
    sku TEXT NOT NULL REFERENCES stock (sku),
    quantity BIGINT NOT NULL CHECK (quantity > 0),
    status TEXT NOT NULL CHECK (status IN ('reserved', 'sold', 'released'))
);
