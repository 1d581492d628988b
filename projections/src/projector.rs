//! What a projector is: it turns events into rows, set by set, inside a transaction that somebody else opens and commits.

use std::sync::Arc;

use async_trait::async_trait;
use domain::DecodeError;
use eventstore::RecordedEvent;
use sqlx::PgConnection;

/// Turns events into the rows of one read model.
///
/// It is given events in order, each exactly once, and writes only tables of its own. The runtime keeps its checkpoint
/// in the same transaction.
#[async_trait]
pub trait Projector: Send + Sync + 'static {
    /// Its permanent name: that of its table and its checkpoint.
    fn name(&self) -> &'static str;

    /// Raised whenever the same events would give other rows: what was made before must be made anew.
    fn revision(&self) -> i32;

    /// The tables that it writes: nobody else does, and every row has its generation.
    fn tables(&self) -> &'static [&'static str];

    /// Whether it reads streams of that type. Of the others it only notes how far it has come.
    fn interested(&self, stream_type: &str) -> bool;

    /// Writes the rows of these events into that generation.
    async fn project(
        &self,
        generation: i32,
        events: &[Arc<RecordedEvent>],
        conn: &mut PgConnection,
    ) -> Result<(), ProjectError>;
}

/// Why a batch could not be projected.
#[derive(Debug, thiserror::Error)]
pub enum ProjectError {
    /// An event that this binary can't read.
    #[error("the event at position {position} can't be read")]
    Decode {
        /// Its position.
        position: i64,
        /// Why.
        #[source]
        source: DecodeError,
    },
    /// A state that can't be read or written as JSON.
    #[error("a document's state is no valid state")]
    State(#[from] serde_json::Error),
    /// An event that does not follow on what the read model has of its stream.
    #[error("the event at position {position} does not follow on version {follows} of its stream")]
    OutOfOrder {
        /// Its position.
        position: i64,
        /// What the read model has.
        follows: i64,
    },
    /// Postgres refuses or does not answer.
    #[error("the read models' database fails")]
    Database(#[from] sqlx::Error),
}

impl ProjectError {
    /// Whether trying again would fail again: the data is at fault, not the moment.
    pub fn is_deterministic(&self) -> bool {
        match self {
            Self::Decode { .. } | Self::State(_) | Self::OutOfOrder { .. } => true,
            // Class 22 is "data exception", class 23 is "integrity constraint violation".
            Self::Database(error) => error
                .as_database_error()
                .and_then(|error| error.code())
                .is_some_and(|code| code.starts_with("22") || code.starts_with("23")),
        }
    }

    /// Whether a newer binary could apply the event: then the projector waits for one and passes over nothing.
    pub(crate) fn waits_for_a_newer_binary(&self) -> bool {
        matches!(self, Self::Decode { source: DecodeError::Unknown { .. }, .. })
    }

    /// What is kept of it beside a parked stream: which rule was broken, and no value of an event or a row, which may be
    /// about somebody.
    pub(crate) fn told(&self) -> String {
        match self {
            Self::Decode { source, .. } => format!("{self}: {source}"),
            Self::State(error) => format!("{self} (line {}, column {})", error.line(), error.column()),
            Self::OutOfOrder { .. } => self.to_string(),
            Self::Database(error) => match error.as_database_error() {
                Some(error) => format!(
                    "the database refuses a row: {} {}",
                    error.code().unwrap_or_default(),
                    error.constraint().unwrap_or_default()
                ),
                None => self.to_string(),
            },
        }
    }

    /// The position of the event that is at fault, where it is known.
    pub(crate) fn culprit(&self) -> Option<i64> {
        match self {
            Self::Decode { position, .. } | Self::OutOfOrder { position, .. } => Some(*position),
            Self::State(_) | Self::Database(_) => None,
        }
    }
}

/// The event as its aggregate sees it; `None` where its body was redacted.
pub(crate) fn decode<E: domain::Event>(event: &RecordedEvent) -> Result<Option<E>, ProjectError> {
    event.decode().map_err(|source| ProjectError::Decode { position: event.position, source })
}
