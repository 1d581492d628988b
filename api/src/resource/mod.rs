//! The operations that every resource has, for any aggregate that says what it is called: create, batch, get (also as of
//! a moment), list, change, act, history. A context's file adds its bodies, its rules' problems and what is odd.

use std::marker::PhantomData;

use axum::http::Method;
use chrono::{DateTime, SecondsFormat, Utc};
use commands::{ExecuteError, Receipt};
use domain::names::Scope;
use domain::{Aggregate, AnyId, StreamType};
use eventstore::Loaded;
use projections::{Documented, documents};
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use crate::call::Call;
use crate::extract::ids::Target;
use crate::extract::query::Nothing;
use crate::intent::Intent;
use crate::operation::{Answer, Operation, RateClass};
use crate::problem::{Problem, codes};
use crate::schema;

mod read;
mod write;

pub use read::{AsOf, shown_document};
pub use write::create;

/// The most items that a batch may have.
pub const MAX_ITEMS: usize = 1_000;
/// Where the API begins.
pub const BASE: &str = "/api/v1";

/// An aggregate that the API shows.
pub trait Resource: Aggregate + JsonSchema {
    /// What one is called: `customer`.
    const OBJECT: &'static str;
    /// Where they are: `/customers`.
    const PATH: &'static str;
    /// What a key needs to read them.
    const READ: Scope;
    /// What a key needs to create and change them.
    const WRITE: Scope;
    /// What lists can be filtered by.
    const FILTERS: &'static [Filter] = &[];
    /// What is shown beside the state.
    const BESIDE: &'static [Beside] = &[];

    /// The problem behind each rule that may be broken: one exhaustive match.
    fn problem(error: Self::Error) -> Problem;
}

/// A parameter that a list can be filtered by.
#[derive(Clone, Copy, Debug)]
pub struct Filter {
    /// The parameter.
    pub name: &'static str,
    /// The column of the documents.
    pub column: &'static str,
    /// What it takes.
    pub schema: SchemaOf,
    kind: FilterKind,
}

type SchemaOf = fn(&mut SchemaGenerator) -> Schema;

#[derive(Clone, Copy, Debug)]
enum FilterKind {
    /// A word of a type: a status, a currency. The function says whether it is one.
    Word(fn(&str) -> Result<(), Problem>),
    /// A resource of that kind, by our id or the caller's.
    Id { stream: StreamType, parse: fn(&str) -> Result<Target, String> },
}

impl Filter {
    /// By a word of that type: a status, a currency, a country.
    pub const fn word<T: DeserializeOwned + JsonSchema>(name: &'static str) -> Self {
        fn check<T: DeserializeOwned>(text: &str) -> Result<(), Problem> {
            // The status of what is not there is never shown, and nothing can be found by it.
            let text = if text == "none" { "" } else { text };
            crate::strict::typed::<T>(Value::from(text)).map(|_| ())
        }
        let schema: SchemaOf = |generator| {
            let schema = generator.subschema_for::<T>();
            schema::without_none(generator, schema.as_value());
            schema
        };
        Self { name, column: name, schema, kind: FilterKind::Word(check::<T>) }
    }

    /// By another resource.
    pub const fn id<A: Aggregate>(name: &'static str, column: &'static str) -> Self {
        let schema: SchemaOf = |_| crate::extract::ids::id_schema(A::STREAM.prefix);
        Self { name, column, schema, kind: FilterKind::Id { stream: A::STREAM, parse: Target::parse::<A> } }
    }
}

/// A field that is shown beside the state, and follows from it.
#[derive(Clone, Copy, Debug)]
pub struct Beside {
    /// The field.
    pub name: &'static str,
    /// What it is.
    pub schema: SchemaOf,
    /// Its value, from what is shown before it (the id, the state) and the moment of the first event.
    pub value: fn(&Map<String, Value>, DateTime<Utc>) -> Value,
}

/// A time as the API writes it.
pub fn time(time: DateTime<Utc>) -> String {
    time.to_rfc3339_opts(SecondsFormat::AutoSi, true)
}

