//! How much work agents are given, how it goes, how long it takes and what it costs; and whether one of them is well.

use chrono::{DateTime, Utc};
use domain::{AgentId, Currency};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use sqlx::AssertSqlSafe;
use uuid::Uuid;

use super::runs::{self, AGENTS_RUNS, RUNS_PAST};
use crate::analytics::{currency, fold_of};
use crate::read_models::{ReadError, ReadModels, active};
use crate::standpoint::Standpoint;

/// Which runs are counted.
#[derive(Clone, Debug, Default)]
pub struct MetricsFilter {
    /// Of this agent alone.
    pub agent: Option<Uuid>,
    /// Requested at this moment or later.
    pub from: Option<DateTime<Utc>>,
    /// Requested before this moment.
    pub to: Option<DateTime<Utc>>,
}

/// How the runs of a tenant's agents went.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct AgentMetrics {
    /// The tenant's sequence that the figures stand at.
    pub sequence: i64,
    /// Of all the agents together.
    pub total: RunFigures,
    /// Of each agent that was given work in the range, by id.
    pub agents: Vec<AgentFigures>,
}

/// How the runs of one agent went.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct AgentFigures {
    /// The agent.
    pub agent: AgentId,
    /// Its runs.
    pub figures: RunFigures,
}

/// How runs went.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct RunFigures {
    /// How many there are, by where they stand.
    pub runs: RunCounts,
    /// `succeeded / (succeeded + failed + timed_out)`; none where none of them has ended so.
    pub success_rate: Option<f64>,
    /// How many attempts have begun.
    pub attempts: i64,
    /// The median of the seconds from the first attempt's beginning to the end, over runs that began and ended and were
    /// not cancelled, interpolated between the two in the middle; none where there is no such run.
    pub p50_seconds: Option<f64>,
    /// The 95th percentile of the same seconds, interpolated between the two beside it; none where there is no such run.
    pub p95_seconds: Option<f64>,
    /// Tokens that models were told.
    pub prompt_tokens: i64,
    /// Tokens that models answered.
    pub completion_tokens: i64,
    /// What the tokens cost, by currency.
    pub costs: Vec<CostSum>,
}

/// How many runs there are, by where they stand.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema, sqlx::FromRow)]
pub struct RunCounts {
    /// They wait for an attempt.
    pub pending: i64,
    /// An attempt is under way.
    pub running: i64,
    /// They have a result.
    pub succeeded: i64,
    /// The last attempt failed, or one that need not be repeated.
    pub failed: i64,
    /// The last attempt took too long.
    pub timed_out: i64,
    /// They were called off.
    pub cancelled: i64,
}

/// What tokens cost in one currency.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct CostSum {
    /// In millionths of a minor unit of the currency.
    pub amount_micros: i64,
    /// Currency code of ISO 4217.
    pub currency: Currency,
}

/// How one agent is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct AgentHealth {
    /// The tenant's sequence that this stands at.
    pub sequence: i64,
    /// What the last runs say.
    pub health: Health,
    /// How the last 20 runs went that ended and were not cancelled; fewer where there are fewer.
    pub last_runs: LastRuns,
    /// When the last run ended that was not cancelled.
    pub last_run_at: Option<DateTime<Utc>>,
    /// When the last run ended that succeeded.
    pub last_success_at: Option<DateTime<Utc>>,
    /// What is still to be done.
    pub queue: Queue,
}

/// What an agent's last 20 runs say, those that ended and were not cancelled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Health {
    /// Nothing: there are none.
    Unknown,
    /// Nine of ten succeeded, or more.
    Healthy,
    /// Half of them succeeded, or more.
    Degraded,
    /// Less than half of them succeeded.
    Failing,
}

/// How an agent's last runs ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct LastRuns {
    /// With a result.
    pub succeeded: i64,
    /// With an error.
    pub failed: i64,
    /// Without an answer in time.
    pub timed_out: i64,
}

/// The runs of an agent that have not ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Queue {
    /// They wait for an attempt.
    pub pending: i64,
    /// An attempt is under way.
    pub running: i64,
    /// When the oldest of those that wait was requested.
    pub oldest_pending_at: Option<DateTime<Utc>>,
}

/// How many of an agent's last runs say how it is.
const LAST_RUNS: i64 = 20;

/// Raised whenever the same rows would give other figures.
const REVISION: i32 = 1;

/// How the figures of [`AgentMetrics`] are made, as a hash.
pub fn fold() -> String {
    fold_of(&READ, REVISION, &[&figures_sql(), &costs_sql()])
}

/// How [`AgentHealth`] is made, as a hash.
pub fn status_fold() -> String {
    fold_of(&READ, REVISION, &[&last_runs_sql(), &queue_sql()])
}

/// What the figures are read from.
const READ: [(&str, i32); 1] = [(AGENTS_RUNS, runs::REVISION)];

