//! The runs of agents, a row each: how far each has come, without what was asked and answered; and beside them the rows that
//! they were before, each with what it stood to.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use domain::agents::{Cost, FailureCode, RunEvent, RunStatus, Usage};
use domain::{AgentId, CustomerId, RunId, TypedId, names};
use eventstore::RecordedEvent;
use schemars::JsonSchema;
use serde::Serialize;
use serde::de::DeserializeOwned;
use sqlx::postgres::{PgArguments, PgRow};
use sqlx::query::Query;
use sqlx::{AssertSqlSafe, PgConnection, Postgres, QueryBuilder, Row};
use uuid::Uuid;

use crate::documents::word;
use crate::projector::{ProjectError, Projector, decode};
use crate::read_models::{ReadError, ReadModels, active};

/// The projector and the table of runs.
pub const AGENTS_RUNS: &str = "agents_runs";
/// The table of what runs were before.
pub(super) const RUNS_PAST: &str = "agents_runs_past";

/// Raised whenever the same events would give other rows.
pub(crate) const REVISION: i32 = 2;

/// A run, as lists show it.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct RunRow {
    /// Its id.
    #[serde(skip)]
    pub id: RunId,
    /// Who does the work.
    pub agent: AgentId,
    /// The version of the agent that it is done by.
    pub agent_version: i64,
    /// Whom it is about.
    pub customer: Option<CustomerId>,
    /// What kind of work it is, by the caller's word.
    pub task_type: Option<String>,
    /// What the caller calls it.
    pub external_id: Option<String>,
    /// Where it stands.
    pub status: RunStatus,
    /// How many attempts have begun.
    pub attempts: i64,
    /// What kind of failure there was at the last attempt that failed; none once it succeeded.
    #[serde(skip)]
    pub error_code: Option<FailureCode>,
    /// When the work was taken.
    #[serde(skip)]
    pub requested_at: DateTime<Utc>,
    /// When the first attempt began.
    pub started_at: Option<DateTime<Utc>>,
    /// When it ended, however it did.
    pub ended_at: Option<DateTime<Utc>>,
    /// When the next attempt begins, while it waits for one.
    pub next_attempt_at: Option<DateTime<Utc>>,
    /// What the model counted.
    pub usage: Option<Usage>,
    /// What that cost, by the agent's prices.
    pub cost: Option<Cost>,
    /// Of its stream.
    #[serde(skip)]
    pub version: i64,
    /// The tenant's sequence of the last event in it.
    #[serde(skip)]
    pub sequence: i64,
    /// When that happened.
    #[serde(skip)]
    pub changed_at: DateTime<Utc>,
}

/// Which runs are wanted; each part that is given must hold.
#[derive(Clone, Debug, Default)]
pub struct RunFilter {
    /// Of this agent.
    pub agent: Option<Uuid>,
    /// About this customer.
    pub customer: Option<Uuid>,
    /// That stand there.
    pub status: Option<RunStatus>,
    /// Of exactly this kind of work.
    pub task_type: Option<String>,
}

/// The columns of a row after its generation and tenant, in the order in which they are read and written, and their types.
const COLUMNS: [(&str, &str); 20] = [
    ("id", "uuid"),
    ("agent_id", "uuid"),
    ("agent_version", "bigint"),
    ("customer_id", "uuid"),
    ("task_type", "text"),
    ("external_id", "text"),
    ("status", "text"),
    ("attempts", "bigint"),
    ("error_code", "text"),
    ("requested_at", "timestamptz"),
    ("started_at", "timestamptz"),
    ("ended_at", "timestamptz"),
    ("next_attempt_at", "timestamptz"),
    ("prompt_tokens", "bigint"),
    ("completion_tokens", "bigint"),
    ("cost_micros", "bigint"),
    ("cost_currency", "text"),
    ("version", "bigint"),
    ("sequence", "bigint"),
    ("changed_at", "timestamptz"),
];

fn names(prefix: &str) -> String {
    COLUMNS.iter().map(|(name, _)| format!("{prefix}{name}")).collect::<Vec<_>>().join(", ")
}

