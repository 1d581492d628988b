//! `/admin/projections`: the projectors that keep lists and reports.

use axum::http::Method;
use chrono::{DateTime, Utc};
use domain::names::{self, OPERATIONS_READ, OPERATIONS_WRITE};
use domain::{AnyId, TenantId};
use eventstore::chain;
use projections::{OperatorError, ParkedStream, ProjectorReport, Retried};
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::call::Call;
use crate::extract::ids::any_id_schema;
use crate::extract::query::Nothing;
use crate::operation::{Answer, Operation};
use crate::problem::Problem;
use crate::resource::{BASE, time, to_json};
use crate::{schema, strict};

/// How many parked streams of a projector are shown.
const SHOWN: i64 = 100;

/// Its operations.
pub(super) fn operations() -> Vec<Operation> {
    let read = |path, name| Operation::upkeep(Method::GET, path, name, OPERATIONS_READ);
    let write = |path, name| Operation::upkeep(Method::POST, path, name, OPERATIONS_WRITE);
    vec![
        read("/admin/projections", "operations.projection.list")
            .about("List the projectors", "How far each is behind, what it has parked, which processes have its slots.")
            .answers(|generator| schema::list(generator.subschema_for::<ProjectorReport>()))
            .handled(list),
        read("/admin/projections/{id}", "operations.projection.get")
            .about("Read a projector", "With its parked streams, the longest waiting first, at most a hundred.")
            .answers(described)
            .handled(get),
        write("/admin/projections/{id}/pause", "operations.projection.pause")
            .about(
                "Pause a projector",
                "It stops in every process within about a second; its lists and reports grow old.",
            )
            .answers(described)
            .handled(pause),
        write("/admin/projections/{id}/resume", "operations.projection.resume")
            .about("Have a projector go on", "One that was paused, and one that paused itself.")
            .answers(described)
            .handled(resume),
        write("/admin/projections/{id}/rebuild", "operations.projection.rebuild")
            .about(
                "Make the rows of a projector anew",
                "From the log, beside those that are read, by a process that projects; they are read once they are as \
                 far. `building` says how far they are.",
            )
            .answers(described)
            .status(202)
            .handled(rebuild),
        write("/admin/projections/{id}/retry", "operations.projection.retry")
            .about(
                "Try parked streams again",
                "Each from the event on that could not be applied, after the projector was mended and deployed.",
            )
            .body::<Retry>(|| json!({ "stream": "ord_01jd2k7x3ve0b9q4m5n6p7r8s9" }))
            .body_optional()
            .answers(|generator| generator.subschema_for::<Retried>())
            .handled(retry),
    ]
}

fn described(generator: &mut SchemaGenerator) -> Schema {
    let _ = generator.subschema_for::<ParkedEntry>();
    generator.subschema_for::<ShownProjector>()
}

/// A projector with its parked streams.
#[derive(JsonSchema)]
#[schemars(rename = "Projector")]
#[expect(dead_code, reason = "it only describes what is answered")]
struct ShownProjector {
    #[serde(flatten)]
    report: ProjectorReport,
    /// The longest waiting first, at most a hundred.
    parked_streams: Vec<ParkedEntry>,
}

/// A stream that waits for a mended projector.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "ParkedStream")]
struct ParkedEntry {
    /// Whose it is.
    tenant: TenantId,
    /// The stream.
    stream: String,
    /// The tenant's sequence of the event that can't be applied; what follows in the stream is passed over.
    from_sequence: i64,
    /// Why it can't: never with anything of a payload.
    error: String,
    /// Since when.
    #[schemars(with = "DateTime<Utc>")]
    parked_at: String,
}

/// A parked stream as it is shown.
pub fn shown_parked(parked: &ParkedStream) -> Value {
    let prefix = names::stream_type(&parked.stream_type).map_or("xxx", |kind| kind.prefix);
    to_json(ParkedEntry {
        tenant: TenantId::from(parked.tenant),
        stream: AnyId::new(prefix, parked.stream).to_string(),
        from_sequence: parked.from_sequence,
        error: parked.error.clone(),
        parked_at: time(parked.parked_at),
    })
}

/// Which parked streams are tried again.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Retry {
    /// Only this one; all, if absent.
    #[serde(default)]
    #[schemars(schema_with = "any_id_schema")]
    stream: Option<AnyId>,
}

fn problem(error: OperatorError) -> Problem {
    match error {
        OperatorError::Unknown => Problem::not_found(),
        OperatorError::Database(_) => {
            tracing::error!(error = chain(&error), "an operator was refused");
            Problem::unavailable()
        }
        OperatorError::Failed(_) => Problem::internal(&error),
    }
}

async fn list(call: Call) -> Result<Answer, Problem> {
    call.query.clone().typed::<Nothing>()?;
    let all = call.state.operator.list().await.map_err(problem)?;
    Ok(Answer::new(json!({ "object": "list", "data": all, "has_more": false, "next_cursor": null })))
}

async fn get(call: Call) -> Result<Answer, Problem> {
    call.query.clone().typed::<Nothing>()?;
    show(&call).await
}

async fn show(call: &Call) -> Result<Answer, Problem> {
    let (operator, name) = (&call.state.operator, name(call));
    let mut shown = to_json(operator.show(name).await.map_err(problem)?);
    let parked = operator.parked(name, SHOWN).await.map_err(problem)?;
    shown["parked_streams"] = parked.iter().map(shown_parked).collect();
    Ok(Answer::new(shown))
}

fn name(call: &Call) -> &str {
    call.path_id.as_deref().unwrap_or_default()
}

async fn pause(call: Call) -> Result<Answer, Problem> {
    call.state.operator.pause(name(&call)).await.map_err(problem)?;
    show(&call).await
}

async fn resume(call: Call) -> Result<Answer, Problem> {
    call.state.operator.resume(name(&call)).await.map_err(problem)?;
    show(&call).await
}

async fn rebuild(call: Call) -> Result<Answer, Problem> {
    call.state.operator.rebuild(name(&call)).await.map_err(problem)?;
    Ok(show(&call).await?.at(&format!("{BASE}/admin/projections/{}", name(&call))))
}

async fn retry(call: Call) -> Result<Answer, Problem> {
    let Retry { stream } = strict::typed(call.body.clone())?;
    let retried = call.state.operator.retry(name(&call), stream.map(|stream| stream.uuid())).await.map_err(problem)?;
    Ok(Answer::new(to_json(retried)))
}
