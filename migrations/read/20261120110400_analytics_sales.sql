-- Facts of revenue, cohorts and key figures: what was bought and given back, and since when each customer buys.
CREATE TABLE analytics_sales (
    generation integer NOT NULL,
    tenant_id uuid NOT NULL,
    sequence bigint NOT NULL,
    kind text NOT NULL CHECK (kind IN ('order', 'refund')),
    order_id uuid NOT NULL,
    customer_id uuid NOT NULL,
    occurred_at timestamptz NOT NULL,
    currency text NOT NULL,
    amount bigint NOT NULL,
    PRIMARY KEY (generation, tenant_id, sequence)
) PARTITION BY LIST (generation);
CREATE INDEX analytics_sales_by_time ON analytics_sales (tenant_id, occurred_at);
SELECT read_model('analytics_sales');

-- first_order_at is the earliest of all orders, in whatever order they came to be known.
CREATE TABLE analytics_customers (
    generation integer NOT NULL,
    tenant_id uuid NOT NULL,
    customer_id uuid NOT NULL,
    first_order_at timestamptz,
    orders bigint NOT NULL,
    PRIMARY KEY (generation, tenant_id, customer_id)
) PARTITION BY LIST (generation);
SELECT read_model('analytics_customers');
