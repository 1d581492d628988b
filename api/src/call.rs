//! One request on its way through an operation: authenticated, authorised, parsed.

use std::sync::Arc;
use std::time::Duration;

use axum::http::{HeaderValue, header};
use chrono::{DateTime, Utc};
use commands::{CommandContext, Keyed};
use domain::{Aggregate, Context, TenantId, TypedId};
use eventstore::{Metadata, Standing, Token, chain};
use projections::{Behind, ReadError, ReadPoint};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::as_of::{self, AsOfError};
use crate::cursor;
use crate::extract::auth::Principal;
use crate::extract::headers::{Headers, READ_SEQUENCE, SEQUENCE};
use crate::extract::ids::Target;
use crate::extract::query::{Page, Query};
use crate::extract::trace::Trace;
use crate::operation::{Answer, Keys, Operation, Tokens};
use crate::problem::{Problem, codes};
use crate::state::State;

/// How long a reader waits for a write that it must see.
const PATIENCE: Duration = Duration::from_secs(5);

/// A request that an operation carries out.
#[derive(Clone)]
pub struct Call {
    /// What the process has.
    pub state: Arc<State>,
    /// The operation.
    pub operation: &'static Operation,
    /// Who asks.
    pub principal: Principal,
    /// The request's id and place in a trace.
    pub trace: Trace,
    /// What its headers ask for.
    pub headers: Headers,
    /// The `{id}` in its path, as it was written.
    pub path_id: Option<String>,
    /// The `{name}` in its path.
    pub path_name: Option<String>,
    /// Its parameters but for those of a page.
    pub query: Query,
    /// Which part of a list it wants.
    pub page: Page,
    /// Its body; `{}` where an optional one was left out.
    pub body: Value,
    /// When it came.
    pub now: DateTime<Utc>,
}

impl Call {
    /// Whose data is asked for.
    pub fn tenant(&self) -> TenantId {
        self.principal.tenant
    }

    /// The circumstances of a command, said to have happened at `occurred_at` where an import says so.
    pub fn command(&self, occurred_at: Option<DateTime<Utc>>) -> CommandContext {
        let mut ctx = Context::new(self.tenant(), self.principal.actor, self.now);
        if let Some(at) = occurred_at {
            ctx = ctx.at(at);
        }
        let mut command = CommandContext::new(ctx, self.operation.name);
        let seen = self.headers.if_match;
        (command.if_match, command.if_match_in) = seen.map(|token| (token.number, token.incarnation)).unzip();
        command.metadata = Metadata {
            request_id: Some(self.trace.request_id.clone()),
            traceparent: Some(self.trace.parent.to_string()),
            correlation_id: Some(self.trace.request_id.clone()),
            ..Metadata::default()
        };
        command
    }

    /// The caller's key and what it stands for: the operation, the resource in the path and the body (or one item of it).
    pub async fn keyed(&self, body: &Value) -> Result<Option<Keyed>, Problem> {
        let key = match (&self.headers.idempotency_key, self.operation.keys) {
            (Some(key), Keys::Accepted | Keys::Required) => key,
            (None, Keys::Required) => return Err(Problem::of(codes::IDEMPOTENCY_KEY_MISSING)),
            (None, Keys::Accepted) | (_, Keys::None) => return Ok(None),
        };
        let request = match &self.path_id {
            Some(id) => json!({ "id": id, "body": body }),
            None => body.clone(),
        };
        let (tenant, principal) = (self.tenant(), self.principal.actor.to_string());
        let status = i16::try_from(self.operation.status).unwrap_or(200);
        let executor = &self.state.executor;
        Ok(Some(executor.keyed(tenant, &principal, self.operation.name, key, &request, status).await?))
    }

    /// The resource that the path names.
    pub async fn target<A: Aggregate>(&self) -> Result<A::Id, Problem> {
        let text = self.path_id.as_deref().unwrap_or_default();
        match Target::parse::<A>(text).map_err(|_| Problem::not_found())? {
            Target::Ours(id) => Ok(A::Id::from(id)),
            Target::External(external) => {
                let found = self.state.executor.resolve(self.tenant(), A::STREAM, external.as_str()).await?;
                found.map(A::Id::from).ok_or_else(Problem::not_found)
            }
        }
    }

    /// Refuses a time that has not come.
    pub fn not_in_the_future(&self, pointer: &str, time: DateTime<Utc>) -> Result<(), Problem> {
        if time <= self.now {
            return Ok(());
        }
        Err(Problem::field(pointer, "must not lie in the future"))
    }

