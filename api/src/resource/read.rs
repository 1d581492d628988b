//! Queries on resources.

use domain::TypedId;
use eventstore::Until;
use projections::{Document, Documented};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::Value;
use uuid::Uuid;

use super::{FilterKind, Resource, document, shown, shown_state};
use crate::as_of::{Place, moment_schema};
use crate::audit::shown_event;
use crate::call::{Call, number_place, page_of, uuid_place};
use crate::extract::ids::Target;
use crate::extract::query::Nothing;
use crate::operation::Answer;
use crate::problem::Problem;

/// The parameter that asks for what was known at a moment.
const AS_OF: &str = "as_of";

/// What was known at a moment.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AsOf {
    /// A sequence, bare or as `Annals-Read-Sequence` gave it, or a time of RFC 3339, which means the highest sequence
    /// recorded by then.
    #[serde(default)]
    #[schemars(schema_with = "moment_schema")]
    as_of: Option<String>,
}

/// The newest version, never a stale one; or the one that stood at a moment.
pub(super) async fn get<A: Resource>(call: Call) -> Result<Answer, Problem> {
    let AsOf { as_of } = call.query.clone().typed()?;
    let head = call.head().await?;
    let id = call.target::<A>().await?;
    let executor = &call.state.executor;
    let (loaded, seen) = match as_of {
        None => (executor.load::<A>(call.tenant(), id).await?, head),
        Some(as_of) => {
            let sequence = call.sequence_of("?as_of", &as_of).await?;
            (executor.load_until::<A>(call.tenant(), id, Until::Sequence(sequence)).await?, sequence)
        }
    };
    if !loaded.exists() {
        return Err(Problem::not_found());
    }
    let seen = seen.max(loaded.sequence);
    Ok(Answer::new(shown_state::<A>(id, &loaded)?).tagged(&loaded).has_seen(seen, 0.0))
}

/// A page of documents, as they are or as they stood at a moment.
pub(super) async fn list<A: Resource + Documented>(call: Call) -> Result<Answer, Problem> {
    let filters = filters::<A>(&call).await?;
    let filters: Vec<(&str, &str)> = filters.iter().map(|(column, value)| (*column, value.as_str())).collect();
    if let Some(as_of) = call.query.get(AS_OF) {
        return list_as_of::<A>(&call, &filters, as_of).await;
    }
    let before = uuid_place(call.cursor().await?)?;
    let (point, age) = call.await_model(A::TABLE).await?;
    let limit = call.page.limit as i64 + 1;
    let documents = call.state.models.list(call.tenant().uuid(), document::<A>(), &filters, before, limit).await;
    let documents = documents.map_err(|error| call.behind(error))?;
    let place = |document: &Document| document.id.as_bytes().to_vec();
    Ok(Answer::new(page_of(&call, documents, place, shown_document::<A>).await?).has_read(point, age))
}

async fn list_as_of<A: Resource + Documented>(
    call: &Call,
    filters: &[(&str, &str)],
    as_of: &str,
) -> Result<Answer, Problem> {
    let (before, sequence) = match Place::of(call).await? {
        Some(Place { below, at: [sequence], .. }) => (Some(below), sequence),
        None => (None, call.sequence_of("?as_of", as_of).await?),
    };
    let (mut point, _) = call.await_models(&[A::TABLE], sequence).await?;
    point.sequence = sequence;
    let (tenant, limit) = (call.tenant().uuid(), call.page.limit as i64 + 1);
    let incarnation = call.state.executor.store().token(tenant, sequence).await?.incarnation;
    let documents = call.state.models.list_as_of(tenant, document::<A>(), sequence, filters, before, limit).await;
    let documents = documents.map_err(|error| call.behind(error))?;
    let place = |document: &Document| Place { below: document.id, at: [sequence], incarnation }.bytes();
    Ok(Answer::new(page_of(call, documents, place, shown_document::<A>).await?).has_read(point, 0.0))
}

/// A document as it is shown, personal values still sealed.
pub fn shown_document<A: Resource>(document: Document) -> Value {
    shown::<A>(A::Id::from(document.id), document.state, document.created_at, document.updated_at)
}

/// The values of the columns that the parameters ask for.
async fn filters<A: Resource + Documented>(call: &Call) -> Result<Vec<(&'static str, String)>, Problem> {
    let mut filters = Vec::new();
    for (name, value) in call.query.pairs().filter(|(name, _)| A::HISTORY.is_none() || *name != AS_OF) {
        let pointer = format!("?{name}");
        let Some(filter) = A::FILTERS.iter().find(|filter| filter.name == name) else {
            return Err(Problem::of_field(crate::problem::codes::UNKNOWN_FIELD, pointer, "is no parameter here"));
        };
        let value = match filter.kind {
            FilterKind::Word(check) => {
                check(value).map_err(|problem| problem.at_field(&pointer))?;
                value.to_owned()
            }
            FilterKind::Id { stream, parse } => {
                let id = match parse(value).map_err(|detail| Problem::field(&pointer, detail))? {
                    Target::Ours(id) => Some(id),
                    Target::External(name) => call.state.executor.resolve(call.tenant(), stream, name.as_str()).await?,
                };
                // What nobody has is found nowhere.
                id.unwrap_or(Uuid::nil()).to_string()
            }
        };
        filters.push((filter.column, value));
    }
    Ok(filters)
}

/// A page of a stream's events.
pub(super) async fn history<A: Resource>(call: Call) -> Result<Answer, Problem> {
    call.query.clone().typed::<Nothing>()?;
    let below = number_place(call.cursor().await?)?;
    let head = call.head().await?;
    let id = call.target::<A>().await?;
    let limit = call.page.limit as i64 + 1;
    let store = call.state.executor.store();
    let events = store.read_stream_back(call.tenant().uuid(), id.uuid(), below.unwrap_or(i64::MAX), limit).await?;
    let ours = events.iter().all(|event| event.stream_type == A::STREAM.name);
    if !ours || (events.is_empty() && below.is_none()) {
        return Err(Problem::not_found());
    }
    let body = page_of(&call, events, |event| event.version.to_be_bytes().to_vec(), |event| shown_event(&event));
    Ok(Answer::new(body.await?).has_seen(head, 0.0))
}
