CREATE TABLE IF NOT EXISTS products (
    sku TEXT PRIMARY KEY,
    price_cents BIGINT NOT NULL CHECK (price_cents > 0)
);

CREATE TABLE IF NOT EXISTS orders (
    -- The customer's id of the order is the global transaction's id too.
    xid TEXT PRIMARY KEY,
    customer TEXT NOT NULL,
    sku TEXT NOT NULL REFERENCES products (sku),
    quantity BIGINT NOT NULL CHECK (quantity > 0),
    cents BIGINT NOT NULL CHECK (cents > 0),
    status TEXT NOT NULL CHECK (status IN ('pending', 'confirmed', 'cancelled')),
    -- Why it was cancelled, if this service heard of it.
    reason TEXT
);
