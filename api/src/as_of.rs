//! Moments of a tenant's log, as callers and operators write them: a sequence, or a time.

use domain::{TenantId, TypedId};
use eventstore::{EventStore, Standing, StoreError, Token};

use crate::extract::ids::Moment;

/// Why a text names no moment of the log.
#[derive(Debug, thiserror::Error)]
pub enum AsOfError {
    /// It is neither.
    #[error("must be a sequence, or a time of RFC 3339 such as 2026-11-20T10:00:00Z")]
    Malformed,
    /// The tenant's log has not come so far.
    #[error("must be between 0 and {head}, the last sequence of this tenant")]
    Beyond {
        /// How far it has come.
        head: i64,
    },
    /// The time is still to come.
    #[error("must not lie in the future of the log's own clock")]
    Future,
    /// The sequence was lost when the log was restored.
    #[error("was lost when the log was restored; the last sequence that is as it was is {survived}")]
    Lost {
        /// The last one that was not.
        survived: Token,
    },
    /// The log does not tell.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// The sequence that is meant: the one that is written, or the highest that was recorded by a time.
pub async fn sequence_of(store: &EventStore, tenant: TenantId, text: &str) -> Result<i64, AsOfError> {
    let tenant = tenant.uuid();
    if let Ok(token) = text.parse::<Token>() {
        // A bare number may come from a body, where sequences are plain.
        if token.incarnation > 1
            && let Standing::Lost { survived } = store.standing(tenant, token).await?
        {
            return Err(AsOfError::Lost { survived });
        }
        let head = store.tenant_head(tenant).await?;
        return if token.number <= head { Ok(token.number) } else { Err(AsOfError::Beyond { head }) };
    }
    let Moment(time) = text.parse().map_err(|_| AsOfError::Malformed)?;
    // What is asked is when the log took something, which it tells by its own clock, also for a test tenant.
    if time > commands::clock::now() {
        return Err(AsOfError::Future);
    }
    Ok(store.sequence_at(tenant, time).await?)
}
