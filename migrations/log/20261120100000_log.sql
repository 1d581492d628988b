-- The log: every event of every tenant, in commit order, for good.

CREATE TABLE log_head (
    only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    position bigint NOT NULL DEFAULT 0,
    at timestamptz NOT NULL DEFAULT '-infinity',
    epoch bigint NOT NULL DEFAULT 1
) WITH (fillfactor = 10);
INSERT INTO log_head DEFAULT VALUES;

CREATE TABLE tenant_heads (
    tenant_id uuid PRIMARY KEY,
    sequence bigint NOT NULL
) WITH (fillfactor = 50);

CREATE TABLE log_incarnations (
    id bigint PRIMARY KEY,
    first_position bigint NOT NULL,
    opened_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    reason text NOT NULL
);
INSERT INTO log_incarnations (id, first_position, reason) VALUES (1, 1, 'the beginning of the log');

CREATE TABLE events (
    position bigint PRIMARY KEY,
    tenant_id uuid NOT NULL,
    sequence bigint NOT NULL,
    stream_id uuid NOT NULL,
    stream_type text NOT NULL,
    version bigint NOT NULL,
    event_id uuid NOT NULL,
    event_type text NOT NULL,
    schema_version integer NOT NULL,
    subjects uuid[],
    actor text NOT NULL,
    occurred_at timestamptz NOT NULL,
    recorded_at timestamptz NOT NULL,
    payload text,
    metadata text,
    salt bytea,
    body_hash bytea,
    UNIQUE (tenant_id, stream_id, version),
    UNIQUE (tenant_id, sequence),
    -- A redacted event keeps the hash of its body and nothing of the body.
    CHECK (CASE WHEN body_hash IS NULL
        THEN payload IS NOT NULL AND metadata IS NOT NULL AND octet_length(salt) = 16
        ELSE payload IS NULL AND metadata IS NULL AND salt IS NULL AND octet_length(body_hash) = 32 END)
);

CREATE FUNCTION guard_events() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'UPDATE' AND current_setting('annals.redacting', true) = OLD.position::text
        AND NEW.body_hash IS NOT NULL
        AND (OLD.position, OLD.tenant_id, OLD.sequence, OLD.stream_id, OLD.stream_type, OLD.version, OLD.event_id,
             OLD.event_type, OLD.schema_version, OLD.subjects, OLD.actor, OLD.occurred_at, OLD.recorded_at)
            IS NOT DISTINCT FROM
            (NEW.position, NEW.tenant_id, NEW.sequence, NEW.stream_id, NEW.stream_type, NEW.version, NEW.event_id,
             NEW.event_type, NEW.schema_version, NEW.subjects, NEW.actor, NEW.occurred_at, NEW.recorded_at)
    THEN
        RETURN NEW;
    END IF;
    RAISE EXCEPTION 'events are stored for good: % is refused', TG_OP USING ERRCODE = 'insufficient_privilege';
END $$;
CREATE TRIGGER guard_events_rows BEFORE UPDATE OR DELETE ON events FOR EACH ROW EXECUTE FUNCTION guard_events();
CREATE TRIGGER guard_events_table BEFORE TRUNCATE ON events FOR EACH STATEMENT EXECUTE FUNCTION guard_events();

-- The one way past the guard: the body goes, its hash (the SHA-256 of salt, payload and metadata) and the header stay.
CREATE FUNCTION redact_event(tenant uuid, event_sequence bigint) RETURNS bytea
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
DECLARE
    event events%ROWTYPE;
    hash bytea;
BEGIN
    SELECT * INTO STRICT event FROM events WHERE tenant_id = tenant AND sequence = event_sequence FOR UPDATE;
    IF event.body_hash IS NOT NULL THEN
        RETURN event.body_hash;
    END IF;
    hash := sha256(event.salt
        || int4send(octet_length(event.payload)) || convert_to(event.payload, 'UTF8')
        || int4send(octet_length(event.metadata)) || convert_to(event.metadata, 'UTF8'));
    PERFORM set_config('annals.redacting', event.position::text, true);
    UPDATE events SET payload = NULL, metadata = NULL, salt = NULL, body_hash = hash WHERE position = event.position;
    PERFORM set_config('annals.redacting', '', true);
    RETURN hash;
END $$;
REVOKE ALL ON FUNCTION redact_event(uuid, bigint) FROM PUBLIC;

ALTER TABLE events ENABLE ROW LEVEL SECURITY;
ALTER TABLE events FORCE ROW LEVEL SECURITY;
CREATE POLICY events_api ON events FOR SELECT TO annals_api
    USING (tenant_id::text = current_setting('annals.tenant', true));
CREATE POLICY events_writer ON events TO annals_writer USING (true) WITH CHECK (true);
CREATE POLICY events_reader ON events FOR SELECT TO annals_reader USING (true);
CREATE POLICY events_owner ON events TO annals_owner USING (true) WITH CHECK (true);

ALTER TABLE tenant_heads ENABLE ROW LEVEL SECURITY;
ALTER TABLE tenant_heads FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant_heads_api ON tenant_heads FOR SELECT TO annals_api
    USING (tenant_id::text = current_setting('annals.tenant', true));
CREATE POLICY tenant_heads_writer ON tenant_heads TO annals_writer USING (true) WITH CHECK (true);
CREATE POLICY tenant_heads_reader ON tenant_heads FOR SELECT TO annals_reader USING (true);

GRANT SELECT, INSERT ON events TO annals_writer;
GRANT SELECT ON events TO annals_api, annals_reader;
GRANT SELECT, UPDATE ON log_head TO annals_writer;
GRANT SELECT ON log_head, log_incarnations TO annals_reader;
GRANT SELECT ON log_incarnations TO annals_writer;
GRANT SELECT, INSERT, UPDATE ON tenant_heads TO annals_writer;
GRANT SELECT ON tenant_heads TO annals_api, annals_reader;
