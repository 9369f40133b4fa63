-- Blocks stay in their row up to about a page. By default PostgreSQL moves what makes a row longer than
-- 2 KB into a second table in pieces of 2 KB, each with an entry in an index of its own: a block of 4 KB
-- then costs a tenth more write-ahead log, and is trimmed in four places instead of one.
-- Holds for blocks that are written from now on; takes no lock that an append waits for.
ALTER TABLE log_blocks SET (toast_tuple_target = 8160);
