//! What the read models say about agents: `/runs`, `/agents/{id}/status`, `/agents/metrics`.

use axum::http::Method;
use chrono::{DateTime, Utc};
use domain::agents::{Agent, FailureCode, RunStatus};
use domain::commerce::Customer;
use domain::names::AGENTS_READ;
use domain::text::Word;
use domain::{Aggregate, TypedId};
use eventstore::Until;
use projections::agents::metrics::{self, AgentHealth, AgentMetrics, MetricsFilter};
use projections::agents::runs::{AGENTS_RUNS, RunFilter, RunRow};
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use uuid::Uuid;

use crate::analytics::{answer, report};
use crate::call::{Call, page_of, uuid_place};
use crate::extract::ids::{Moment, Ref, Referent};
use crate::operation::{Answer, Operation, RateClass};
use crate::problem::Problem;
use crate::resource::{time, to_json};
use crate::schema;
use crate::standpoint::{AsOf, Moments, seen};

/// Its operations.
pub(super) fn operations() -> Vec<Operation> {
    vec![
        Operation::query(Method::GET, "/runs", "agents.run.list", AGENTS_READ)
            .about("List runs, newest first", "Without input and result: `GET /runs/{id}` has those.")
            .takes::<RunsQuery>()
            .paged()
            .answers(listed)
            .handled(list),
        Operation::query(Method::GET, "/agents/{id}/status", "agents.agent.status", AGENTS_READ)
            .about("How an agent is doing", "Health follows from how its last twenty runs ended.")
            .rate(RateClass::Report)
            .takes::<StatusQuery>()
            .answers(report::<Status>)
            .handled(status),
        Operation::query(Method::GET, "/agents/metrics", "agents.agent.metrics", AGENTS_READ)
            .about("Figures of all agents, and of each", "Of the runs that were requested in the range.")
            .rate(RateClass::Report)
            .takes::<MetricsQuery>()
            .answers(report::<AgentMetrics>)
            .handled(figures),
    ]
}

/// A run in a list.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "RunEntry")]
struct ListedRun {
    /// Its id.
    id: domain::RunId,
    /// Always `run`.
    object: &'static str,
    /// What went wrong, at the last attempt that failed.
    error: Option<ListedError>,
    #[serde(flatten)]
    row: RunRow,
    /// When it began.
    created_at: DateTime<Utc>,
}

/// What went wrong, in a list.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "RunEntryError")]
struct ListedError {
    /// What kind of failure it was.
    code: FailureCode,
}

fn shown(row: RunRow) -> Value {
    let error = row.error_code.map(|code| ListedError { code });
    to_json(ListedRun { id: row.id, object: "run", error, created_at: row.requested_at, row })
}

fn listed(generator: &mut SchemaGenerator) -> Schema {
    let entry = generator.subschema_for::<ListedRun>();
    schema::list(entry)
}

/// Which runs are wanted.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct RunsQuery {
    /// Only of this agent: `agt_…` or `ext:…`.
    agent: Option<Ref<Agent>>,
    /// Only about this customer: `cus_…` or `ext:…`.
    customer: Option<Ref<Customer>>,
    /// Only in this status.
    #[serde(default)]
    #[schemars(schema_with = "status_schema")]
    status: Option<RunStatus>,
    /// Only of this kind of work.
    task_type: Option<Word>,
}

fn status_schema(generator: &mut SchemaGenerator) -> Schema {
    let schema = generator.subschema_for::<RunStatus>();
    schema::without_none(generator, schema.as_value());
    schema
}

/// The UUID behind a reference in a query; what nobody has is found nowhere.
async fn found<A: Aggregate>(call: &Call, reference: Option<Ref<A>>) -> Result<Option<Uuid>, Problem> {
    let Some(reference) = reference else { return Ok(None) };
    let id = match reference.external() {
        Some(name) => call.state.executor.resolve(call.tenant(), A::STREAM, name.as_str()).await?,
        None => Some(reference.id()?.uuid()),
    };
    Ok(Some(id.unwrap_or(Uuid::nil())))
}