/// How many runs stand where, as columns of [`RunCounts`].
const COUNTS: &str = "count(*) FILTER (WHERE status = 'pending') AS pending,
    count(*) FILTER (WHERE status = 'running') AS running,
    count(*) FILTER (WHERE status = 'succeeded') AS succeeded,
    count(*) FILTER (WHERE status = 'failed') AS failed,
    count(*) FILTER (WHERE status = 'timed_out') AS timed_out,
    count(*) FILTER (WHERE status = 'cancelled') AS cancelled";

/// What the filter lets through: the agent, and the range.
const WANTED: &str = "($4::uuid IS NULL OR agent_id = $4)
    AND requested_at >= coalesce($5, '-infinity'::timestamptz) AND requested_at < coalesce($6, 'infinity'::timestamptz)";

/// What counts: of the tenant $1, known up to the sequence $2, before the moment $3.
const KNOWN: &str = "tenant_id = $1 AND sequence <= $2 AND changed_at < coalesce($3, 'infinity'::timestamptz)";

/// The runs as they stood: of the rows that stand now those that did so then, and of the others those that were not yet
/// followed by another.
fn stood_sql() -> String {
    let columns = "agent_id, status, attempts, requested_at, started_at, ended_at, prompt_tokens, completion_tokens,
        cost_micros, cost_currency";
    format!(
        "(SELECT {columns} FROM agents_runs WHERE generation = {active} AND {KNOWN}
          UNION ALL
          SELECT {columns} FROM {RUNS_PAST} WHERE generation = {active} AND {KNOWN}
            AND (until_sequence > $2 OR until_at >= coalesce($3, 'infinity'::timestamptz))) stood",
        active = active(AGENTS_RUNS)
    )
}

/// All runs of a tenant by where they stand.
pub(crate) fn counts_sql() -> String {
    format!("SELECT {COUNTS} FROM {}", stood_sql())
}

/// The figures of each agent, and one row without an agent: those of all.
fn figures_sql() -> String {
    let timed = "FILTER (WHERE status IN ('succeeded', 'failed', 'timed_out'))";
    let seconds = "extract(epoch FROM ended_at - started_at)::float8";
    format!(
        "SELECT agent_id, {COUNTS}, coalesce(sum(attempts), 0)::bigint AS attempts,
            percentile_cont(0.5) WITHIN GROUP (ORDER BY {seconds}) {timed} AS p50_seconds,
            percentile_cont(0.95) WITHIN GROUP (ORDER BY {seconds}) {timed} AS p95_seconds,
            coalesce(sum(prompt_tokens), 0)::bigint AS prompt_tokens,
            coalesce(sum(completion_tokens), 0)::bigint AS completion_tokens
         FROM {} WHERE {WANTED}
         GROUP BY GROUPING SETS ((agent_id), ()) ORDER BY agent_id NULLS FIRST",
        stood_sql()
    )
}

/// What each agent's tokens cost by currency, and without an agent: those of all.
fn costs_sql() -> String {
    format!(
        "SELECT agent_id, cost_currency, sum(cost_micros)::bigint AS amount_micros
         FROM {} WHERE {WANTED} AND cost_currency IS NOT NULL
         GROUP BY GROUPING SETS ((agent_id, cost_currency), (cost_currency)) ORDER BY cost_currency",
        stood_sql()
    )
}

/// How the last runs of the agent $4 ended, $5 at most. One that has ended stays as it is, so its row is the one that
/// stands now.
fn last_runs_sql() -> String {
    format!(
        "WITH ended AS (
            SELECT status, ended_at FROM agents_runs
            WHERE generation = {active} AND {KNOWN} AND agent_id = $4 AND ended_at IS NOT NULL
                AND status IN ('succeeded', 'failed', 'timed_out')
            ORDER BY ended_at DESC, id DESC LIMIT $5
        )
        SELECT count(*) FILTER (WHERE status = 'succeeded') AS succeeded,
            count(*) FILTER (WHERE status = 'failed') AS failed,
            count(*) FILTER (WHERE status = 'timed_out') AS timed_out, max(ended_at) AS last_run_at,
            (SELECT max(ended_at) FROM agents_runs WHERE generation = {active} AND {KNOWN} AND agent_id = $4
                AND status = 'succeeded' AND ended_at IS NOT NULL) AS last_success_at
        FROM ended",
        active = active(AGENTS_RUNS)
    )
}

/// What the agent $4 has not ended.
fn queue_sql() -> String {
    format!(
        "SELECT count(*) FILTER (WHERE status = 'pending'), count(*) FILTER (WHERE status = 'running'),
            min(requested_at) FILTER (WHERE status = 'pending')
         FROM {} WHERE agent_id = $4 AND status IN ('pending', 'running')",
        stood_sql()
    )
}

