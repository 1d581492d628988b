-- What operators ask of projectors, and what these tell them.

-- Raised by whoever changes anything: a projector that waits for an operator begins again when it moves.
CREATE TABLE projection_controls (
    projector text PRIMARY KEY,
    paused_at timestamptz,
    changes bigint NOT NULL DEFAULT 1
);

-- How each projector is in each process, told once a second while there is news and every ten seconds without.
CREATE TABLE projection_runners (
    projector text NOT NULL,
    process uuid NOT NULL,
    state text NOT NULL,
    slots smallint NOT NULL,
    position bigint NOT NULL,
    lag_events bigint NOT NULL,
    lag_seconds double precision NOT NULL,
    error text,
    seen_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (projector, process)
) WITH (fillfactor = 50);

ALTER TABLE projection_parked ADD COLUMN stream_type text NOT NULL DEFAULT '';

GRANT SELECT, INSERT, UPDATE, DELETE ON projection_controls, projection_runners TO annals_projector;
GRANT SELECT ON projection_controls, projection_runners TO annals_api;

-- A generation may also be made to be compared with the one that is read, and thrown away.
ALTER TABLE projection_generations
    DROP CONSTRAINT projection_generations_status_check,
    ADD CONSTRAINT projection_generations_status_check CHECK (status IN ('building', 'checking', 'active', 'retired'));
CREATE UNIQUE INDEX projection_generations_building ON projection_generations (projector) WHERE status = 'building';

-- Whether a name is that of a read model's table: one that is partitioned by generation and watched by row.
CREATE FUNCTION is_read_model(name text) RETURNS boolean LANGUAGE sql STABLE SET search_path = pg_catalog AS $$
    SELECT EXISTS (
        SELECT FROM pg_class c JOIN pg_partitioned_table p ON p.partrelid = c.oid JOIN pg_policy y ON y.polrelid = c.oid
        WHERE c.oid = to_regclass('public.' || quote_ident(name)) AND y.polname = name || '_projector'
    )
$$;

-- Gives a read model's table room for one more generation. The part is made apart and attached, so that readers and
-- writers of the others go on meanwhile.
CREATE FUNCTION open_generation(name text, generation integer) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, public AS $$
DECLARE part text := name || '_' || generation;
BEGIN
    IF NOT is_read_model(name) THEN
        RAISE EXCEPTION '% is no read model', name;
    END IF;
    IF to_regclass('public.' || quote_ident(part)) IS NOT NULL THEN
        RETURN;
    END IF;
    EXECUTE format('CREATE TABLE public.%I (LIKE public.%I INCLUDING DEFAULTS INCLUDING CONSTRAINTS) WITH (fillfactor = 90)', part, name);
    EXECUTE format('ALTER TABLE public.%I ENABLE ROW LEVEL SECURITY', part);
    EXECUTE format('ALTER TABLE public.%I FORCE ROW LEVEL SECURITY', part);
    EXECUTE format('ALTER TABLE public.%I ATTACH PARTITION public.%I FOR VALUES IN (%s)', name, part, generation);
END $$;

-- Takes a generation that nobody reads away, whole. It waits only shortly for readers who are still at it: whoever
-- calls tries again.
CREATE FUNCTION drop_generation(name text, generation integer) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, public SET lock_timeout = '200ms' AS $$
BEGIN
    IF NOT is_read_model(name) THEN
        RAISE EXCEPTION '% is no read model', name;
    END IF;
    EXECUTE format('DROP TABLE IF EXISTS public.%I', name || '_' || generation);
END $$;

REVOKE ALL ON FUNCTION is_read_model(text), open_generation(text, integer), drop_generation(text, integer) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION open_generation(text, integer), drop_generation(text, integer) TO annals_projector;
