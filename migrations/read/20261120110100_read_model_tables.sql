-- How a table of a read model is made, so that no migration can forget its isolation.

-- Gives a table that is partitioned by generation its first partition, row-level security and the grants. The setting
-- is read once a statement, not once a row, so that reports stay quick and plans know what the policy lets through; an
-- empty setting means nothing.
CREATE FUNCTION read_model(name text) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    -- Rows change rarely and grow little; some room on the page keeps an update from touching every index.
    part text := name || '_1';
BEGIN
    EXECUTE format('CREATE TABLE %I PARTITION OF %I FOR VALUES IN (1) WITH (fillfactor = 90)', part, name);
    EXECUTE format('ALTER TABLE %I ENABLE ROW LEVEL SECURITY', name);
    EXECUTE format('ALTER TABLE %I FORCE ROW LEVEL SECURITY', name);
    EXECUTE format('ALTER TABLE %I ENABLE ROW LEVEL SECURITY', part);
    EXECUTE format('ALTER TABLE %I FORCE ROW LEVEL SECURITY', part);
    EXECUTE format('CREATE POLICY %I ON %I TO annals_projector USING (true) WITH CHECK (true)', name || '_projector', name);
    EXECUTE format('CREATE POLICY %I ON %I FOR SELECT TO annals_api USING (tenant_id = (SELECT nullif(current_setting(''annals.tenant'', true), '''')::uuid))', name || '_api', name);
    EXECUTE format('GRANT SELECT, INSERT, UPDATE, DELETE ON %I TO annals_projector', name);
    EXECUTE format('GRANT SELECT ON %I TO annals_api', name);
END $$;

-- Makes the table of a document type: the aggregate's state, its envelope, and the columns that lists can be filtered
-- by, each with an index: document_table('commerce_orders', 'customer_id uuid', 'status text').
CREATE FUNCTION document_table(name text, VARIADIC columns text[] DEFAULT '{}') RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    declared text;
    filter text;
BEGIN
    EXECUTE format('CREATE TABLE %I (
        generation integer NOT NULL,
        tenant_id uuid NOT NULL,
        id uuid NOT NULL,
        state text NOT NULL,
        revision integer NOT NULL,
        version bigint NOT NULL,
        sequence bigint NOT NULL,
        created_at timestamptz NOT NULL,
        updated_at timestamptz NOT NULL,
        created_by text NOT NULL,
        PRIMARY KEY (generation, tenant_id, id)
    ) PARTITION BY LIST (generation)', name);
    FOREACH declared IN ARRAY columns LOOP
        filter := split_part(declared, ' ', 1);
        EXECUTE format('ALTER TABLE %I ADD COLUMN %I %s', name, filter, split_part(declared, ' ', 2)::regtype);
        EXECUTE format('CREATE INDEX %I ON %I (tenant_id, %I, id)', name || '_by_' || filter, name, filter);
    END LOOP;
    PERFORM read_model(name);
END $$;

REVOKE ALL ON FUNCTION read_model(text), document_table(text, text[]) FROM PUBLIC;
