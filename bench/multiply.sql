-- Multiplies a log, to measure what goes over long ones: every event there is, once more for each of so many tenants that
-- are made up, as if all had lived at the same time. For a house that is to be thrown away: what is sealed in the copies can
-- be opened by nobody, and nothing stands beside them (claims, subjects, keys).
--   psql -v copies=50 -f bench/multiply.sql
BEGIN;
ALTER TABLE events NO FORCE ROW LEVEL SECURITY;
SELECT position AS head FROM log_head FOR UPDATE \gset
CREATE TEMP TABLE copy ON COMMIT DROP AS
    SELECT number, md5('copy ' || :head || ' ' || number)::uuid AS tenant_id FROM generate_series(1, :copies) AS number;
CREATE TEMP TABLE origin ON COMMIT DROP AS
    SELECT tenant_id, sum(count(*)) OVER (ORDER BY tenant_id) - count(*) AS before FROM events GROUP BY tenant_id;
INSERT INTO events (position, tenant_id, sequence, stream_id, stream_type, version, event_id, event_type, schema_version,
    subjects, actor, occurred_at, recorded_at, payload, metadata, salt, body_hash)
SELECT :head + (before + e.sequence - 1) * :copies + number, copy.tenant_id, before + e.sequence, stream_id, stream_type,
    version, gen_random_uuid(), event_type, schema_version, subjects, actor, occurred_at, clock_timestamp(), payload,
    metadata, salt, body_hash
FROM origin JOIN events e USING (tenant_id) CROSS JOIN copy ORDER BY 1;
INSERT INTO tenant_heads (tenant_id, sequence) SELECT tenant_id, :head FROM copy;
UPDATE log_head SET position = :head * (1 + :copies), at = clock_timestamp();
ALTER TABLE events FORCE ROW LEVEL SECURITY;
COMMIT;
VACUUM (ANALYZE) events;