async fn list(call: Call) -> Result<Answer, Problem> {
    let RunsQuery { agent, customer, status, task_type } = call.query.clone().typed()?;
    if status == Some(RunStatus::None) {
        return Err(Problem::field("?status", "is no status of a run that is there"));
    }
    let before = uuid_place(call.cursor().await?)?;
    let (agent, customer) = (found(&call, agent).await?, found(&call, customer).await?);
    let filter = RunFilter { agent, customer, status, task_type: task_type.map(String::from) };
    let (point, age) = call.await_model(AGENTS_RUNS).await?;
    let limit = call.page.limit as i64 + 1;
    let rows = call.state.models.runs(call.tenant().uuid(), &filter, before, limit).await;
    let rows = rows.map_err(|error| call.behind(error))?;
    let place = |row: &RunRow| row.id.uuid().as_bytes().to_vec();
    let body = page_of(&call, rows, place, shown).await?;
    Ok(Answer::new(body).has_read(point, age))
}

/// How an agent is doing.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "AgentStatusReport")]
struct Status {
    /// Which agent.
    agent: domain::AgentId,
    #[serde(flatten)]
    health: AgentHealth,
}

/// At which moments it is asked for.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct StatusQuery {
    /// What was known: a sequence, bare or as `Annals-Read-Sequence` gave it, or a time of RFC 3339, which means the highest
    /// sequence recorded by then; all that is known if absent.
    as_of: Option<AsOf>,
    /// What had happened by this moment, whenever it came to be known; everything if absent.
    effective_at: Option<Moment>,
}

async fn status(call: Call) -> Result<Answer, Problem> {
    let StatusQuery { as_of, effective_at } = call.query.clone().typed()?;
    let moments = Moments { as_of, effective_at };
    let id = call.target::<Agent>().await?;
    let standpoint = moments.standpoint(&call, "?").await?;
    let executor = &call.state.executor;
    let agent = match standpoint.as_of {
        None => executor.load_known::<Agent>(call.tenant(), id).await?,
        Some(sequence) => executor.load_until::<Agent>(call.tenant(), id, Until::Sequence(sequence)).await?,
    };
    if !agent.exists() {
        return Err(Problem::not_found());
    }
    let seen = seen(&call, &standpoint, &[AGENTS_RUNS]).await?;
    let health = call.state.models.agent_status(call.tenant().uuid(), id.uuid(), &standpoint).await;
    let health = health.map_err(|error| call.behind(error))?;
    let sequence = health.sequence;
    let parameters = Map::from_iter(moments.parameters().into_iter().chain([("agent".to_owned(), to_json(id))]));
    Ok(answer(
        "agent_status",
        to_json(Status { agent: id, health }),
        sequence,
        parameters,
        metrics::status_fold(),
        seen,
    ))
}

/// Which runs the figures are of.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct MetricsQuery {
    /// Only of this agent: `agt_…` or `ext:…`.
    agent: Option<Ref<Agent>>,
    /// Requested at this moment or later.
    from: Option<Moment>,
    /// Requested before this moment.
    to: Option<Moment>,
    /// What was known: a sequence, bare or as `Annals-Read-Sequence` gave it, or a time of RFC 3339, which means the highest
    /// sequence recorded by then; all that is known if absent.
    as_of: Option<AsOf>,
    /// What had happened by this moment, whenever it came to be known; everything if absent.
    effective_at: Option<Moment>,
}

async fn figures(call: Call) -> Result<Answer, Problem> {
    let MetricsQuery { agent, from, to, as_of, effective_at } = call.query.clone().typed()?;
    let moments = Moments { as_of, effective_at };
    let (from, to) = (from.map(|moment| moment.0), to.map(|moment| moment.0));
    if from.zip(to).is_some_and(|(from, to)| from > to) {
        return Err(Problem::field("?to", "must not be earlier than `from`"));
    }
    let filter = MetricsFilter { agent: found(&call, agent).await?, from, to };
    let standpoint = moments.standpoint(&call, "?").await?;
    let seen = seen(&call, &standpoint, &[AGENTS_RUNS]).await?;
    let metrics = call.state.models.agent_metrics(call.tenant().uuid(), &filter, &standpoint).await;
    let metrics = metrics.map_err(|error| call.behind(error))?;
    let moment = |at: Option<DateTime<Utc>>| at.map_or(Value::Null, |at| time(at).into());
    let agent = filter.agent.map_or(Value::Null, |agent| to_json(domain::AgentId::from(agent)));
    let range = [("agent".to_owned(), agent), ("from".to_owned(), moment(from)), ("to".to_owned(), moment(to))];
    let parameters = Map::from_iter(moments.parameters().into_iter().chain(range));
    let sequence = metrics.sequence;
    Ok(answer("agent_metrics", to_json(metrics), sequence, parameters, metrics::fold(), seen))
}
