//! What operators do with projectors: look at them, pause them, have parked streams tried again and rows made anew, and
//! compare the rows with the log.

mod verify;

use std::collections::BTreeMap;
use std::sync::Arc;

use chrono::{DateTime, Utc};
use eventstore::{EventStore, RecordedEvent, Role, Until, WriteDsn, bytes};
use futures::TryStreamExt;
use serde::Serialize;
use sqlx::postgres::PgPool;
use sqlx::{PgConnection, Row};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::failure::Failure;
use crate::generations::{self, Purpose, prepare};
use crate::projector::{ProjectError, Projector};
use crate::rebuild::Site;
use crate::running::projectors;

pub use verify::{TableVerification, Verification};

/// Does what operators ask; clones share everything.
#[derive(Clone)]
pub struct Operator {
    pub(crate) store: EventStore,
    pub(crate) pool: PgPool,
    pub(crate) projectors: Arc<[Arc<dyn Projector>]>,
}

impl std::fmt::Debug for Operator {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Operator")
    }
}

/// Why an operator's wish was not done.
#[derive(Debug, thiserror::Error)]
pub enum OperatorError {
    /// There is no such projector.
    #[error("there is no projector of that name")]
    Unknown,
    /// The rows can't be made or compared now.
    #[error("the rows can't be made")]
    Failed(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// Postgres does not answer.
    #[error("the read models' database fails")]
    Database(#[from] sqlx::Error),
}

impl From<Failure> for OperatorError {
    fn from(failure: Failure) -> Self {
        Self::Failed(Box::new(failure))
    }
}

/// A projector as operators see it.
#[derive(Clone, Debug, Serialize, schemars::JsonSchema)]
pub struct ProjectorReport {
    /// Its name.
    pub name: String,
    /// The generation of its rows that is read.
    pub generation: i32,
    /// The revision of the fold that made them.
    pub revision: i32,
    /// When an operator paused it.
    pub paused_at: Option<DateTime<Utc>>,
    /// How many streams are parked.
    pub parked: i64,
    /// How many events the furthest behind of its slots lags behind the log's end; none where no process runs it.
    pub lag_events: Option<i64>,
    /// For how many seconds the log has been further, ten minutes at most; none where no process runs it.
    pub lag_seconds: Option<f64>,
    /// The processes that have its slots.
    pub runners: Vec<RunnerReport>,
    /// The generation that is being built.
    pub building: Option<BuildReport>,
}

/// A projector in one process.
#[derive(Clone, Debug, Serialize, schemars::JsonSchema)]
pub struct RunnerReport {
    /// The process.
    pub process: Uuid,
    /// What it is doing.
    pub state: String,
    /// How many of the 64 slots it has.
    pub slots: i16,
    /// What it failed at, if it did.
    pub error: Option<String>,
    /// When it was last heard of.
    pub seen_at: DateTime<Utc>,
}

/// A generation that is being built.
#[derive(Clone, Debug, Serialize, schemars::JsonSchema)]
pub struct BuildReport {
    /// Its number.
    pub generation: i32,
    /// The revision of the fold that makes it.
    pub revision: i32,
    /// How far it has come.
    pub position: i64,
    /// Where the log ends.
    pub end: i64,
    /// When it was begun.
    pub started_at: DateTime<Utc>,
}

/// A stream that waits for a mended projector.
#[derive(Clone, Debug)]
pub struct ParkedStream {
    /// Whose it is.
    pub tenant: Uuid,
    /// The stream.
    pub stream: Uuid,
    /// `context.noun`.
    pub stream_type: String,
    /// The tenant's sequence of the event that can't be applied; what follows in the stream is passed over.
    pub from_sequence: i64,
    /// Why it can't.
    pub error: String,
    /// Since when.
    pub parked_at: DateTime<Utc>,
}

/// What became of parked streams that were tried again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, schemars::JsonSchema)]
pub struct Retried {
    /// How many are as they should be.
    pub applied: usize,
    /// How many are parked still.
    pub parked: usize,
}

impl Operator {
    /// Over a few connections of `annals_projector`.
    pub fn connect(store: EventStore, read: &WriteDsn) -> Result<Self, OperatorError> {
        let settings = [("synchronous_commit", "off"), ("statement_timeout", "0")];
        let pool = read.pool(Role::Projector, 6, &settings)?;
        Ok(Self { store, pool, projectors: projectors().into() })
    }

    /// Every projector, by name.
    pub async fn list(&self) -> Result<Vec<ProjectorReport>, OperatorError> {
        let end = self.store.tail().position();
        let rows = sqlx::query(
            "SELECT g.projector, g.generation, g.revision, c.paused_at,
                (SELECT count(*) FROM projection_parked p WHERE p.projector = g.projector AND p.generation = g.generation),
                b.generation, b.revision, b.created_at,
                (SELECT coalesce(max(position), 0) FROM projection_checkpoints k
                 WHERE k.projector = b.projector AND k.generation = b.generation)
             FROM projection_generations g LEFT JOIN projection_controls c USING (projector)
             LEFT JOIN projection_generations b ON b.projector = g.projector AND b.status = 'building'
             WHERE g.status = 'active' ORDER BY 1",
        )
        .fetch_all(&self.pool)
        .await?;
        let mut runners = self.runners().await?;
        let reports = rows.iter().map(|row| {
            let name: String = row.try_get(0)?;
            let (lags, runners): (Vec<_>, Vec<_>) = runners.remove(&name).unwrap_or_default().into_iter().unzip();
            let building = match row.try_get::<Option<i32>, _>(5)? {
                Some(generation) => Some(BuildReport {
                    generation,
                    revision: row.try_get(6)?,
                    position: row.try_get(8)?,
                    end,
                    started_at: row.try_get(7)?,
                }),
                None => None,
            };
            Ok(ProjectorReport {
                name,
                generation: row.try_get(1)?,
                revision: row.try_get(2)?,
                paused_at: row.try_get(3)?,
                parked: row.try_get(4)?,
                lag_events: lags.iter().map(|(events, _)| *events).max(),
                lag_seconds: lags.iter().map(|(_, seconds)| *seconds).max_by(f64::total_cmp),
                runners,
                building,
            })
        });
        Ok(reports.collect::<Result<_, sqlx::Error>>()?)
    }

    async fn runners(&self) -> Result<BTreeMap<String, Vec<((i64, f64), RunnerReport)>>, sqlx::Error> {
        let rows = sqlx::query(
            "SELECT projector, lag_events, lag_seconds, process, state, slots, error, seen_at FROM projection_runners
             WHERE seen_at > clock_timestamp() - interval '30 seconds' ORDER BY projector, process",
        )
        .fetch_all(&self.pool)
        .await?;
        let mut runners = BTreeMap::<String, Vec<_>>::new();
        for row in rows {
            let runner = RunnerReport {
                process: row.try_get(3)?,
                state: row.try_get(4)?,
                slots: row.try_get(5)?,
                error: row.try_get(6)?,
                seen_at: row.try_get(7)?,
            };
            runners.entry(row.try_get(0)?).or_default().push(((row.try_get(1)?, row.try_get(2)?), runner));
        }
        Ok(runners)
    }

    /// One projector.
    pub async fn show(&self, name: &str) -> Result<ProjectorReport, OperatorError> {
        self.list().await?.into_iter().find(|report| report.name == name).ok_or(OperatorError::Unknown)
    }

    /// The parked streams of a projector, the longest waiting first, at most `limit`.
    pub async fn parked(&self, name: &str, limit: i64) -> Result<Vec<ParkedStream>, OperatorError> {
        self.find(name)?;
        let rows: Vec<(Uuid, Uuid, String, i64, String, DateTime<Utc>)> = sqlx::query_as(
            "SELECT p.tenant_id, p.stream_id, p.stream_type, p.from_sequence, p.error, p.parked_at
             FROM projection_parked p JOIN projection_generations g USING (projector, generation)
             WHERE projector = $1 AND g.status = 'active' ORDER BY parked_at, tenant_id, stream_id LIMIT $2",
        )
        .bind(name)
        .bind(limit)
        .fetch_all(&self.pool)
        .await?;
        let shown = rows.into_iter().map(|(tenant, stream, stream_type, from_sequence, error, parked_at)| {
            ParkedStream { tenant, stream, stream_type, from_sequence, error, parked_at }
        });
        Ok(shown.collect())
    }

    /// Has a projector stop, in every process, within about a second.
    pub async fn pause(&self, name: &str) -> Result<(), OperatorError> {
        self.control(name, true).await
    }

    /// Has a projector go on: one that an operator paused, and one that paused itself.
    pub async fn resume(&self, name: &str) -> Result<(), OperatorError> {
        self.control(name, false).await
    }

    async fn control(&self, name: &str, pause: bool) -> Result<(), OperatorError> {
        self.find(name)?;
        sqlx::query(
            "INSERT INTO projection_controls AS known (projector, paused_at)
             VALUES ($1, CASE WHEN $2 THEN clock_timestamp() END)
             ON CONFLICT (projector) DO UPDATE SET changes = known.changes + 1,
                paused_at = CASE WHEN $2 THEN coalesce(known.paused_at, clock_timestamp()) END",
        )
        .bind(name)
        .bind(pause)
        .execute(&self.pool)
        .await?;
        Ok(())
    }

    /// Asks for new rows: a process that projects makes them from the log, and has them read once they are as far as the
    /// old ones. Gives the generation; where one is being built, that one.
    pub async fn rebuild(&self, name: &str) -> Result<i32, OperatorError> {
        let projector = self.find(name)?;
        let mut conn = self.pool.acquire().await?;
        prepare(projector.name(), projector.revision(), &mut conn).await?;
        Ok(generations::open(&**projector, Purpose::Building, &mut conn).await?)
    }

    /// Builds a generation here, unless another process does.
    pub async fn build(&self, name: &str, generation: i32, stop: &CancellationToken) -> Result<(), OperatorError> {
        let projector = self.find(name)?.clone();
        let site = Site { projector, store: self.store.clone(), pool: self.pool.clone() };
        Ok(site.build(generation, stop).await?)
    }

    /// Tries parked streams of a projector again, each from its first event that could not be applied on: one of them, or
    /// all.
    pub async fn retry(&self, name: &str, stream: Option<Uuid>) -> Result<Retried, OperatorError> {
        let projector = self.find(name)?;
        let mut retried = Retried::default();
        for parked in self.parked(name, i64::MAX).await? {
            if stream.is_none_or(|stream| stream == parked.stream) {
                match self.apply_parked(&**projector, &parked).await? {
                    true => retried.applied += 1,
                    false => retried.parked += 1,
                }
            }
        }
        // One that has paused itself may go on, too.
        self.control_kept(name).await?;
        Ok(retried)
    }

    async fn control_kept(&self, name: &str) -> Result<(), OperatorError> {
        sqlx::query(
            "INSERT INTO projection_controls AS known (projector) VALUES ($1)
             ON CONFLICT (projector) DO UPDATE SET changes = known.changes + 1",
        )
        .bind(name)
        .execute(&self.pool)
        .await?;
        Ok(())
    }

    /// Applies what the projector has passed over in a stream, while the checkpoint of its slot is held: what comes after
    /// that finds the stream as if it had never been parked.
    async fn apply_parked(&self, projector: &dyn Projector, parked: &ParkedStream) -> Result<bool, OperatorError> {
        let mut tx = self.pool.begin().await?;
        let held: Option<(i32, i64)> = sqlx::query_as(
            "SELECT c.generation, c.position FROM projection_checkpoints c JOIN projection_generations g
                USING (projector, generation)
             WHERE projector = $1 AND g.status = 'active' AND c.slot = $2 FOR UPDATE OF c",
        )
        .bind(projector.name())
        .bind(i16::from(bytes::slot(parked.tenant)))
        .fetch_optional(&mut *tx)
        .await?;
        let Some((generation, position)) = held else { return Ok(false) };
        let taken = sqlx::query(
            "DELETE FROM projection_parked
             WHERE projector = $1 AND generation = $2 AND tenant_id = $3 AND stream_id = $4 AND from_sequence = $5",
        )
        .bind(projector.name())
        .bind(generation)
        .bind(parked.tenant)
        .bind(parked.stream)
        .bind(parked.from_sequence)
        .execute(&mut *tx)
        .await?;
        if taken.rows_affected() == 0 {
            return Ok(true);
        }
        match self.project_from(projector, generation, parked, position, &mut tx).await {
            Ok(()) => {
                tx.commit().await?;
                Ok(true)
            }
            Err(Failure::Project(error)) if error.is_deterministic() => {
                tx.rollback().await?;
                self.note_again(projector, generation, parked, &error).await?;
                Ok(false)
            }
            Err(failure) => Err(failure.into()),
        }
    }

    async fn project_from(
        &self,
        projector: &dyn Projector,
        generation: i32,
        parked: &ParkedStream,
        position: i64,
        conn: &mut PgConnection,
    ) -> Result<(), Failure> {
        let events = self.store.stream(parked.tenant, parked.stream, Until::End);
        let left_out =
            move |event: &RecordedEvent| event.sequence >= parked.from_sequence && event.position <= position;
        let mut chunks = events.try_filter(|event| std::future::ready(left_out(event))).try_chunks(500);
        while let Some(events) = chunks.try_next().await.map_err(|error| error.1)? {
            let events: Vec<_> = events.into_iter().map(Arc::new).collect();
            projector.project(generation, &events, conn).await?;
        }
        Ok(())
    }

    async fn note_again(
        &self,
        projector: &dyn Projector,
        generation: i32,
        parked: &ParkedStream,
        error: &ProjectError,
    ) -> Result<(), sqlx::Error> {
        sqlx::query(
            "UPDATE projection_parked SET error = $5, parked_at = clock_timestamp()
             WHERE projector = $1 AND generation = $2 AND tenant_id = $3 AND stream_id = $4",
        )
        .bind(projector.name())
        .bind(generation)
        .bind(parked.tenant)
        .bind(parked.stream)
        .bind(error.told())
        .execute(&self.pool)
        .await?;
        Ok(())
    }

    pub(crate) fn find(&self, name: &str) -> Result<&Arc<dyn Projector>, OperatorError> {
        self.projectors.iter().find(|projector| projector.name() == name).ok_or(OperatorError::Unknown)
    }
}