/// A resource as it is shown, personal values still sealed.
pub fn shown<A: Resource>(id: A::Id, state: Value, created_at: DateTime<Utc>, updated_at: DateTime<Utc>) -> Value {
    let state = if let Value::Object(state) = state { state } else { Map::new() };
    let mut shown = Map::with_capacity(state.len() + A::BESIDE.len() + 4);
    shown.insert("id".into(), id.to_string().into());
    shown.insert("object".into(), A::OBJECT.into());
    shown.extend(state);
    for beside in A::BESIDE {
        let value = (beside.value)(&shown, created_at);
        shown.insert(beside.name.into(), value);
    }
    shown.insert("created_at".into(), time(created_at).into());
    shown.insert("updated_at".into(), time(updated_at).into());
    Value::Object(shown)
}

/// The same, of a state that was folded.
pub fn shown_state<A: Resource>(id: A::Id, loaded: &Loaded<A>) -> Result<Value, Problem> {
    let state = serde_json::to_value(&loaded.state).map_err(|error| Problem::internal(&error))?;
    Ok(shown::<A>(id, state, loaded.created_at, loaded.updated_at))
}

/// The problem behind a command that had no effect.
pub fn refusal<A: Resource>(call: &Call, error: ExecuteError<A::Error>) -> Problem {
    match error {
        ExecuteError::Rule(rule) => A::problem(rule),
        ExecuteError::VersionConflict { actual } if call.headers.if_match.is_some() => {
            let detail = format!(
                "The resource stands at version {actual}. GET it, decide again, and send its new `ETag` in `If-Match`."
            );
            Problem::new(codes::VERSION_CONFLICT, detail).with("version", actual)
        }
        ExecuteError::VersionConflict { .. } | ExecuteError::Unavailable => Problem::unavailable(),
        ExecuteError::LogRestored { survived } => Problem::log_restored(survived),
        ExecuteError::NameTaken { kind, holder } => name_taken(&kind, AnyId::new(A::STREAM.prefix, holder)),
        ExecuteError::KeyReused => Problem::of(codes::IDEMPOTENCY_KEY_REUSED),
        ExecuteError::KeyInProgress => Problem::of(codes::IDEMPOTENCY_IN_PROGRESS).retry_after(1),
        ExecuteError::SubjectErased => Problem::of(codes::SUBJECT_ERASED),
        ExecuteError::TooLarge { bytes } => {
            Problem::new(codes::PAYLOAD_TOO_LARGE, format!("This would be an event of {bytes} bytes. Send less."))
        }
        ExecuteError::Refused(_) => Problem::internal(&error),
    }
}

/// `commerce.customer.email` is taken by another.
fn name_taken(kind: &str, holder: AnyId) -> Problem {
    let field = kind.rsplit('.').next().unwrap_or(kind);
    let detail = format!("`{holder}` has this `{field}` already. Use that one, or choose another `{field}`.");
    Problem::new(codes::ALREADY_EXISTS, detail)
        .with("existing", holder.to_string())
        .with_error(format!("/{field}"), format!("is taken by `{holder}`"))
}

/// The operations of a resource.
#[derive(Clone, Copy, Debug)]
pub struct Of<A>(PhantomData<fn() -> A>);

/// Begins the list of a resource's operations.
pub fn resource<A: Resource>() -> Of<A> {
    Of(PhantomData)
}

impl<A: Resource> Of<A> {
    fn name(verb: &str) -> String {
        format!("{}.{verb}", A::STREAM.name)
    }

    fn object() -> String {
        A::OBJECT.replace('_', " ")
    }

    /// `POST /things`.
    pub fn create<I: Intent<A>>(&self, summary: &'static str, about: &'static str) -> Operation {
        Operation::command(Method::POST, A::PATH, Self::name("create"), A::WRITE)
            .about(summary, about)
            .status(201)
            .body::<I>(I::example)
            .answers(schema::shown::<A>)
            .refuses(&[codes::ALREADY_EXISTS])
            .tagged()
            .handled(|call| async move { Ok(create::<A, I>(&call).await?.1) })
    }

    /// `POST /things/batch`.
    pub fn batch<I: Intent<A>>(&self) -> Operation {
        let about = "Each item succeeds or fails by itself, and has its own status; pointers in its problem begin with \
            `/items/<index>`. `Annals-Sequence` is the highest of all items.";
        let mut operation =
            Operation::command(Method::POST, format!("{}/batch", A::PATH), Self::name("create_batch"), A::WRITE)
                .about(format!("Create up to {MAX_ITEMS} at once"), about)
                .rate(RateClass::Batch)
                .body::<I>(|| serde_json::json!({ "items": [I::example()] }))
                .answers(schema::batched::<A>)
                .handled(|call| async move { write::batch::<A, I>(call).await });
        if let Some(body) = &mut operation.body {
            body.schema = |generator| schema::batch_of(generator, |generator| generator.subschema_for::<I>());
        }
        operation
    }

