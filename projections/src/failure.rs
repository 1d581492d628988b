//! Why a projector's work ended before it was done.

use eventstore::StoreError;

use crate::projector::ProjectError;

/// Why a session, or a generation that is built, ended.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    #[error("another process has moved the checkpoints")]
    Fenced,
    #[error("the slots of this process have changed")]
    Reassigned,
    #[error("the log was restored")]
    LogRestored,
    #[error("the rows are of revision {rows}, this binary makes revision {ours}: they are being made anew")]
    OtherRevision { rows: i32, ours: i32 },
    #[error("hardly an event can be applied, so no more streams are parked; the last one: {last}")]
    Flood { last: String },
    #[error(transparent)]
    Project(#[from] ProjectError),
    #[error(transparent)]
    Log(#[from] StoreError),
}

impl From<sqlx::Error> for Failure {
    fn from(error: sqlx::Error) -> Self {
        Self::Project(error.into())
    }
}

impl Failure {
    /// Whether somebody must do something before it can go on: trying again would fail again.
    pub(crate) fn needs_somebody(&self) -> bool {
        match self {
            Self::Flood { .. } | Self::Log(StoreError::Decode(_)) => true,
            Self::Project(error) => error.is_deterministic(),
            Self::Fenced | Self::Reassigned | Self::LogRestored | Self::OtherRevision { .. } | Self::Log(_) => false,
        }
    }
}
