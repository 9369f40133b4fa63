CREATE TABLE IF NOT EXISTS seats (
    flight TEXT    NOT NULL,
    seat   INTEGER NOT NULL,
    -- the trip that has it; NULL: free
    xid    TEXT UNIQUE,
    PRIMARY KEY (flight, seat)
);

CREATE TABLE IF NOT EXISTS bookings (
    xid       TEXT    PRIMARY KEY,
    flight    TEXT    NOT NULL,
    seat      INTEGER NOT NULL,
    passenger TEXT    NOT NULL,
    status    TEXT    NOT NULL CHECK (status IN ('booked', 'cancelled'))
);

CREATE TABLE IF NOT EXISTS tickets (
    xid       TEXT    PRIMARY KEY,
    flight    TEXT    NOT NULL,
    seat      INTEGER NOT NULL,
    room      INTEGER NOT NULL,
    car       INTEGER NOT NULL,
    passenger TEXT    NOT NULL
);
