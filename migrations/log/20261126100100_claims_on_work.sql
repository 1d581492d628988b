-- Streams that wait for a moment, shared among any number of processes: whoever claims a row acts on it, and renews the
-- claim while it does. A claim that runs out leaves the row to the others.
ALTER TABLE process_work ADD COLUMN claimed_by uuid, ADD COLUMN claimed_until timestamptz;

DROP INDEX process_work_due;
CREATE INDEX process_work_due ON process_work (stream_type, due_at) WHERE due_at IS NOT NULL;
-- A tenant's own moments: what is due by a clock of its own.
CREATE INDEX process_work_of_tenant ON process_work (tenant_id, stream_type, due_at) WHERE due_at IS NOT NULL;

-- A stream that waits for nothing any more has its row taken away.
GRANT DELETE ON process_work TO annals_writer;