    /// The last sequence of the tenant; refuses where the caller has seen one that was lost, or claims to have seen a later
    /// one.
    pub async fn head(&self) -> Result<i64, Problem> {
        if let Some(minimum) = self.headers.min_sequence {
            self.stands(minimum).await?;
        }
        let head = self.state.executor.store().tenant_head(self.tenant().uuid()).await?;
        match self.headers.min_sequence {
            Some(minimum) if minimum.number > head => {
                let detail = format!("is beyond {head}, the last sequence of this tenant");
                Err(Problem::field("Annals-Min-Sequence", detail))
            }
            _ => Ok(head),
        }
    }

    /// Refuses a sequence that was lost when the log was restored.
    pub async fn stands(&self, token: Token) -> Result<(), Problem> {
        match self.state.executor.store().standing(self.tenant().uuid(), token).await? {
            Standing::Stands => Ok(()),
            Standing::Lost { survived } => Err(Problem::log_restored(survived)),
        }
    }

    /// Writes into an answer's headers what the caller is given to hold.
    pub async fn give(&self, mut answer: Answer) -> Result<Answer, Problem> {
        let Tokens { tag, wrote, seen } = answer.tokens;
        let (store, tenant) = (self.state.executor.store(), self.tenant().uuid());
        let text = |text: String| HeaderValue::from_str(&text).map_err(|error| Problem::internal(&error));
        if let Some((number, sequence)) = tag {
            let Token { incarnation, .. } = store.token(tenant, sequence).await?;
            answer.headers.push((header::ETAG, text(format!("\"{}\"", Token { number, incarnation }))?));
        }
        for (name, sequence) in [(SEQUENCE, wrote), (READ_SEQUENCE, seen)] {
            if let Some(sequence) = sequence {
                answer = answer.with(name, text(store.token(tenant, sequence).await?.to_string())?);
            }
        }
        Ok(answer)
    }

    /// Waits until a read model has seen what the caller wants seen, and nothing that was lost; gives how far it has come, and how many seconds ago
    /// that was the newest.
    pub async fn await_model(&self, projector: &str) -> Result<(ReadPoint, f64), Problem> {
        self.await_models(&[projector], 0).await
    }

    /// The same of several read models, which must also have seen a sequence: how far all of them have come.
    pub async fn await_models(&self, projectors: &[&str], least: i64) -> Result<(ReadPoint, f64), Problem> {
        let (tenant, head) = (self.tenant().uuid(), self.head().await?);
        let incarnation = self.state.executor.store().tail().incarnation();
        let least = self.headers.min_sequence.map_or(0, |minimum| minimum.number).max(least);
        let mut all = Vec::with_capacity(projectors.len());
        for projector in projectors {
            let point = self.state.models.wait(projector, tenant, incarnation, least, PATIENCE).await;
            all.push(point.map_err(|error| self.behind(error))?);
        }
        let parked = all.iter().map(|point| point.parked).sum();
        let least = all.into_iter().min_by_key(|point| point.sequence);
        let mut point = least.ok_or_else(Problem::unavailable)?;
        point.parked = parked;
        Ok((point, point.age_seconds(head)))
    }

    /// The problem behind a read model's failure.
    pub fn behind(&self, error: ReadError) -> Problem {
        match error {
            ReadError::Behind(Behind { point, wanted }) => {
                let lag = wanted - point.sequence;
                if lag <= 0 {
                    let detail = "The log was restored, and this list or report does not follow it yet. Repeat the request \
                        in a second.";
                    return Problem::new(codes::READ_MODEL_BEHIND, detail).retry_after(1);
                }
                let detail = format!(
                    "This list or report has seen sequence {}, {lag} short of what `Annals-Min-Sequence` or a moment in the \
                     query asks for. Repeat the request in a second, or ask for less.",
                    point.sequence
                );
                Problem::new(codes::READ_MODEL_BEHIND, detail)
                    .with("sequence", point.sequence)
                    .with("lag", lag)
                    .retry_after(1)
            }
            ReadError::MadeAnew => {
                let detail = "What this list or report is read from is being made anew by a new version of Annals. Repeat the \
                    request in some seconds.";
                Problem::new(codes::READ_MODEL_BEHIND, detail).retry_after(5)
            }
            ReadError::UnknownTimeZone(zone) => {
                Problem::field("time_zone", format!("`{zone}` is not a time zone such as UTC or Europe/Berlin"))
            }
            ReadError::TooManyPeriods { most } => {
                Problem::field("interval", format!("gives more than {most} periods; narrow the range or widen it"))
            }
            ReadError::SumTooLarge => {
                let detail = format!("takes in amounts that come to more than {}; narrow the range", i64::MAX);
                Problem::field("from", detail)
            }
            ReadError::UnknownColumn(_) | ReadError::Malformed(_) => Problem::internal(&error),
            ReadError::Database(_) => {
                tracing::error!(error = chain(&error), "the read models failed a request");
                Problem::unavailable()
            }
        }
    }

