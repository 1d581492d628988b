-- Facts of recurring revenue: how each event of a subscription moves what it brings in a month, and whether it runs.
CREATE TABLE analytics_mrr (
    generation integer NOT NULL,
    tenant_id uuid NOT NULL,
    sequence bigint NOT NULL,
    subscription_id uuid NOT NULL,
    customer_id uuid NOT NULL,
    occurred_at timestamptz NOT NULL,
    currency text NOT NULL,
    delta bigint NOT NULL,
    active_delta smallint NOT NULL CHECK (active_delta BETWEEN -1 AND 1),
    PRIMARY KEY (generation, tenant_id, sequence)
) PARTITION BY LIST (generation);
SELECT read_model('analytics_mrr');
