-- A generation that is about to be read needs statistics: without them PostgreSQL takes it for small, and a list that takes
-- 3 ms takes 70, until its own daemon has come by.
CREATE FUNCTION analyze_generation(name text, generation integer) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, public AS $$
BEGIN
    IF NOT is_read_model(name) THEN
        RAISE EXCEPTION '% is no read model', name;
    END IF;
    EXECUTE format('ANALYZE public.%I', name || '_' || generation);
END $$;

REVOKE ALL ON FUNCTION analyze_generation(text, integer) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION analyze_generation(text, integer) TO annals_projector;
