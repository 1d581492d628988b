-- How far the clock of a test tenant is ahead of ours, in microseconds; other tenants have no row. While it is being
-- advanced, what falls due on the way is done by whoever advances it, in order.
CREATE TABLE tenant_clocks (
    tenant_id uuid PRIMARY KEY,
    ahead bigint NOT NULL DEFAULT 0 CHECK (ahead >= 0),
    advancing boolean NOT NULL DEFAULT false
);
ALTER TABLE tenant_clocks ENABLE ROW LEVEL SECURITY;
ALTER TABLE tenant_clocks FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant_clocks_writer ON tenant_clocks TO annals_writer USING (true) WITH CHECK (true);
CREATE POLICY tenant_clocks_api ON tenant_clocks FOR SELECT TO annals_api
    USING (tenant_id::text = current_setting('annals.tenant', true));
GRANT SELECT, INSERT, UPDATE ON tenant_clocks TO annals_writer;
GRANT SELECT ON tenant_clocks TO annals_api;
