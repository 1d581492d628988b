-- What reports are made of keeps from which sequence of its tenant on it holds, and up to which: so a report of an earlier
-- moment is the same statement with another bound. The rows of the projectors are made anew by their revisions.

-- Customers are facts: since which sequence, and since when. What the version before kept of their orders
-- (first_order_at, orders) is left to it, and goes once it is gone.
ALTER TABLE analytics_customers
    ADD COLUMN sequence bigint,
    ADD COLUMN occurred_at timestamptz,
    ALTER COLUMN orders SET DEFAULT 0;

-- Each order that was earlier than all that had been known of its customer: up to a sequence the earliest of them is the
-- customer's first order.
CREATE TABLE analytics_first_orders (
    generation integer NOT NULL,
    tenant_id uuid NOT NULL,
    customer_id uuid NOT NULL,
    sequence bigint NOT NULL,
    first_order_at timestamptz NOT NULL,
    PRIMARY KEY (generation, tenant_id, customer_id, sequence)
) PARTITION BY LIST (generation);
SELECT read_model('analytics_first_orders');

-- A run as it stood, and what it stood to: the sequence and the moment of the event that changed it.
CREATE TABLE agents_runs_past (
    LIKE agents_runs,
    changed_at timestamptz NOT NULL,
    until_sequence bigint NOT NULL,
    until_at timestamptz NOT NULL,
    PRIMARY KEY (generation, tenant_id, id, sequence)
) PARTITION BY LIST (generation);
-- Of the present there is nothing in it, which these tell at once.
CREATE INDEX agents_runs_past_by_sequence ON agents_runs_past (tenant_id, until_sequence);
CREATE INDEX agents_runs_past_by_time ON agents_runs_past (tenant_id, until_at);
SELECT read_model('agents_runs_past');

-- A run as it stands; since when in the business.
ALTER TABLE agents_runs ADD COLUMN changed_at timestamptz;
