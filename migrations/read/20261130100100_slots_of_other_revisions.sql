-- The slots that a process has and can't do, for the rows are of another revision than its own: another process does them.
ALTER TABLE projection_runners ADD COLUMN unable bigint NOT NULL DEFAULT 0;