impl ReadModels {
    /// The runs of a tenant, newest first by id: those below `before` that the filter lets through, at most `limit`.
    pub async fn runs(
        &self,
        tenant: Uuid,
        filter: &RunFilter,
        before: Option<Uuid>,
        limit: i64,
    ) -> Result<Vec<RunRow>, ReadError> {
        let mut query = QueryBuilder::<Postgres>::new("SELECT ");
        query.push(names("")).push(" FROM agents_runs WHERE generation = ").push(active(AGENTS_RUNS));
        query.push(" AND tenant_id = ").push_bind(tenant);
        query.push(" AND id < ").push_bind(before.unwrap_or(Uuid::max()));
        if let Some(agent) = filter.agent {
            query.push(" AND agent_id = ").push_bind(agent);
        }
        if let Some(customer) = filter.customer {
            query.push(" AND customer_id = ").push_bind(customer);
        }
        if let Some(status) = filter.status {
            query.push(" AND status = ").push_bind(word(&status));
        }
        if let Some(task_type) = &filter.task_type {
            query.push(" AND task_type = ").push_bind(task_type);
        }
        query.push(" ORDER BY id DESC LIMIT ").push_bind(limit);
        let mut tx = self.begin(tenant).await?;
        let rows = query.build().fetch_all(&mut *tx).await?;
        tx.commit().await?;
        rows.iter().map(|row| Ok(read(row)?)).collect()
    }
}

/// A value that is a string in JSON, as a status is, from that string.
fn value<T: DeserializeOwned>(word: Option<String>) -> Result<Option<T>, serde_json::Error> {
    word.map(|word| serde_json::from_value(serde_json::Value::String(word))).transpose()
}

/// Why a stored row can't be read.
#[derive(Debug)]
enum Unreadable {
    Column(sqlx::Error),
    Value(serde_json::Error),
}

impl From<sqlx::Error> for Unreadable {
    fn from(error: sqlx::Error) -> Self {
        Self::Column(error)
    }
}

impl From<serde_json::Error> for Unreadable {
    fn from(error: serde_json::Error) -> Self {
        Self::Value(error)
    }
}

impl From<Unreadable> for ReadError {
    fn from(error: Unreadable) -> Self {
        match error {
            Unreadable::Column(error) => error.into(),
            Unreadable::Value(error) => error.into(),
        }
    }
}

impl From<Unreadable> for ProjectError {
    fn from(error: Unreadable) -> Self {
        match error {
            Unreadable::Column(error) => error.into(),
            Unreadable::Value(error) => error.into(),
        }
    }
}

fn read(row: &PgRow) -> Result<RunRow, Unreadable> {
    let customer: Option<Uuid> = row.try_get("customer_id")?;
    let prompt_tokens: Option<i64> = row.try_get("prompt_tokens")?;
    let completion_tokens: Option<i64> = row.try_get("completion_tokens")?;
    let amount_micros: Option<i64> = row.try_get("cost_micros")?;
    Ok(RunRow {
        id: RunId::from(row.try_get::<Uuid, _>("id")?),
        agent: AgentId::from(row.try_get::<Uuid, _>("agent_id")?),
        agent_version: row.try_get("agent_version")?,
        customer: customer.map(CustomerId::from),
        task_type: row.try_get("task_type")?,
        external_id: row.try_get("external_id")?,
        status: value(row.try_get("status")?)?.unwrap_or_default(),
        attempts: row.try_get("attempts")?,
        error_code: value(row.try_get("error_code")?)?,
        requested_at: row.try_get("requested_at")?,
        started_at: row.try_get("started_at")?,
        ended_at: row.try_get("ended_at")?,
        next_attempt_at: row.try_get("next_attempt_at")?,
        usage: prompt_tokens
            .zip(completion_tokens)
            .map(|(prompt_tokens, completion_tokens)| Usage { prompt_tokens, completion_tokens }),
        cost: amount_micros
            .zip(value(row.try_get("cost_currency")?)?)
            .map(|(amount_micros, currency)| Cost { amount_micros, currency }),
        version: row.try_get("version")?,
        sequence: row.try_get("sequence")?,
        // A row that an older program has made does not say.
        changed_at: row.try_get::<Option<_>, _>("changed_at")?.unwrap_or_default(),
    })
}

impl RunRow {
    /// What a run is before its first event, which happened at that moment.
    fn new(id: Uuid, at: DateTime<Utc>) -> Self {
        Self {
            id: RunId::from(id),
            agent: AgentId::default(),
            agent_version: 0,
            customer: None,
            task_type: None,
            external_id: None,
            status: RunStatus::None,
            attempts: 0,
            error_code: None,
            requested_at: at,
            started_at: None,
            ended_at: None,
            next_attempt_at: None,
            usage: None,
            cost: None,
            version: 0,
            sequence: 0,
            changed_at: at,
        }
    }

