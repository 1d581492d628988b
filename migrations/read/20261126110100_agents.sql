-- What work is given to.
SELECT document_table('agents_agents', 'kind text', 'status text');

-- One row a run. Input and result stay sealed in the log.
CREATE TABLE agents_runs (
    generation integer NOT NULL,
    tenant_id uuid NOT NULL,
    id uuid NOT NULL,
    agent_id uuid NOT NULL,
    agent_version bigint NOT NULL,
    customer_id uuid,
    task_type text,
    external_id text,
    status text NOT NULL,
    attempts bigint NOT NULL,
    error_code text,
    requested_at timestamptz NOT NULL,
    started_at timestamptz,
    ended_at timestamptz,
    next_attempt_at timestamptz,
    prompt_tokens bigint,
    completion_tokens bigint,
    cost_micros bigint,
    cost_currency text,
    version bigint NOT NULL,
    sequence bigint NOT NULL,
    PRIMARY KEY (generation, tenant_id, id)
) PARTITION BY LIST (generation);
CREATE INDEX agents_runs_by_agent ON agents_runs (tenant_id, agent_id, id DESC);
CREATE INDEX agents_runs_by_customer ON agents_runs (tenant_id, customer_id, id DESC) WHERE customer_id IS NOT NULL;
CREATE INDEX agents_runs_by_status ON agents_runs (tenant_id, status, id DESC);
CREATE INDEX agents_runs_by_time ON agents_runs (tenant_id, requested_at);
-- The newest that ended, of one agent.
CREATE INDEX agents_runs_by_end ON agents_runs (tenant_id, agent_id, ended_at DESC, id DESC) WHERE ended_at IS NOT NULL;
SELECT read_model('agents_runs');
