CREATE TABLE IF NOT EXISTS cars (
    class TEXT    NOT NULL,
    car   INTEGER NOT NULL,
    -- the trip that has it; NULL: free
    xid   TEXT UNIQUE,
    PRIMARY KEY (class, car)
);

CREATE TABLE IF NOT EXISTS rentals (
    xid    TEXT    PRIMARY KEY,
    class  TEXT    NOT NULL,
    car    INTEGER NOT NULL,
    driver TEXT    NOT NULL,
    status TEXT    NOT NULL CHECK (status IN ('booked', 'cancelled'))
);