    /// Folds one more event in; one whose body was redacted counts and changes nothing.
    fn fold(&mut self, event: &RecordedEvent) -> Result<(), ProjectError> {
        if let Some(event) = decode::<RunEvent>(event)? {
            self.apply(event);
        }
        (self.version, self.sequence, self.changed_at) = (event.version, event.sequence, event.occurred_at);
        Ok(())
    }

    /// As `domain::agents::Run` does it, for what a row has.
    fn apply(&mut self, event: RunEvent) {
        match event {
            RunEvent::Requested { external_id, agent, agent_version, customer, task_type, at, .. } => {
                (self.agent, self.agent_version, self.customer) = (agent, agent_version, customer);
                self.external_id = external_id.map(|id| id.to_string());
                self.task_type = task_type.map(|kind| kind.to_string());
                self.status = RunStatus::Pending;
                (self.requested_at, self.next_attempt_at) = (at, Some(at));
            }
            RunEvent::AttemptStarted { attempt, at } => {
                (self.status, self.attempts, self.next_attempt_at) = (RunStatus::Running, attempt, None);
                self.started_at = self.started_at.or(Some(at));
            }
            RunEvent::AttemptFailed { error, next_attempt_at, .. } => {
                self.status = RunStatus::Pending;
                (self.error_code, self.next_attempt_at) = (Some(error.code), Some(next_attempt_at));
            }
            RunEvent::Succeeded { at, usage, cost, .. } => {
                self.end(RunStatus::Succeeded, at);
                (self.error_code, self.usage, self.cost) = (None, usage, cost);
            }
            RunEvent::Failed { at, error, .. } => {
                self.end(RunStatus::Failed, at);
                self.error_code = Some(error.code);
            }
            RunEvent::TimedOut { at, error, .. } => {
                self.end(RunStatus::TimedOut, at);
                self.error_code = Some(error.code);
            }
            RunEvent::Cancelled { at } => self.end(RunStatus::Cancelled, at),
        }
    }

    fn end(&mut self, status: RunStatus, at: DateTime<Utc>) {
        (self.status, self.next_attempt_at, self.ended_at) = (status, None, Some(at));
    }
}

/// Keeps the runs.
pub(crate) struct Runs;

type Key = (Uuid, Uuid);

#[async_trait]
impl Projector for Runs {
    fn name(&self) -> &'static str {
        AGENTS_RUNS
    }

    fn revision(&self) -> i32 {
        REVISION
    }

    fn tables(&self) -> &'static [&'static str] {
        &[AGENTS_RUNS, RUNS_PAST]
    }

    fn interested(&self, stream_type: &str) -> bool {
        stream_type == names::RUN.name
    }

    async fn project(
        &self,
        generation: i32,
        events: &[Arc<RecordedEvent>],
        conn: &mut PgConnection,
    ) -> Result<(), ProjectError> {
        let mut runs = load(generation, events, conn).await?;
        let mut past = Vec::new();
        for event in events {
            let run = runs
                .entry((event.tenant_id, event.stream_id))
                .or_insert_with(|| RunRow::new(event.stream_id, event.occurred_at));
            // Versions are dense: anything else means that an event was lost or came twice.
            if event.version != run.version + 1 {
                return Err(ProjectError::OutOfOrder { position: event.position, follows: run.version });
            }
            if run.version > 0 {
                past.push((event.clone(), run.clone()));
            }
            run.fold(event)?;
        }
        store(generation, &runs, conn).await?;
        store_past(generation, &past, conn).await
    }
}

/// The runs that these events follow on, but for those whose first event is among them.
async fn load(
    generation: i32,
    events: &[Arc<RecordedEvent>],
    conn: &mut PgConnection,
) -> Result<BTreeMap<Key, RunRow>, ProjectError> {
    let mut first = BTreeMap::new();
    for event in events {
        first.entry((event.tenant_id, event.stream_id)).or_insert(event.version);
    }
    let (tenants, ids): (Vec<_>, Vec<_>) =
        first.iter().filter(|(_, version)| **version > 1).map(|(key, _)| *key).unzip();
    if ids.is_empty() {
        return Ok(BTreeMap::new());
    }
    let sql = format!(
        "SELECT r.tenant_id, {} FROM unnest($2::uuid[], $3::uuid[]) AS wanted (tenant_id, id)
         JOIN agents_runs r ON r.generation = $1 AND r.tenant_id = wanted.tenant_id AND r.id = wanted.id",
        names("r.")
    );
    let rows = sqlx::query(AssertSqlSafe(sql)).bind(generation).bind(tenants).bind(ids).fetch_all(conn).await?;
    let runs = rows.iter().map(|row| {
        let run = read(row)?;
        Ok(((row.try_get("tenant_id")?, run.id.uuid()), run))
    });
    runs.collect::<Result<_, Unreadable>>().map_err(ProjectError::from)
}

