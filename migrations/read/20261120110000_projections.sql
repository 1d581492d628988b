-- What a projector knows of itself: which generation of its rows is read, and how far each has come. Nothing here
-- names the log: read models may live in a database of their own.

-- A rebuild fills a new generation beside the one that is read; the revision is that of the fold that made the rows.
CREATE TABLE projection_generations (
    projector text NOT NULL,
    generation integer NOT NULL CHECK (generation > 0),
    status text NOT NULL CHECK (status IN ('building', 'active', 'retired')),
    revision integer NOT NULL,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    activated_at timestamptz,
    PRIMARY KEY (projector, generation)
);
CREATE UNIQUE INDEX projection_generations_active ON projection_generations (projector) WHERE status = 'active';

-- Updated first in the transaction of the rows, and compared: the fence that no zombie gets past.
CREATE TABLE projection_checkpoints (
    projector text NOT NULL,
    generation integer NOT NULL,
    slot smallint NOT NULL CHECK (slot BETWEEN 0 AND 63),
    position bigint NOT NULL DEFAULT 0,
    PRIMARY KEY (projector, generation, slot)
) WITH (fillfactor = 20);

-- The last sequence of each tenant that the rows have seen: what a reader waits for.
CREATE TABLE projection_sequences (
    projector text NOT NULL,
    generation integer NOT NULL,
    tenant_id uuid NOT NULL,
    sequence bigint NOT NULL,
    at timestamptz NOT NULL,
    PRIMARY KEY (projector, generation, tenant_id)
) WITH (fillfactor = 50);

-- Streams that wait for a mended projector. No copy of the event: it is read from the log again.
CREATE TABLE projection_parked (
    projector text NOT NULL,
    generation integer NOT NULL,
    tenant_id uuid NOT NULL,
    stream_id uuid NOT NULL,
    from_sequence bigint NOT NULL,
    error text NOT NULL,
    parked_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (projector, generation, tenant_id, stream_id)
);

DO $$
DECLARE name text;
BEGIN
    FOREACH name IN ARRAY ARRAY['projection_sequences', 'projection_parked'] LOOP
        EXECUTE format('ALTER TABLE %I ENABLE ROW LEVEL SECURITY', name);
        EXECUTE format('ALTER TABLE %I FORCE ROW LEVEL SECURITY', name);
        EXECUTE format('CREATE POLICY %I ON %I TO annals_projector USING (true) WITH CHECK (true)', name || '_projector', name);
        EXECUTE format('CREATE POLICY %I ON %I FOR SELECT TO annals_api USING (tenant_id = (SELECT nullif(current_setting(''annals.tenant'', true), '''')::uuid))', name || '_api', name);
    END LOOP;
END $$;

GRANT SELECT, INSERT, UPDATE, DELETE
    ON projection_generations, projection_checkpoints, projection_sequences, projection_parked TO annals_projector;
GRANT SELECT ON projection_generations, projection_checkpoints, projection_sequences, projection_parked TO annals_api;
