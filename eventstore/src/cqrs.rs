//! Our log as a `cqrs_es::EventStore`, so that a `CqrsFramework` runs on it unchanged. Ids are ours (`cus_…`).
//!
//! Values that `decide` leaves open are refused here: sealing is the executor's, and nothing is stored in the clear.

use std::collections::HashMap;

use cqrs_es::{AggregateError, EventEnvelope};
use domain::cqrs::{Adapted, Stored};
use domain::{Aggregate, Context, Event, TypedId};

use crate::append::{Append, AppendError, StreamAppend};
use crate::event::NewEvent;
use crate::fold::Loaded;
use crate::read::Until;
use crate::store::{EventStore, StoreError, new_id};

/// How many events of a stream are read at a time.
const PAGE: i64 = 500;

/// Our log, for one tenant and actor.
#[derive(Debug)]
pub struct CqrsStore {
    store: EventStore,
    ctx: Context,
}

impl CqrsStore {
    /// Appends under the circumstances of `ctx`.
    pub fn new(store: EventStore, ctx: Context) -> Self {
        Self { store, ctx }
    }
}

/// A loaded aggregate, as cqrs-es hands it around.
#[derive(Debug)]
pub struct CqrsContext<A: Aggregate> {
    id: A::Id,
    aggregate: Adapted<A>,
    version: i64,
    /// Of the log when it was loaded.
    epoch: i64,
}

impl<A: Aggregate> cqrs_es::AggregateContext<Adapted<A>> for CqrsContext<A> {
    fn aggregate(&mut self) -> &mut Adapted<A> {
        &mut self.aggregate
    }
}

fn unexpected<E: std::error::Error>(error: impl std::error::Error + Send + Sync + 'static) -> AggregateError<E> {
    AggregateError::UnexpectedError(Box::new(error))
}

impl<A: Aggregate> cqrs_es::EventStore<Adapted<A>> for CqrsStore {
    type AC = CqrsContext<A>;

    async fn load_events(&self, id: &str) -> Result<Vec<EventEnvelope<Adapted<A>>>, AggregateError<A::Error>> {
        let id: A::Id = id.parse().map_err(unexpected)?;
        let mut events = Vec::new();
        loop {
            let after = events.last().map_or(0, |event: &crate::RecordedEvent| event.version);
            let page = self.store.read_stream(self.ctx.tenant.uuid(), id.uuid(), after, Until::End, PAGE).await;
            let page = page.map_err(unexpected)?;
            let last = (page.len() as i64) < PAGE;
            events.extend(page);
            if last {
                break;
            }
        }
        let envelope = |event: &crate::RecordedEvent| {
            let payload = event.decode::<A::Event>()?;
            Ok(payload.map(|payload| EventEnvelope {
                aggregate_id: id.to_string(),
                sequence: usize::try_from(event.version).unwrap_or_default(),
                payload: Stored(payload),
                metadata: HashMap::new(),
            }))
        };
        let envelopes =
            events.iter().filter_map(|event| envelope(event).transpose()).collect::<Result<_, domain::DecodeError>>();
        envelopes.map_err(|error| AggregateError::DeserializationError(Box::new(error)))
    }

    async fn load_aggregate(&self, id: &str) -> Result<CqrsContext<A>, AggregateError<A::Error>> {
        let id: A::Id = id.parse().map_err(unexpected)?;
        let epoch = self.store.epoch();
        let loaded: Loaded<A> = self.store.load(self.ctx.tenant.uuid(), id, Until::End).await.map_err(unexpected)?;
        Ok(CqrsContext { id, aggregate: Adapted(loaded.state), version: loaded.version, epoch })
    }

    async fn commit(
        &self,
        events: Vec<Stored<A::Event>>,
        context: CqrsContext<A>,
        metadata: HashMap<String, String>,
    ) -> Result<Vec<EventEnvelope<Adapted<A>>>, AggregateError<A::Error>> {
        if events.is_empty() {
            return Ok(Vec::new());
        }
        let text = serde_json::to_string(&metadata).map_err(unexpected)?;
        let new = events.iter().map(|event| new_event(&self.ctx, &event.0, &text)).collect::<Result<Vec<_>, _>>();
        let stream = StreamAppend {
            stream_type: A::STREAM.name,
            stream_id: context.id.uuid(),
            expected_version: context.version,
            events: new.map_err(unexpected)?,
        };
        let append =
            Append { tenant: self.ctx.tenant.uuid(), epoch: context.epoch, streams: vec![stream], ..Append::default() };
        self.store.append(append).await.map_err(|error| match error {
            AppendError::Conflict { .. } | AppendError::LogRestored => AggregateError::AggregateConflict,
            error => unexpected(error),
        })?;
        let envelopes = events.into_iter().enumerate().map(|(index, payload)| EventEnvelope {
            aggregate_id: context.id.to_string(),
            sequence: usize::try_from(context.version).unwrap_or_default() + index + 1,
            payload,
            metadata: metadata.clone(),
        });
        Ok(envelopes.collect())
    }
}

/// A personal value that nobody sealed.
#[derive(Debug, thiserror::Error)]
enum NewEventError {
    #[error("an open personal value is never stored")]
    Open,
    #[error(transparent)]
    Json(#[from] serde_json::Error),
    #[error("no random bytes")]
    Random,
}

fn new_event<E: Event>(ctx: &Context, event: &E, metadata: &str) -> Result<NewEvent, NewEventError> {
    let payload = event.payload()?;
    if payload.contains("{\"$open\":") {
        return Err(NewEventError::Open);
    }
    let mut salt = [0; 16];
    getrandom::fill(&mut salt).map_err(|_| NewEventError::Random)?;
    let kind = event.event_type();
    Ok(NewEvent {
        event_id: new_id(),
        event_type: kind.name,
        schema_version: kind.schema_version,
        subjects: Vec::new(),
        actor: ctx.actor.to_string(),
        occurred_at: ctx.occurred_at,
        payload,
        metadata: metadata.to_owned(),
        salt,
    })
}

impl From<StoreError> for AppendError {
    fn from(_: StoreError) -> Self {
        Self::Unavailable
    }
}