async fn store(generation: i32, runs: &BTreeMap<Key, RunRow>, conn: &mut PgConnection) -> Result<(), ProjectError> {
    let replaced = COLUMNS.iter().skip(1).map(|(name, _)| format!("{name} = excluded.{name}"));
    let sql = format!(
        "INSERT INTO agents_runs (generation, tenant_id, {}) SELECT $1, * FROM unnest($2::uuid[], {})
         ON CONFLICT (generation, tenant_id, id) DO UPDATE SET {}",
        names(""),
        arrays(),
        replaced.collect::<Vec<_>>().join(", ")
    );
    let tenants = runs.keys().map(|(tenant, _)| *tenant).collect();
    bound(sqlx::query(AssertSqlSafe(sql)), generation, tenants, &runs.values().collect::<Vec<_>>())
        .execute(conn)
        .await?;
    Ok(())
}

/// Keeps what runs were, each with the event that changed it. One that has ended is changed by nothing.
async fn store_past(
    generation: i32,
    past: &[(Arc<RecordedEvent>, RunRow)],
    conn: &mut PgConnection,
) -> Result<(), ProjectError> {
    if past.is_empty() {
        return Ok(());
    }
    let until = COLUMNS.len() + 3;
    let sql = format!(
        "INSERT INTO {RUNS_PAST} (generation, tenant_id, {}, until_sequence, until_at)
         SELECT $1, * FROM unnest($2::uuid[], {}, ${until}::bigint[], ${}::timestamptz[])",
        names(""),
        arrays(),
        until + 1
    );
    let tenants = past.iter().map(|(event, _)| event.tenant_id).collect();
    let runs: Vec<_> = past.iter().map(|(_, run)| run).collect();
    bound(sqlx::query(AssertSqlSafe(sql)), generation, tenants, &runs)
        .bind(past.iter().map(|(event, _)| event.sequence).collect::<Vec<_>>())
        .bind(past.iter().map(|(event, _)| event.occurred_at).collect::<Vec<_>>())
        .execute(conn)
        .await?;
    Ok(())
}

/// The arrays of the columns, from the third parameter on.
fn arrays() -> String {
    let arrays = COLUMNS.iter().enumerate().map(|(place, (_, kind))| format!("${}::{kind}[]", place + 3));
    arrays.collect::<Vec<_>>().join(", ")
}

type Statement<'a> = Query<'a, Postgres, PgArguments>;

/// The statement with its generation, tenants and columns.
fn bound<'a>(statement: Statement<'a>, generation: i32, tenants: Vec<Uuid>, runs: &[&RunRow]) -> Statement<'a> {
    fn column<T>(runs: &[&RunRow], value: impl Fn(&RunRow) -> T) -> Vec<T> {
        runs.iter().map(|run| value(run)).collect()
    }
    statement
        .bind(generation)
        .bind(tenants)
        .bind(column(runs, |run| run.id.uuid()))
        .bind(column(runs, |run| run.agent.uuid()))
        .bind(column(runs, |run| run.agent_version))
        .bind(column(runs, |run| run.customer.map(|customer| customer.uuid())))
        .bind(column(runs, |run| run.task_type.clone()))
        .bind(column(runs, |run| run.external_id.clone()))
        .bind(column(runs, |run| word(&run.status)))
        .bind(column(runs, |run| run.attempts))
        .bind(column(runs, |run| run.error_code.as_ref().and_then(word)))
        .bind(column(runs, |run| run.requested_at))
        .bind(column(runs, |run| run.started_at))
        .bind(column(runs, |run| run.ended_at))
        .bind(column(runs, |run| run.next_attempt_at))
        .bind(column(runs, |run| run.usage.map(|usage| usage.prompt_tokens)))
        .bind(column(runs, |run| run.usage.map(|usage| usage.completion_tokens)))
        .bind(column(runs, |run| run.cost.map(|cost| cost.amount_micros)))
        .bind(column(runs, |run| run.cost.map(|cost| cost.currency.to_string())))
        .bind(column(runs, |run| run.version))
        .bind(column(runs, |run| run.sequence))
        .bind(column(runs, |run| run.changed_at))
}
