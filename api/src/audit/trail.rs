//! `/audit-logs`: who did what, when, and because of what.

use axum::http::Method;
use domain::names::{self, AUDIT_READ};
use domain::text::Line;
use domain::{AnyId, TypedId};
use projections::rows::AUDIT_ENTRIES;
use projections::{AuditEntry, AuditFilter};
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::{Deserialize, Serialize};

use crate::call::{Call, number_place, page_of};
use crate::extract::ids::{Moment, any_id_schema};
use crate::operation::{Answer, Operation};
use crate::problem::Problem;
use crate::resource::to_json;
use crate::schema;

/// Its operations.
pub(super) fn operations() -> Vec<Operation> {
    vec![
        Operation::query(Method::GET, "/audit-logs", "audit.trail.list", AUDIT_READ)
            .about(
                "Read the audit trail, newest first",
                "One entry an event: the trail is what state comes from, so it can't diverge from it.",
            )
            .takes::<TrailQuery>()
            .paged()
            .answers(entries)
            .handled(list),
    ]
}

fn entries(generator: &mut SchemaGenerator) -> Schema {
    let entry = generator.subschema_for::<TrailEntry>();
    schema::list(entry)
}

/// Which entries are wanted.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct TrailQuery {
    /// Only what this key, user or process did: `key_…`.
    #[serde(default)]
    #[schemars(schema_with = "any_id_schema")]
    actor: Option<AnyId>,
    /// What the action begins with: `order.` finds `order.placed` and `order.refunded`.
    action: Option<Line>,
    /// Only what happened to this resource: its id.
    #[serde(default)]
    #[schemars(schema_with = "any_id_schema")]
    resource: Option<AnyId>,
    /// Recorded at this moment or later.
    from: Option<Moment>,
    /// Recorded before this moment.
    to: Option<Moment>,
}

/// An entry of the trail.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "AuditEntry")]
struct TrailEntry {
    /// Always `audit_entry`.
    object: &'static str,
    /// The tenant's sequence of the event.
    sequence: i64,
    /// What happened: the event's type.
    action: String,
    /// Who is behind it.
    actor: String,
    /// What it happened to.
    resource: String,
    /// When it happened in the business.
    #[schemars(with = "chrono::DateTime<chrono::Utc>")]
    occurred_at: String,
    /// When the log took it.
    #[schemars(with = "chrono::DateTime<chrono::Utc>")]
    recorded_at: String,
    /// The request that it was asked in.
    request_id: Option<String>,
    /// The event or command that caused it.
    cause: Option<String>,
}

fn shown(entry: AuditEntry) -> TrailEntry {
    let prefix = names::stream_type(&entry.stream_type).map_or("xxx", |kind| kind.prefix);
    TrailEntry {
        object: "audit_entry",
        sequence: entry.sequence,
        action: entry.action,
        actor: entry.actor,
        resource: AnyId::new(prefix, entry.stream_id).to_string(),
        occurred_at: crate::resource::time(entry.occurred_at),
        recorded_at: crate::resource::time(entry.recorded_at),
        request_id: entry.request_id,
        cause: entry.cause,
    }
}

async fn list(call: Call) -> Result<Answer, Problem> {
    let query: TrailQuery = call.query.clone().typed()?;
    let before = number_place(call.cursor().await?)?;
    let resource = query.resource.map(|id| match names::stream_type_of_prefix(id.prefix()) {
        Some(kind) => Ok((kind.name, id.uuid())),
        None => Err(Problem::field("?resource", "must be the id of a resource, such as ord_…")),
    });
    let filter = AuditFilter {
        actor: query.actor.map(|actor| actor.to_string()),
        action: query.action.map(String::from),
        resource: resource.transpose()?,
        from: query.from.map(|moment| moment.0),
        to: query.to.map(|moment| moment.0),
    };
    let (point, age) = call.await_model(AUDIT_ENTRIES).await?;
    let limit = call.page.limit as i64 + 1;
    let entries = call.state.models.audit(call.tenant().uuid(), &filter, before, limit).await;
    let entries = entries.map_err(|error| call.behind(error))?;
    let body = page_of(&call, entries, |entry| entry.sequence.to_be_bytes().to_vec(), |entry| to_json(shown(entry)));
    Ok(Answer::new(body.await?).has_read(point, age))
}
