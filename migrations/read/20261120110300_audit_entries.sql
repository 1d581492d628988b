-- The trail of a tenant: one event, one row. Payloads stay in the log.
CREATE TABLE audit_entries (
    generation integer NOT NULL,
    tenant_id uuid NOT NULL,
    sequence bigint NOT NULL,
    action text NOT NULL,
    actor text NOT NULL,
    stream_type text NOT NULL,
    stream_id uuid NOT NULL,
    occurred_at timestamptz NOT NULL,
    recorded_at timestamptz NOT NULL,
    request_id text,
    cause text,
    correlation_id text,
    command text,
    PRIMARY KEY (generation, tenant_id, sequence)
) PARTITION BY LIST (generation);
CREATE INDEX audit_entries_by_actor ON audit_entries (tenant_id, actor, sequence);
CREATE INDEX audit_entries_by_resource ON audit_entries (tenant_id, stream_id, sequence);
-- In the order of bytes, so that a prefix is a range.
CREATE INDEX audit_entries_by_action ON audit_entries (tenant_id, action text_pattern_ops, sequence);
-- Times of recording never fall as sequences rise, so this order is also that of the sequences.
CREATE INDEX audit_entries_by_time ON audit_entries (tenant_id, recorded_at, sequence);
SELECT read_model('audit_entries');

-- How many events of each type a tenant has.
CREATE TABLE event_type_counts (
    generation integer NOT NULL,
    tenant_id uuid NOT NULL,
    event_type text NOT NULL,
    count bigint NOT NULL,
    PRIMARY KEY (generation, tenant_id, event_type)
) PARTITION BY LIST (generation);
SELECT read_model('event_type_counts');
