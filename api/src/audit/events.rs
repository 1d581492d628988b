//! `/events` and `/event-types`: the log itself, as far as a tenant may see it.

use std::collections::HashMap;

use axum::http::Method;
use domain::names::{self, AUDIT_READ};
use domain::{AnyId, TypedId};
use eventstore::{EventFilter, RecordedEvent, Token};
use projections::rows::AUDIT_ENTRIES;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::call::Call;
use crate::extract::headers::TOKEN;
use crate::extract::ids::any_id_schema;
use crate::operation::{Answer, Operation};
use crate::problem::{Problem, codes};
use crate::resource::{time, to_json};
use crate::schema;

/// How many sequences are searched in one statement, and in one request. A page that finds little in so many says so,
/// with a cursor to go on from.
const SPAN: i64 = 5_000;
const MOST: i64 = 100_000;

/// An event, as histories and `/events` show it.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "Event")]
pub struct ShownEvent<'a, D> {
    /// Always `event`.
    pub object: &'static str,
    /// The tenant's sequence.
    pub sequence: i64,
    /// What happened: `order.placed`.
    #[serde(rename = "type")]
    pub event_type: &'a str,
    /// Version of the schema of `data`.
    pub schema_version: i32,
    /// What it happened to.
    pub stream: String,
    /// Its number in that resource's history.
    pub version: i64,
    /// When it happened in the business.
    #[schemars(with = "chrono::DateTime<chrono::Utc>")]
    pub occurred_at: String,
    /// When the log took it.
    #[schemars(with = "chrono::DateTime<chrono::Utc>")]
    pub recorded_at: String,
    /// Who is behind it.
    pub actor: &'a str,
    /// The request that it was asked in.
    pub request_id: Option<String>,
    /// The event or command that caused it.
    pub cause: Option<String>,
    /// What it says, as `/event-types` describes it; personal values are null without `personal:read` and once they are
    /// erased. Null where the whole was removed.
    #[schemars(with = "Option<serde_json::Map<String, Value>>")]
    pub data: D,
}

impl<'a, D> ShownEvent<'a, D> {
    /// The event with what it says as it is to be shown.
    pub fn of(event: &'a RecordedEvent, data: D) -> Self {
        let prefix = names::stream_type(&event.stream_type).map_or("xxx", |kind| kind.prefix);
        let metadata = event.metadata();
        Self {
            object: "event",
            sequence: event.sequence,
            event_type: &event.event_type,
            schema_version: event.schema_version,
            stream: AnyId::new(prefix, event.stream_id).to_string(),
            version: event.version,
            occurred_at: time(event.occurred_at),
            recorded_at: time(event.recorded_at),
            actor: &event.actor,
            request_id: metadata.request_id,
            cause: metadata.causation_id,
            data,
        }
    }
}

/// An event as it is shown, personal values still sealed.
pub fn shown_event(event: &RecordedEvent) -> Value {
    to_json(ShownEvent::of(event, shown_data(event)))
}

/// What an event says, personal values still sealed; null where it was removed.
pub fn shown_data(event: &RecordedEvent) -> Value {
    event.payload.as_deref().and_then(|payload| serde_json::from_str(payload).ok()).unwrap_or_default()
}

/// Its operations.
pub(super) fn operations() -> Vec<Operation> {
    vec![
        Operation::query(Method::GET, "/events", "audit.event.list", AUDIT_READ)
            .about(
                "Read the tenant's history, oldest first",
                "All of it in order, from the beginning or after a sequence. `has_more` may be true with few or no \
                 events on a page that searched far for what the filters want: go on with `next_cursor`.",
            )
            .takes::<EventsQuery>()
            .paged()
            .answers(schema::events)
            .handled(list),
        Operation::query(Method::GET, "/event-types", "audit.event_type.list", AUDIT_READ)
            .about("List the types of events, with their schemas and how many there are", "")
            .answers(event_types)
            .handled(list_types),
    ]
}

/// Which events are wanted.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct EventsQuery {
    /// Only those after this sequence: bare, or as `Annals-Read-Sequence` gave it, which also tells where the log was
    /// restored since.
    #[serde(default)]
    #[schemars(schema_with = "after_schema")]
    after: Option<String>,
    /// Only this type: `order.placed`.
    #[serde(rename = "type", default)]
    #[schemars(schema_with = "type_schema")]
    event_type: Option<String>,
    /// Only those of this resource: its id.
    #[serde(default)]
    #[schemars(schema_with = "any_id_schema")]
    stream: Option<AnyId>,
}

fn after_schema(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "anyOf": [{ "type": "integer", "minimum": 0 }, { "type": "string", "pattern": TOKEN }] })
}

fn type_schema(_: &mut SchemaGenerator) -> Schema {
    let names: Vec<&str> = domain::catalogue().iter().map(|kind| kind.name).collect();
    json_schema!({ "type": "string", "enum": names })
}

/// What a query asks for.
pub(super) struct Wanted {
    /// Only what comes after this.
    pub(super) after: Option<Token>,
    /// What the log is asked for.
    pub(super) filter: EventFilter,
    /// The type of the stream, where one is named: ids of different types may have the same number.
    kind: Option<&'static str>,
}

