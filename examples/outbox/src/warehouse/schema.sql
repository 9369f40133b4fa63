-- For SQLite and PostgreSQL alike.
CREATE TABLE IF NOT EXISTS shelves (
    sku VARCHAR(64) PRIMARY KEY,
    -- How many were taken from it.
    taken BIGINT NOT NULL
);

-- How much was heard about each customer.
CREATE TABLE IF NOT EXISTS heard (
    customer VARCHAR(64) PRIMARY KEY,
    picks BIGINT NOT NULL
);

-- Each line that was picked. Nothing here keeps one from being picked twice: that is the fence's part,
-- and what the checks look for.
CREATE TABLE IF NOT EXISTS picks (
    customer VARCHAR(64) NOT NULL,
    -- The how manieth that was heard of this customer.
    arrived BIGINT NOT NULL,
    -- The shop's number of it.
    seq BIGINT NOT NULL,
    message VARCHAR(36) NOT NULL,
    order_id VARCHAR(36) NOT NULL,
    line BIGINT NOT NULL,
    sku VARCHAR(64) NOT NULL,
    quantity BIGINT NOT NULL,
    PRIMARY KEY (customer, arrived)
);

-- Vouchers that were put into the mail.
CREATE TABLE IF NOT EXISTS letters (
    xid VARCHAR(36) NOT NULL,
    customer VARCHAR(64) NOT NULL,
    cents BIGINT NOT NULL
);
