//! A tenant's history as files: the same for the command line and for `/replays`. It streams: memory does not grow with the
//! log, and the same selection of the same log gives the same bytes, whoever writes them.
//!
//! Events come in chunks; each is shown, filtered and encoded apart ([`Selection::block`]), and a [`Sink`] takes the blocks
//! in order and makes files of them, wherever these are.

mod columns;
mod condition;
mod looks;
mod manifest;
mod selection;
mod sink;
mod table;
mod text;

pub use condition::{Condition, LONGEST};
pub use manifest::{Count, Manifest, Range, Written};
pub use selection::{Personal, Selection, UnknownType, near, wanted};
pub use sink::{Block, Place, Sink};

use commands::VaultError;
use eventstore::{StoreError, chain};

/// Why a replay ended before its end.
#[derive(Debug, thiserror::Error)]
pub enum ReplayError {
    /// The expression is neither true nor false of an event.
    #[error("at sequence {sequence}: {what}")]
    Condition {
        /// Of which.
        sequence: i64,
        /// What it is instead.
        what: String,
    },
    /// An event that no table can be made of.
    #[error("at sequence {sequence}: {what}")]
    Event {
        /// Which.
        sequence: i64,
        /// Why not.
        what: String,
    },
    /// The log went back to an earlier moment while it was read.
    #[error("the log has no sequence {0} any more")]
    Gone(i64),
    /// The process ends.
    #[error("the process ends")]
    Closing,
    /// The log does not answer.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Personal values can't be opened.
    #[error(transparent)]
    Vault(#[from] VaultError),
    /// A file can't be written.
    #[error(transparent)]
    Io(#[from] std::io::Error),
    /// No bytes could be made of what is there.
    #[error("{0}")]
    Unmade(#[source] Box<dyn std::error::Error + Send + Sync>),
}

impl ReplayError {
    /// Tells the log what happened. What an expression, or a payload, has in it may be personal: that is left out.
    pub fn log(&self, what: &'static str) {
        match self {
            Self::Store(error) => tracing::error!(error = chain(error), what),
            Self::Vault(error) => tracing::error!(error = chain(error), what),
            Self::Io(error) => tracing::error!(error = chain(error), what),
            Self::Condition { sequence, .. } => tracing::warn!(sequence, reason = "undecided", what),
            Self::Event { sequence, .. } => tracing::error!(sequence, reason = "event", what),
            Self::Gone(sequence) => tracing::warn!(sequence, reason = "gone", what),
            Self::Closing => tracing::info!(reason = "closing", what),
            Self::Unmade(_) => tracing::error!(reason = "unmade", what),
        }
    }
}

macro_rules! unmade {
    ($($error:ty),*) => {$(
        impl From<$error> for ReplayError {
            fn from(error: $error) -> Self {
                Self::Unmade(error.into())
            }
        }
    )*};
}
unmade!(serde_json::Error, csv::Error, arrow_schema::ArrowError, parquet::errors::ParquetError, tokio::task::JoinError);
