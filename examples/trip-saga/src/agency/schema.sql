-- What was asked for: asked again under the same id, the plan is the same.
CREATE TABLE IF NOT EXISTS trips (
    xid      TEXT    PRIMARY KEY,
    customer TEXT    NOT NULL,
    flight   TEXT    NOT NULL,
    hotel    TEXT    NOT NULL,
    car      TEXT    NOT NULL,
    cents    INTEGER NOT NULL
);

CREATE TABLE IF NOT EXISTS accounts (
    customer TEXT    PRIMARY KEY,
    opening  INTEGER NOT NULL,
    balance  INTEGER NOT NULL CHECK (balance >= 0)
);

CREATE TABLE IF NOT EXISTS charges (
    xid      TEXT    PRIMARY KEY,
    customer TEXT    NOT NULL,
    cents    INTEGER NOT NULL
);
