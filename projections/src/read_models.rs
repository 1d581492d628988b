//! The query side: one tenant at a time, over the pool that row-level security watches.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use eventstore::{Role, TenantDb, TenantTx, WriteDsn};
use sqlx::{PgConnection, Row};
use tokio::sync::OnceCell;
use tokio::time::Instant;
use uuid::Uuid;

use crate::bells::Bells;
use crate::running::Projections;

/// The first pause between two looks at a read model that is behind, and the longest.
const PAUSES: (Duration, Duration) = (Duration::from_millis(5), Duration::from_millis(20));

/// Answers from the read models; clones share everything.
#[derive(Clone, Debug)]
pub struct ReadModels {
    db: TenantDb,
    bells: Bells,
    time_zones: Arc<OnceCell<HashSet<String>>>,
}

/// How far a read model has come for one tenant.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ReadPoint {
    /// The last sequence that it has seen.
    pub sequence: i64,
    /// The life of the log that its rows are made of.
    pub incarnation: i64,
    /// How many of the tenant's streams are parked: of each, what its rows show is old.
    pub parked: i64,
    /// The revision of the fold that has made the rows, where that was looked at.
    pub(crate) revision: Option<i32>,
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
    /// How far it should have come.
    pub wanted: i64,
}

/// Why a query has no answer.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The read model has not seen the sequence that was asked for, after all patience.
    #[error("the read model is behind")]
    Behind(#[from] Behind),
    /// The rows were made by an older fold, and are being made anew by that of this program.
    #[error("the rows are being made anew")]
    MadeAnew,
    /// A name that Postgres has no zone for.
    #[error("`{0}` is no time zone")]
    UnknownTimeZone(String),
    /// More periods than a report may have.
    #[error("the range has more than {most} periods")]
    TooManyPeriods {
        /// How many it may have.
        most: i32,
    },
    /// A sum beyond 64 bits.
    #[error("a sum is too large for a report")]
    SumTooLarge,
    /// A filter that the document type does not declare.
    #[error("`{0}` is not a column that can be filtered by")]
    UnknownColumn(String),
    /// A stored value that is not what it should be.
    #[error("a stored value can't be read")]
    Malformed(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// Postgres does not answer.
    #[error("the read models do not answer")]
    Database(#[source] sqlx::Error),
}

impl From<sqlx::Error> for ReadError {
    fn from(error: sqlx::Error) -> Self {
        // "Numeric value out of range": the sums of a report are the only ones that can get there.
        let too_large = error.as_database_error().and_then(|error| error.code()).is_some_and(|code| code == "22003");
        if too_large { Self::SumTooLarge } else { Self::Database(error) }
    }
}

impl From<serde_json::Error> for ReadError {
    fn from(error: serde_json::Error) -> Self {
        Self::Malformed(error.into())
    }
}

/// The generation of a projector that is read, as a subquery. Names of projectors are our own constants.
pub(crate) fn active(projector: &str) -> String {
    format!("(SELECT generation FROM projection_generations WHERE projector = '{projector}' AND status = 'active')")
}

impl ReadModels {
    /// Over connections of `annals_api` to the read models' database, opened when first needed.
    pub fn connect(dsn: &WriteDsn, connections: u32) -> Result<Self, ReadError> {
        Ok(Self::new(TenantDb::new(dsn.pool(Role::Api, connections, &[("statement_timeout", "30s")])?)))
    }

    /// Over a pool that shows one tenant at a time.
    pub fn new(db: TenantDb) -> Self {
        Self { db, bells: Bells::default(), time_zones: Arc::default() }
    }

    /// The same, told at once by the projectors of this process, so that it need not look so often.
    #[must_use]
    pub fn hearing(mut self, projections: &Projections) -> Self {
        self.bells = projections.bells();
        self
    }

    /// How far each projector has come in the log, whichever process runs it: by name, the highest position of which
    /// its rows are known to be made.
    pub async fn positions(&self) -> Result<Vec<(String, i64)>, ReadError> {
        let mut tx = self.begin(Uuid::nil()).await?;
        let positions = sqlx::query_as(
            "SELECT g.projector, coalesce(max(c.position), 0) FROM projection_generations g
             LEFT JOIN projection_checkpoints c USING (projector, generation)
             WHERE g.status = 'active' GROUP BY 1 ORDER BY 1",
        )
        .fetch_all(&mut *tx)
        .await?;
        tx.commit().await?;
        Ok(positions)
    }

    /// How far a projector has come for a tenant.
    pub async fn point(&self, projector: &str, tenant: Uuid) -> Result<ReadPoint, ReadError> {
        let mut tx = self.begin(tenant).await?;
        let point = point(&mut tx, projector, tenant).await?;
        tx.commit().await?;
        Ok(point)
    }

    /// Waits until a projector has seen a sequence of a tenant, and its rows are those of an incarnation of the log or of a
    /// later one; [`ReadError::Behind`] after all patience.
    pub async fn wait(
        &self,
        projector: &str,
        tenant: Uuid,
        incarnation: i64,
        sequence: i64,
        patience: Duration,
    ) -> Result<ReadPoint, ReadError> {
        let end = Instant::now() + patience;
        // Listening begins before the first look, so that nothing falls between the two.
        let mut bell = self.bells.listen(projector);
        // Who hears the projector in this process need only look in case that it missed the bell.
        let mut pause = if bell.hears() { PAUSES.1 } else { PAUSES.0 };
        loop {
            let point = self.point(projector, tenant).await?;
            if point.sequence >= sequence && point.incarnation >= incarnation {
                return Ok(point);
            }
            let next = end.min(Instant::now() + pause);
            if next >= end && Instant::now() >= end {
                return Err(Behind { point, wanted: sequence }.into());
            }
            if let Ok(Some(seen)) = tokio::time::timeout_at(next, bell.heard(incarnation, tenant, sequence)).await {
                return Ok(ReadPoint { sequence: seen, incarnation, parked: 0, revision: None, seen_seconds: 0.0 });
            }
            pause = (pause * 2).min(PAUSES.1);
        }
    }

    pub(crate) async fn begin(&self, tenant: Uuid) -> Result<TenantTx, sqlx::Error> {
        self.db.begin(tenant).await
    }

    /// A transaction whose statements all see one moment.
    pub(crate) async fn snapshot(&self, tenant: Uuid) -> Result<TenantTx, sqlx::Error> {
        let mut tx = self.begin(tenant).await?;
        // Reports go over whole histories. After a large import Postgres has no statistics yet, expects next to nothing
        // and would go through one table once for each row of the other.
        sqlx::raw_sql("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ; SET LOCAL enable_nestloop = off")
            .execute(&mut *tx)
            .await?;
        Ok(tx)
    }

    /// Refuses what Postgres has no zone for. It would take much else, POSIX rules among it, so its own list decides;
    /// reading that costs it some hundred files, so it is read once.
    pub(crate) async fn check_time_zone(&self, name: &str) -> Result<(), ReadError> {
        let known = self.time_zones.get_or_try_init(async || {
            let mut tx = self.begin(Uuid::nil()).await?;
            let names: Vec<String> =
                sqlx::query_scalar("SELECT name FROM pg_timezone_names").fetch_all(&mut *tx).await?;
            tx.commit().await?;
            Ok::<_, sqlx::Error>(names.into_iter().collect())
        });
        if known.await?.contains(name) { Ok(()) } else { Err(ReadError::UnknownTimeZone(name.to_owned())) }
    }
}

/// How far a projector has come for a tenant, at the moment of that transaction.
pub(crate) async fn point(conn: &mut PgConnection, projector: &str, tenant: Uuid) -> Result<ReadPoint, sqlx::Error> {
    let row = sqlx::query(
        "SELECT coalesce(s.sequence, 0), coalesce(c.incarnation, 1),
            extract(epoch FROM clock_timestamp() - coalesce(s.at, g.created_at))::float8,
            (SELECT count(*) FROM projection_parked p
             WHERE p.projector = g.projector AND p.generation = g.generation AND p.tenant_id = $2), g.revision
         FROM projection_generations g
         LEFT JOIN projection_checkpoints c
            ON c.projector = g.projector AND c.generation = g.generation AND c.slot = 0
         LEFT JOIN projection_sequences s
            ON s.projector = g.projector AND s.generation = g.generation AND s.tenant_id = $2
         WHERE g.projector = $1 AND g.status = 'active'",
    )
    .bind(projector)
    .bind(tenant)
    .fetch_optional(conn)
    .await?;
    match row {
        Some(row) => Ok(ReadPoint {
            sequence: row.try_get(0)?,
            incarnation: row.try_get(1)?,
            parked: row.try_get(3)?,
            revision: Some(row.try_get(4)?),
            seen_seconds: row.try_get::<f64, _>(2)?.max(0.0),
        }),
        None => Ok(ReadPoint { sequence: 0, incarnation: 1, parked: 0, revision: None, seen_seconds: 0.0 }),
    }
}
