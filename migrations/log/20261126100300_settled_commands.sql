-- Commands of processes whose outcome is on the process's stream: their ids are forgotten after a week.
ALTER TABLE process_commands ADD COLUMN settled_at timestamptz;
CREATE INDEX process_commands_settled ON process_commands (settled_at) WHERE settled_at IS NOT NULL;
GRANT UPDATE ON process_commands TO annals_writer;
