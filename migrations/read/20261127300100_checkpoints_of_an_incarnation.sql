-- In which incarnation of the log a checkpoint was reached: rows that were made of events that the log has lost since are
-- made anew.
ALTER TABLE projection_checkpoints ADD COLUMN incarnation bigint NOT NULL DEFAULT 1;