impl Wanted {
    /// Reads the parameters.
    pub(super) fn of(call: &Call) -> Result<Self, Problem> {
        let EventsQuery { after, event_type, stream } = call.query.clone().typed()?;
        let after = after.map(|text| Self::token("?after", &text)).transpose()?;
        let known = |name: &String| domain::catalogue().iter().any(|kind| kind.name == *name);
        if event_type.as_ref().is_some_and(|name| !known(name)) {
            return Err(Problem::field("?type", "is no type of event; `GET /event-types` lists them"));
        }
        let kind = stream.as_ref().map(|id| match names::stream_type_of_prefix(id.prefix()) {
            Some(kind) => Ok(kind.name),
            None => Err(Problem::field("?stream", "must be the id of a resource, such as ord_…")),
        });
        let filter = EventFilter { event_type, stream: stream.map(|id| id.uuid()) };
        Ok(Self { after, filter, kind: kind.transpose()? })
    }

    /// A sequence as clients hold it.
    pub(super) fn token(field: &str, text: &str) -> Result<Token, Problem> {
        text.parse().map_err(|_| Problem::field(field, "must be a sequence, from 0 up, such as 12 or 12@3"))
    }

    /// Whether an event that the log has found is wanted.
    pub(super) fn takes(&self, event: &RecordedEvent) -> bool {
        self.kind.is_none_or(|kind| event.stream_type == kind)
    }
}

async fn list(call: Call) -> Result<Answer, Problem> {
    let wanted = Wanted::of(&call)?;
    let place = token_place(call.cursor().await?)?;
    let head = call.head().await?;
    // A bare number may come from an event, where sequences are plain; a cursor and a longer one say what they belong to.
    if let Some(token) = place.or(wanted.after.filter(|after| after.incarnation > 1)) {
        call.stands(token).await?;
    }
    let begin = place.or(wanted.after).map_or(0, |token| token.number);
    let (events, stands) = search(&call, begin, head, &wanted).await?;
    let more = stands < head;
    let next = if more { Some(next_cursor(&call, stands).await?) } else { None };
    let data: Vec<Value> = events.iter().map(shown_event).collect();
    let body = json!({ "object": "list", "data": data, "has_more": more, "next_cursor": next });
    Ok(Answer::new(body).has_seen(head, 0.0))
}

/// A cursor that goes on after a sequence, and says in which life of the log: in another one it would pass events over.
async fn next_cursor(call: &Call, sequence: i64) -> Result<String, Problem> {
    let Token { number, incarnation } = call.state.executor.store().token(call.tenant().uuid(), sequence).await?;
    call.next_cursor(&[number.to_be_bytes(), incarnation.to_be_bytes()].concat()).await
}

/// The token in such a cursor.
fn token_place(place: Option<Vec<u8>>) -> Result<Option<Token>, Problem> {
    let read = |bytes: Vec<u8>| {
        let number = |bytes: &[u8]| bytes.try_into().ok().map(i64::from_be_bytes);
        let (sequence, incarnation) = bytes.split_at_checked(8)?;
        Some(Token { number: number(sequence)?, incarnation: number(incarnation)? })
    };
    place.map(|bytes| read(bytes).ok_or_else(|| Problem::of(codes::INVALID_CURSOR))).transpose()
}

/// At most a page of events after `begin`, and the sequence up to which was searched.
async fn search(call: &Call, begin: i64, head: i64, wanted: &Wanted) -> Result<(Vec<RecordedEvent>, i64), Problem> {
    let store = call.state.executor.store();
    let mut events = Vec::new();
    let mut stands = begin;
    while stands < head && stands - begin < MOST {
        let room = call.page.limit - events.len();
        let span = SPAN.min(head - stands);
        let found = store.read_tenant(call.tenant().uuid(), stands, span, &wanted.filter, room as i64).await?;
        let full = found.len() == room;
        stands = match found.last() {
            Some(last) if full => last.sequence,
            _ => stands + span,
        };
        events.extend(found.into_iter().filter(|event| wanted.takes(event)));
        if events.len() == call.page.limit {
            break;
        }
    }
    Ok((events, stands.max(begin).min(head.max(begin))))
}

/// A type of event.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "EventType")]
struct ShownType {
    /// Always `event_type`.
    object: &'static str,
    /// Its name, permanent.
    #[serde(rename = "type")]
    name: &'static str,
    /// The version that is written today.
    schema_version: i32,
    /// What it says.
    description: &'static str,
    /// The JSON schema (2020-12) of its data.
    schema: Value,
    /// How many of them the tenant has.
    count: i64,
}

fn event_types(generator: &mut SchemaGenerator) -> Schema {
    let entry = generator.subschema_for::<ShownType>();
    schema::list(entry)
}

async fn list_types(call: Call) -> Result<Answer, Problem> {
    call.query.clone().typed::<crate::extract::query::Nothing>()?;
    let (point, age) = call.await_model(AUDIT_ENTRIES).await?;
    let counts = call.state.models.event_types(call.tenant().uuid()).await.map_err(|error| call.behind(error))?;
    let counts: HashMap<String, i64> = counts.into_iter().map(|entry| (entry.event_type, entry.count)).collect();
    let types = domain::catalogue().into_iter().map(|kind| {
        to_json(ShownType {
            object: "event_type",
            name: kind.name,
            schema_version: kind.schema_version,
            description: kind.about,
            schema: (kind.schema)().to_value(),
            count: counts.get(kind.name).copied().unwrap_or(0),
        })
    });
    let data: Vec<Value> = types.collect();
    let body = json!({ "object": "list", "data": data, "has_more": false, "next_cursor": null });
    Ok(Answer::new(body).has_read(point, age))
}
