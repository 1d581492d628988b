-- What is written in the transaction of the events that it belongs to.

-- One table a day, dropped whole; the key is a keyed hash of principal, operation and the caller's key.
CREATE TABLE idempotency_keys (
    day date NOT NULL,
    tenant_id uuid NOT NULL,
    key bytea NOT NULL,
    item integer NOT NULL,
    fingerprint bytea NOT NULL,
    status smallint NOT NULL,
    stream_type text NOT NULL,
    stream_id uuid NOT NULL,
    version bigint NOT NULL,
    sequence bigint NOT NULL,
    PRIMARY KEY (tenant_id, key, item, day)
) PARTITION BY RANGE (day);

-- Makes the tables of today and the next days, and drops those that are older than the day before yesterday.
CREATE FUNCTION turn_idempotency_days() RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
DECLARE
    today date := (clock_timestamp() AT TIME ZONE 'UTC')::date;
    day date;
    old record;
BEGIN
    PERFORM pg_advisory_xact_lock(hashtext('annals.idempotency_days'));
    FOR day IN SELECT generate_series(today - 1, today + 2, '1 day')::date LOOP
        IF to_regclass('idempotency_keys_' || to_char(day, 'YYYYMMDD')) IS NULL THEN
            EXECUTE format('CREATE TABLE %I PARTITION OF idempotency_keys FOR VALUES FROM (%L) TO (%L)',
                'idempotency_keys_' || to_char(day, 'YYYYMMDD'), day, day + 1);
        END IF;
    END LOOP;
    FOR old IN SELECT c.relname FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
        WHERE i.inhparent = 'idempotency_keys'::regclass
          AND c.relname < 'idempotency_keys_' || to_char(today - 1, 'YYYYMMDD') LOOP
        EXECUTE format('DROP TABLE %I', old.relname);
    END LOOP;
END $$;
REVOKE ALL ON FUNCTION turn_idempotency_days() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION turn_idempotency_days() TO annals_writer;
SELECT turn_idempotency_days();

-- Names that are unique in a tenant, as keyed hashes.
CREATE TABLE unique_claims (
    tenant_id uuid NOT NULL,
    kind text NOT NULL,
    key bytea NOT NULL,
    stream_id uuid NOT NULL,
    PRIMARY KEY (tenant_id, kind, key)
);
CREATE INDEX unique_claims_by_stream ON unique_claims (tenant_id, stream_id);

-- Where a person's keys lie; the keys themselves are outside Postgres. The row stays as the tombstone of an erasure.
CREATE TABLE subjects (
    tenant_id uuid NOT NULL,
    subject uuid NOT NULL,
    ring uuid,
    slot smallint,
    erased_at timestamptz,
    PRIMARY KEY (tenant_id, subject),
    CHECK ((ring IS NULL) = (slot IS NULL) AND (ring IS NOT NULL OR erased_at IS NOT NULL))
);
CREATE UNIQUE INDEX subjects_by_slot ON subjects (tenant_id, ring, slot);

-- Commands of processes that were carried out: none is carried out twice.
CREATE TABLE process_commands (
    tenant_id uuid NOT NULL,
    command_id uuid NOT NULL,
    PRIMARY KEY (tenant_id, command_id)
);

-- Processes that have something to do, and from when on.
CREATE TABLE process_work (
    tenant_id uuid NOT NULL,
    stream_id uuid NOT NULL,
    stream_type text NOT NULL,
    due_at timestamptz,
    PRIMARY KEY (tenant_id, stream_id)
);
CREATE INDEX process_work_due ON process_work (due_at) WHERE due_at IS NOT NULL;

-- What authentication asks before a tenant is known: the SHA-256 of a key's secret, never the secret.
CREATE TABLE api_key_lookup (
    key_id uuid PRIMARY KEY,
    tenant_id uuid NOT NULL,
    hash bytea NOT NULL,
    scopes text[] NOT NULL,
    expires_at timestamptz,
    revoked boolean NOT NULL DEFAULT false
);

CREATE FUNCTION find_api_key(id uuid)
RETURNS TABLE (tenant_id uuid, hash bytea, scopes text[], expires_at timestamptz, revoked boolean)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = public, pg_temp AS $$
    SELECT k.tenant_id, k.hash, k.scopes, k.expires_at, k.revoked FROM api_key_lookup k WHERE k.key_id = id
$$;
REVOKE ALL ON FUNCTION find_api_key(uuid) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION find_api_key(uuid) TO annals_api;

DO $$
DECLARE name text;
BEGIN
    FOREACH name IN ARRAY ARRAY['idempotency_keys', 'unique_claims', 'subjects', 'process_commands', 'process_work', 'api_key_lookup'] LOOP
        EXECUTE format('ALTER TABLE %I ENABLE ROW LEVEL SECURITY', name);
        EXECUTE format('ALTER TABLE %I FORCE ROW LEVEL SECURITY', name);
        EXECUTE format('CREATE POLICY %I ON %I TO annals_writer USING (true) WITH CHECK (true)', name || '_writer', name);
        EXECUTE format('CREATE POLICY %I ON %I FOR SELECT TO annals_api USING (tenant_id::text = current_setting(''annals.tenant'', true))', name || '_api', name);
    END LOOP;
END $$;
CREATE POLICY api_key_lookup_owner ON api_key_lookup FOR SELECT TO annals_owner USING (true);

GRANT SELECT, INSERT ON idempotency_keys, process_commands TO annals_writer;
GRANT SELECT, INSERT, DELETE ON unique_claims TO annals_writer;
GRANT SELECT, INSERT, UPDATE ON subjects, process_work, api_key_lookup TO annals_writer;
GRANT DELETE ON process_commands TO annals_writer;
GRANT SELECT ON idempotency_keys, unique_claims, subjects TO annals_api;
