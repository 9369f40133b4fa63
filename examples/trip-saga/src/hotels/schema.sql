CREATE TABLE IF NOT EXISTS hotels (
    hotel                TEXT    PRIMARY KEY,
    takes_cancellations  INTEGER NOT NULL CHECK (takes_cancellations IN (0, 1))
);

CREATE TABLE IF NOT EXISTS rooms (
    hotel TEXT    NOT NULL REFERENCES hotels (hotel),
    room  INTEGER NOT NULL,
    -- the trip that has it; NULL: free
    xid   TEXT UNIQUE,
    PRIMARY KEY (hotel, room)
);

CREATE TABLE IF NOT EXISTS stays (
    xid    TEXT    PRIMARY KEY,
    hotel  TEXT    NOT NULL,
    room   INTEGER NOT NULL,
    guest  TEXT    NOT NULL,
    -- how the guest arrives, for the shuttle from the airport
    flight TEXT    NOT NULL,
    seat   INTEGER NOT NULL,
    status TEXT    NOT NULL CHECK (status IN ('booked', 'cancelled'))
);
