//! The state of one stream: its aggregate's own fold, with what the envelope says beside it.

use chrono::{DateTime, Utc};
use domain::{Aggregate, DecodeError, TypedId};
use futures::TryStreamExt;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::event::RecordedEvent;
use crate::read::Until;
use crate::store::{EventStore, StoreError};

/// An aggregate's state and where it stands.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Loaded<A> {
    /// All that the resource shows, personal values sealed.
    pub state: A,
    /// Of the last event that was folded; 0 where there is none.
    pub version: i64,
    /// The tenant's sequence of that event.
    pub sequence: i64,
    /// When the first event happened in the business.
    pub created_at: DateTime<Utc>,
    /// When the last event happened in the business.
    pub updated_at: DateTime<Utc>,
    /// Who is behind the first event.
    pub created_by: String,
}

impl<A: Default> Default for Loaded<A> {
    fn default() -> Self {
        let epoch = DateTime::<Utc>::UNIX_EPOCH;
        Self {
            state: A::default(),
            version: 0,
            sequence: 0,
            created_at: epoch,
            updated_at: epoch,
            created_by: String::new(),
        }
    }
}

impl<A: Aggregate> Loaded<A> {
    /// Folds one more event in; one whose body was redacted counts and changes nothing.
    pub fn fold(&mut self, event: &RecordedEvent) -> Result<(), DecodeError> {
        if let Some(decoded) = event.decode::<A::Event>()? {
            self.state.apply(decoded);
        }
        self.passed(event.version, event.sequence, event.occurred_at, &event.actor);
        Ok(())
    }

    /// Notes the envelope of an event that was applied.
    pub fn passed(&mut self, version: i64, sequence: i64, occurred_at: DateTime<Utc>, actor: &str) {
        if self.version == 0 {
            (self.created_at, self.updated_at) = (occurred_at, occurred_at);
            actor.clone_into(&mut self.created_by);
        }
        self.version = version;
        self.sequence = sequence;
        self.updated_at = self.updated_at.max(occurred_at);
    }

    /// Whether anything ever happened to it.
    pub fn exists(&self) -> bool {
        self.version > 0
    }
}

impl EventStore {
    /// Folds a stream; a default state in version 0 where there is none, or where it is of another kind.
    pub async fn load<A: Aggregate>(&self, tenant: Uuid, id: A::Id, until: Until) -> Result<Loaded<A>, StoreError> {
        let mut loaded = Loaded::default();
        let mut events = self.stream(tenant, id.uuid(), until);
        while let Some(event) = events.try_next().await? {
            if event.stream_type != A::STREAM.name {
                return Ok(Loaded::default());
            }
            loaded.fold(&event)?;
        }
        Ok(loaded)
    }
}
