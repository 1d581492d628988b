//! Our log as a `cqrs_es::EventStore`, so that a `CqrsFramework` runs on it unchanged. Ids are ours (`cus_…`).
//!
//! Values that `decide` leaves open are refused here: sealing is the executor's, and nothing is stored in the clear.

use std::collections::HashMap;

use cqrs_es::{AggregateError, EventEnvelope};
use domain::cqrs::{Adapted, Stored};
use domain::{Aggregate, Context, Event, TypedId};
use futures::TryStreamExt;

use crate::append::{Append, AppendError, StreamAppend};
use crate::event::NewEvent;
use crate::fold::Loaded;
use crate::read::Until;
use crate::store::{EventStore, new_id};

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
        let mut events = self.store.stream(self.ctx.tenant.uuid(), id.uuid(), Until::End);
        let mut envelopes = Vec::new();
        while let Some(event) = events.try_next().await.map_err(unexpected)? {
            let decoded = event.decode::<A::Event>();
            let decoded = decoded.map_err(|error| AggregateError::DeserializationError(Box::new(error)))?;
            envelopes.extend(decoded.map(|payload| EventEnvelope {
                aggregate_id: id.to_string(),
                sequence: usize::try_from(event.version).unwrap_or_default(),
                payload: Stored(payload),
                metadata: HashMap::new(),
            }));
        }
        Ok(envelopes)
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
