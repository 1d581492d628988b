-- What the running processes tell each other: who is there, and how far the relay and the process host have come.

-- A process that has not renewed its row opens nothing any more: an erasure waits for the others alone.
CREATE TABLE running_processes (
    id uuid PRIMARY KEY,
    roles text NOT NULL,
    epoch_seen bigint NOT NULL,
    expires_at timestamptz NOT NULL
);

-- Slots: the last position of each slot that was published, so that a message can name the one before it.
CREATE TABLE relay_cursor (
    topic text PRIMARY KEY,
    position bigint NOT NULL,
    slots bigint[] NOT NULL CHECK (cardinality(slots) = 64)
);

CREATE TABLE process_cursor (
    name text PRIMARY KEY,
    position bigint NOT NULL
);

GRANT SELECT, INSERT, UPDATE, DELETE ON running_processes, process_cursor TO annals_writer;
GRANT SELECT, INSERT, UPDATE ON relay_cursor TO annals_reader;