    /// Whether other tenants ask for something, too, here or of another process.
    pub fn beside_others(&self) -> bool {
        self.state.executor.store().callers().others_than(self.tenant().uuid())
    }

    /// Where the part before this one ended, from the caller's cursor.
    pub async fn cursor(&self) -> Result<Option<Vec<u8>>, Problem> {
        let Some(text) = &self.page.cursor else { return Ok(None) };
        let key = self.cursor_key().await?;
        cursor::open(&key, &self.cursor_scope(), text).map(Some)
    }

    /// A cursor that goes on after `place`.
    pub async fn next_cursor(&self, place: &[u8]) -> Result<String, Problem> {
        let key = self.cursor_key().await?;
        cursor::seal(&key, &self.cursor_scope(), place)
    }

    async fn cursor_key(&self) -> Result<[u8; 32], Problem> {
        Ok(self.state.executor.vault().claim_key(self.tenant().uuid(), "cursor", "v1").await?)
    }

    /// What a cursor is good for: tenant, operation, resource, filters, and the body of a query that has one.
    fn cursor_scope(&self) -> String {
        let id = self.path_id.as_deref().unwrap_or_default();
        let body = if self.operation.body.is_some() { self.body.to_string() } else { String::new() };
        format!("{}\n{}\n{id}\n{}\n{body}", self.tenant(), self.operation.name, self.query.canonical())
    }

    /// Opens a body's personal values for who may see them, and makes them null for all others. Secrets are shown to
    /// nobody.
    pub async fn show(&self, body: &mut Value) -> Result<(), Problem> {
        commands::Vault::hide_secrets(body);
        if self.principal.sees_personal() {
            self.state.executor.vault().open_value(self.tenant().uuid(), body).await?;
        } else {
            commands::Vault::mask(body);
        }
        Ok(())
    }

    /// The sequence that a field means: one of the tenant's, or the highest that was recorded by a time.
    pub async fn sequence_of(&self, pointer: &str, moment: &str) -> Result<i64, Problem> {
        let sequence = as_of::sequence_of(self.state.executor.store(), self.tenant(), moment).await;
        sequence.map_err(|error| match error {
            AsOfError::Lost { survived } => Problem::log_restored(survived),
            AsOfError::Store(error) => error.into(),
            wrong @ (AsOfError::Malformed | AsOfError::Beyond { .. } | AsOfError::Future) => {
                Problem::field(pointer, wrong.to_string())
            }
        })
    }
}

/// A page of a list, and where the next one begins.
pub async fn page_of<T>(
    call: &Call,
    mut entries: Vec<T>,
    place: impl Fn(&T) -> Vec<u8>,
    show: impl FnMut(T) -> Value,
) -> Result<Value, Problem> {
    let more = entries.len() > call.page.limit;
    entries.truncate(call.page.limit);
    let next = match entries.last() {
        Some(last) if more => Some(call.next_cursor(&place(last)).await?),
        _ => None,
    };
    let data: Vec<Value> = entries.into_iter().map(show).collect();
    Ok(json!({ "object": "list", "data": data, "has_more": more, "next_cursor": next }))
}

/// The UUID in a cursor.
pub fn uuid_place(place: Option<Vec<u8>>) -> Result<Option<Uuid>, Problem> {
    let read = |bytes: Vec<u8>| Uuid::from_slice(&bytes).map_err(|_| Problem::of(codes::INVALID_CURSOR));
    place.map(read).transpose()
}

/// The number in a cursor.
pub fn number_place(place: Option<Vec<u8>>) -> Result<Option<i64>, Problem> {
    let read = |bytes: Vec<u8>| {
        let bytes = bytes.try_into().map_err(|_| Problem::of(codes::INVALID_CURSOR))?;
        Ok(i64::from_be_bytes(bytes))
    };
    place.map(read).transpose()
}
