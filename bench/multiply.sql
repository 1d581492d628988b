-- Multiplies a log, to measure what goes over long ones: every tenant there is, once more so many times, as if all had lived
-- at the same time. For a house that is to be thrown away: what is sealed in the copies can be opened by nobody, and
-- nothing stands beside them (claims, subjects, keys).
--   psql -v copies=50 -f bench/multiply.sql
BEGIN;
ALTER TABLE events NO FORCE ROW LEVEL SECURITY;
ALTER TABLE tenant_heads NO FORCE ROW LEVEL SECURITY;
SELECT position AS head FROM log_head FOR UPDATE \gset
CREATE TEMP TABLE copy ON COMMIT DROP AS
    SELECT number, tenant_id, md5(tenant_id || ' ' || :head || ' ' || number)::uuid AS copy, sequence
    FROM tenant_heads CROSS JOIN generate_series(1, :copies) AS number;
INSERT INTO events (position, tenant_id, sequence, stream_id, stream_type, version, event_id, event_type, schema_version,
    subjects, actor, occurred_at, recorded_at, payload, metadata, salt, body_hash)
SELECT :head + (position - 1) * :copies + number, copy, e.sequence, stream_id, stream_type, version, gen_random_uuid(),
    event_type, schema_version, subjects, actor, occurred_at, clock_timestamp(), payload, metadata, salt, body_hash
FROM events e JOIN copy USING (tenant_id) ORDER BY 1;
INSERT INTO tenant_heads (tenant_id, sequence) SELECT copy, sequence FROM copy;
UPDATE log_head SET position = :head * (1 + :copies), at = clock_timestamp();
ALTER TABLE events FORCE ROW LEVEL SECURITY;
ALTER TABLE tenant_heads FORCE ROW LEVEL SECURITY;
COMMIT;
VACUUM (ANALYZE) events;