/// The figures of one agent, or of all.
#[derive(sqlx::FromRow)]
struct Figures {
    agent_id: Option<Uuid>,
    #[sqlx(flatten)]
    runs: RunCounts,
    attempts: i64,
    p50_seconds: Option<f64>,
    p95_seconds: Option<f64>,
    prompt_tokens: i64,
    completion_tokens: i64,
}

/// What the tokens of one agent, or of all, cost in one currency.
#[derive(sqlx::FromRow)]
struct Costs {
    agent_id: Option<Uuid>,
    cost_currency: String,
    amount_micros: i64,
}

/// How an agent's last runs ended, and when.
#[derive(sqlx::FromRow)]
struct Ended {
    succeeded: i64,
    failed: i64,
    timed_out: i64,
    last_run_at: Option<DateTime<Utc>>,
    last_success_at: Option<DateTime<Utc>>,
}

impl ReadModels {
    /// How the runs went that were requested in a range, of every agent of a tenant or of one.
    pub async fn agent_metrics(
        &self,
        tenant: Uuid,
        filter: &MetricsFilter,
        standpoint: &Standpoint,
    ) -> Result<AgentMetrics, ReadError> {
        let (mut tx, [sequence]) = self.stand(tenant, standpoint, READ).await?;
        let rows: Vec<Figures> = sqlx::query_as(AssertSqlSafe(figures_sql()))
            .bind(tenant)
            .bind(sequence)
            .bind(standpoint.before(None))
            .bind(filter.agent)
            .bind(filter.from)
            .bind(filter.to)
            .fetch_all(&mut *tx)
            .await?;
        let costs: Vec<Costs> = sqlx::query_as(AssertSqlSafe(costs_sql()))
            .bind(tenant)
            .bind(sequence)
            .bind(standpoint.before(None))
            .bind(filter.agent)
            .bind(filter.from)
            .bind(filter.to)
            .fetch_all(&mut *tx)
            .await?;
        tx.commit().await?;
        let mut metrics = AgentMetrics { sequence, total: RunFigures::default(), agents: Vec::new() };
        for row in rows {
            let figures = figures(&row, &costs)?;
            match row.agent_id {
                None => metrics.total = figures,
                Some(agent) => metrics.agents.push(AgentFigures { agent: AgentId::from(agent), figures }),
            }
        }
        Ok(metrics)
    }

    /// How an agent is.
    pub async fn agent_status(
        &self,
        tenant: Uuid,
        agent: Uuid,
        standpoint: &Standpoint,
    ) -> Result<AgentHealth, ReadError> {
        let (mut tx, [sequence]) = self.stand(tenant, standpoint, READ).await?;
        let before = standpoint.before(None);
        let ended: Ended = sqlx::query_as(AssertSqlSafe(last_runs_sql()))
            .bind(tenant)
            .bind(sequence)
            .bind(before)
            .bind(agent)
            .bind(LAST_RUNS)
            .fetch_one(&mut *tx)
            .await?;
        let queue = sqlx::query_as(AssertSqlSafe(queue_sql())).bind(tenant).bind(sequence).bind(before).bind(agent);
        let (pending, running, oldest_pending_at) = queue.fetch_one(&mut *tx).await?;
        tx.commit().await?;
        let last_runs = LastRuns { succeeded: ended.succeeded, failed: ended.failed, timed_out: ended.timed_out };
        Ok(AgentHealth {
            sequence,
            health: health(last_runs),
            last_runs,
            last_run_at: ended.last_run_at,
            last_success_at: ended.last_success_at,
            queue: Queue { pending, running, oldest_pending_at },
        })
    }
}

fn figures(row: &Figures, costs: &[Costs]) -> Result<RunFigures, ReadError> {
    let RunCounts { succeeded, failed, timed_out, .. } = row.runs;
    let ended = succeeded + failed + timed_out;
    let costs = costs
        .iter()
        .filter(|cost| cost.agent_id == row.agent_id)
        .map(|cost| Ok(CostSum { amount_micros: cost.amount_micros, currency: currency(&cost.cost_currency)? }));
    Ok(RunFigures {
        runs: row.runs,
        success_rate: (ended > 0).then(|| succeeded as f64 / ended as f64),
        attempts: row.attempts,
        p50_seconds: row.p50_seconds,
        p95_seconds: row.p95_seconds,
        prompt_tokens: row.prompt_tokens,
        completion_tokens: row.completion_tokens,
        costs: costs.collect::<Result<_, ReadError>>()?,
    })
}

fn health(last: LastRuns) -> Health {
    let ended = last.succeeded + last.failed + last.timed_out;
    match last.succeeded {
        _ if ended == 0 => Health::Unknown,
        succeeded if succeeded * 10 >= ended * 9 => Health::Healthy,
        succeeded if succeeded * 2 >= ended => Health::Degraded,
        _ => Health::Failing,
    }
}
