-- What documents were: the states that were replaced, each with the tenant's sequences that it held from and until. The
-- state that holds is the document itself, so what never changes costs nothing here.

-- Gives a document type its history: history_table('commerce_orders') makes commerce_orders_history. A word has few values
-- and is soon found in the order of ids, so of the columns that lists are filtered by only ids have an index.
CREATE FUNCTION history_table(name text) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    history text := name || '_history';
    filter text;
    part text := '';
BEGIN
    -- Rows that an older version made do not say when they were created, and new ones are made beside them, with the
    -- indexes of the table: to build this one over the old rows would hold up whoever reads and writes them.
    IF EXISTS (SELECT FROM pg_partition_tree(name::regclass) WHERE isleaf AND pg_relation_size(relid) > 0) THEN
        part := 'ONLY ';
    END IF;
    EXECUTE format('CREATE TABLE %I (
        LIKE %I,
        until bigint NOT NULL CHECK (until > sequence),
        PRIMARY KEY (generation, tenant_id, id, sequence)
    ) PARTITION BY LIST (generation)', history, name);
    FOR filter IN
        SELECT attname FROM pg_attribute WHERE attrelid = name::regclass AND atttypid = 'uuid'::regtype
            AND attname NOT IN ('tenant_id', 'id') ORDER BY attnum
    LOOP
        EXECUTE format('CREATE INDEX %I ON %I (tenant_id, %I, id)', history || '_by_' || filter, history, filter);
    END LOOP;
    -- What changed in a stretch of the log was created there, or had a state that ended there.
    EXECUTE format('CREATE INDEX %I ON %I (tenant_id, until)', history || '_by_end', history);
    EXECUTE format('ALTER TABLE %I ADD COLUMN created_sequence bigint', name);
    EXECUTE format('CREATE INDEX %I ON %s%I (tenant_id, created_sequence)', name || '_by_creation', part, name);
    PERFORM read_model(history);
END $$;
REVOKE ALL ON FUNCTION history_table(text) FROM PUBLIC;

SELECT history_table('commerce_customers');
SELECT history_table('commerce_orders');
SELECT history_table('billing_subscriptions');
SELECT history_table('agents_agents');
