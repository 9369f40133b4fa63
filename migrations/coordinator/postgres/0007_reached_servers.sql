-- Which of the log's servers a node reaches: a partition is planned for a node that reaches its server.

ALTER TABLE nodes ADD COLUMN servers text[];
COMMENT ON COLUMN nodes.servers IS 'The further servers of the log, beside the home, that the node knows and could open lately. Null: its version does not say, and it is believed to reach all.';
