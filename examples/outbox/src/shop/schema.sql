-- For SQLite, PostgreSQL and MariaDB alike.
CREATE TABLE IF NOT EXISTS customers (
    name VARCHAR(64) PRIMARY KEY,
    -- How many lines this customer has ordered: the number of the last one.
    ordered BIGINT NOT NULL,
    -- Cents that may still be owed. Checked by the shop, at the end of its transaction.
    credit BIGINT NOT NULL
);

CREATE TABLE IF NOT EXISTS orders (
    -- Minted by the customer.
    id VARCHAR(36) PRIMARY KEY,
    customer VARCHAR(64) NOT NULL,
    cents BIGINT NOT NULL
);

-- Each line is a message to the warehouse.
CREATE TABLE IF NOT EXISTS order_lines (
    order_id VARCHAR(36) NOT NULL,
    line BIGINT NOT NULL,
    customer VARCHAR(64) NOT NULL,
    -- The customer's how manieth line: the order in which the warehouse must hear of them.
    seq BIGINT NOT NULL,
    sku VARCHAR(64) NOT NULL,
    quantity BIGINT NOT NULL,
    -- The id of its message in the outbox.
    message VARCHAR(36) NOT NULL,
    PRIMARY KEY (order_id, line),
    UNIQUE (customer, seq)
);

CREATE TABLE IF NOT EXISTS vouchers (
    -- The prepared message's transaction.
    xid VARCHAR(36) PRIMARY KEY,
    customer VARCHAR(64) NOT NULL,
    cents BIGINT NOT NULL
);
