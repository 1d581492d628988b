-- Tasks that one process of the house has at a time. A lease that is not renewed runs out, also where its holder hangs.
CREATE TABLE leases (
    task text PRIMARY KEY,
    holder uuid NOT NULL,
    expires_at timestamptz NOT NULL
);
GRANT SELECT, INSERT, UPDATE, DELETE ON leases TO annals_writer;