    /// `GET /things/{id}`, now or as of a moment.
    pub fn get(&self) -> Operation {
        Operation::query(Method::GET, format!("{}/{{id}}", A::PATH), Self::name("get"), A::READ)
            .about(
                format!("Get one {}", Self::object()),
                "Always the newest version, whatever the read models lag. With `as_of`, the version that stood then.",
            )
            .takes::<read::AsOf>()
            .answers(schema::shown::<A>)
            .tagged()
            .handled(|call| async move { read::get::<A>(call).await })
    }

    /// `GET /things`, of those that are kept as documents.
    pub fn list(&self) -> Operation
    where
        A: Documented,
    {
        let about =
            A::HISTORY.map_or("", |_| "With `as_of`, those that there were at that moment, as they stood then.");
        let mut operation = Operation::query(Method::GET, A::PATH, Self::name("list"), A::READ)
            .about(format!("List {}s, newest first", Self::object()), about)
            .paged()
            .answers(schema::listed::<A>)
            .handled(|call| async move { read::list::<A>(call).await });
        operation.parameters = schema::filters_of::<A>;
        operation
    }

    /// `GET /things/{id}/history`.
    pub fn history(&self) -> Operation {
        Operation::query(Method::GET, format!("{}/{{id}}/history", A::PATH), Self::name("history"), A::READ)
            .about(format!("List the events of one {}, newest first", Self::object()), "")
            .paged()
            .answers(schema::events)
            .handled(|call| async move { read::history::<A>(call).await })
    }

    /// `PATCH /things/{id}`.
    pub fn change<I: Intent<A>>(&self, summary: &'static str, about: &'static str) -> Operation {
        Operation::command(Method::PATCH, format!("{}/{{id}}", A::PATH), Self::name("change"), A::WRITE)
            .about(summary, about)
            .body::<I>(I::example)
            .answers(schema::shown::<A>)
            .conditional()
            .handled(|call| async move { write::change::<A, I>(&call).await })
    }

    /// `POST /things/{id}/verb`.
    pub fn act<I: Intent<A>>(&self, verb: &'static str, summary: &'static str, about: &'static str) -> Operation {
        self.act_with::<I>(verb, summary, about, I::example)
            .handled(|call| async move { write::act::<A, I>(&call).await })
    }

    fn act_with<B: JsonSchema>(
        &self,
        verb: &str,
        summary: &'static str,
        about: &'static str,
        example: fn() -> Value,
    ) -> Operation {
        Operation::command(Method::POST, format!("{}/{{id}}/{verb}", A::PATH), Self::name(verb), A::WRITE)
            .about(summary, about)
            .body::<B>(example)
            .body_optional()
            .answers(schema::shown::<A>)
            .conditional()
    }

    /// `POST /things/{id}/verb`, where the verb says it all.
    pub fn verb(
        &self,
        verb: &'static str,
        summary: &'static str,
        about: &'static str,
        command: fn(&Call) -> A::Command,
    ) -> Operation {
        self.act_with::<Nothing>(verb, summary, about, || serde_json::json!({}))
            .handled(move |call| async move { write::verb::<A>(&call, command).await })
    }
}

/// The answer to a command that created something, with its place.
pub fn receipt_of<A: Resource>(made: &Receipt<A>) -> Result<Answer, Problem> {
    Ok(receipt::<A>(made)?.at(&location::<A>(made.id)))
}

/// The answer to a command.
fn receipt<A: Resource>(receipt: &Receipt<A>) -> Result<Answer, Problem> {
    let answer =
        Answer::new(shown_state::<A>(receipt.id, &receipt.loaded)?).tagged(&receipt.loaded).wrote(receipt.sequence);
    Ok(if receipt.replayed { answer.replayed(receipt.status) } else { answer })
}

/// Where a resource is.
fn location<A: Resource>(id: A::Id) -> String {
    format!("{BASE}{}/{id}", A::PATH)
}

/// The document type of a resource.
fn document<A: Documented>() -> documents::DocumentType {
    documents::of::<A>()
}

/// What serde makes of a value of ours; null where it makes nothing, which none does.
pub fn to_json<T: Serialize>(value: T) -> Value {
    serde_json::to_value(value).unwrap_or_default()
}
