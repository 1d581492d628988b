//! The log as one value: a cheap handle to its writer, its readers and what this process knows of it.

use std::sync::Arc;
use std::time::Duration;

use sqlx::postgres::PgPool;
use sqlx::{Connection, Executor, PgConnection, Postgres};
use tokio_util::sync::{CancellationToken, DropGuard};
use uuid::Uuid;

use crate::append::{Append, AppendError, Committed};
use crate::bounded::Bounded;
use crate::callers::Callers;
use crate::chain;
use crate::follow::Followers;
use crate::guard::{self, Guard, StartError};
use crate::incarnation::{Evidence, HighWaterMark, Incarnations, MarkError};
use crate::membership::Membership;
use crate::pools::{HANGS_SHORTLY, Role, TenantDb, WriteDsn};
use crate::queue::Pending;
use crate::tail::Tail;
use crate::tokens::Forks;
use crate::writer::{STATEMENT_TIMEOUT, Writer};

/// What a store needs to know.
#[derive(Clone, Debug)]
pub struct StoreConfig {
    /// Where the log is.
    pub dsn: WriteDsn,
    /// What this process does, for the operator who looks at `running_processes`.
    pub roles: String,
    /// How often the head is looked at for what other processes append.
    pub poll: Duration,
    /// The most connections that readers may have.
    pub readers: u32,
    /// Where it is noted how far the log has come, so that a restored log is told from one that stands still.
    pub high_water: Option<Arc<dyn HighWaterMark>>,
}

/// How often the mark is raised: what is lost within this time must show by something else.
const NOTE: Duration = Duration::from_secs(1);
/// How often tables are made and what is old is forgotten, and how soon again where that failed.
const HOUSEKEEPING: (Duration, Duration) = (Duration::from_secs(3_600), Duration::from_secs(60));
/// How long the server may take over what is written beside appends, and over what is read.
const PATIENCE: (Duration, Duration) = (Duration::from_secs(35), Duration::from_secs(125));

/// Postgres could not answer.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// What the driver said.
    #[error("the event store does not answer")]
    Database(#[from] sqlx::Error),
    /// Running processes have not seen an epoch in time.
    #[error("{behind} running processes have not seen epoch {epoch}")]
    NotSeen {
        /// Which epoch.
        epoch: i64,
        /// How many of them.
        behind: i64,
    },
    /// Another process may have the task by now.
    #[error("the lease of a task has run out")]
    LeaseLost,
    /// It is unknown how far the log has come: nobody can tell whether it went back.
    #[error("the high-water mark beside the keys can't be read; both of its files must be mended, or removed")]
    HighWater(#[source] MarkError),
    /// An event that this binary can't read.
    #[error("an event can't be read")]
    Decode(#[from] domain::DecodeError),
}

/// A handle to the log; clones share everything.
#[derive(Clone)]
pub struct EventStore {
    pub(crate) inner: Arc<Inner>,
}

pub(crate) struct Inner {
    pub(crate) writer: Writer,
    appending: PgPool,
    /// Of `annals_writer`, for what is written beside appends.
    pub(crate) writing: Bounded,
    /// Of `annals_writer`, for claims on what is due.
    pub(crate) claiming: Bounded,
    pub(crate) reading: Bounded,
    pub(crate) tenants: TenantDb,
    /// Whose turn it is to move the head's clock ([`EventStore::sequence_at`]).
    pub(crate) asking_for_time: tokio::sync::Mutex<()>,
    pub(crate) tail: Tail,
    pub(crate) forks: Forks,
    pub(crate) followers: Followers,
    guard: Guard,
    pub(crate) membership: Membership,
    _housekeeping: DropGuard,
}

impl std::fmt::Debug for EventStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("EventStore")
    }
}

impl EventStore {
    /// Connects, announces this process to the others and starts the writer and the tail. A log that went back since
    /// anybody saw it begins a new incarnation here.
    pub async fn connect(config: StoreConfig) -> Result<Self, StoreError> {
        let dsn = &config.dsn;
        let hangs_shortly = dsn.options(Role::Writer)?.options([HANGS_SHORTLY]);
        let mut first = PgConnection::connect_with(&hangs_shortly).await?;
        let guard = Guard::begin(&mut first, config.high_water).await.map_err(|error| match error {
            StartError::Mark(error) => StoreError::HighWater(error),
            StartError::Database(error) => StoreError::Database(error),
        })?;
        first.close().await?;
        let appending = [
            // Planning is the first cost of a small batch; the statement's plan never depends on its parameters.
            ("plan_cache_mode", "force_generic_plan"),
            ("statement_timeout", STATEMENT_TIMEOUT),
            // A plan is kept while tables grow under it, and under the head's lock it holds everybody up.
            ("enable_seqscan", "off"),
        ];
        let appending = dsn.writers(&guard, 2, &appending)?;
        let writing = Bounded::new(dsn.writers(&guard, 4, &[("statement_timeout", "30s")])?, PATIENCE.0);
        // A lost claim means that somebody else looks, so nobody waits for the disk.
        let claiming = [("statement_timeout", "10s"), ("synchronous_commit", "off")];
        let claiming = Bounded::new(dsn.writers(&guard, 6, &claiming)?, PATIENCE.0);
        // Readers write the relay's cursor alone, and a lost one means that events are published twice.
        let reading = [("statement_timeout", "120s"), ("synchronous_commit", "off")];
        let reading = Bounded::new(dsn.readers(&guard, Role::Reader, config.readers, &reading)?, PATIENCE.1);
        // A plan is kept while tables grow under it: one that was made for a small table must not read a large one whole.
        let by_index = [("statement_timeout", "30s"), ("enable_seqscan", "off")];
        let tenants = TenantDb::new(dsn.readers(&guard, Role::Api, config.readers, &by_index)?);
        if let Err(error) = turn_idempotency_days(&writing).await {
            tracing::warn!(error = chain(&error), "the idempotency tables of the next days could not be made yet");
        }
        let tail = Tail::start(guard.clone(), &reading, writing.clone(), config.poll);
        let membership = Membership::join(&writing, tail.clone(), &config.roles).await?;
        let stop = CancellationToken::new();
        tokio::spawn(keep_house(writing.clone(), stop.clone()));
        tokio::spawn(keep_mark(guard.clone(), stop.clone()));
        let followers = Followers::default();
        let telling = followers.clone().run(tail.clone(), reading.clone());
        tokio::spawn(stop.clone().run_until_cancelled_owned(telling));
        let _housekeeping = stop.drop_guard();
        let writer = Writer::start(appending.clone(), tail.clone());
        Ok(Self {
            inner: Arc::new(Inner {
                writer,
                appending,
                writing,
                claiming,
                reading,
                tenants,
                asking_for_time: tokio::sync::Mutex::default(),
                tail,
                forks: Forks::default(),
                followers,
                guard,
                membership,
                _housekeeping,
            }),
        })
    }

    /// Appends, in one commit with whatever else waits. On any error nothing is stored, save `Unavailable` after a lost
    /// connection, where it is not known.
    pub async fn append(&self, append: Append) -> Result<Committed, AppendError> {
        self.submit(append, None)?.outcome().await
    }

    /// Hands an append over without waiting for its commit; `after` is an append to the same stream that it was decided
    /// upon and that was not committed yet. It is committed behind that one, or not at all.
    pub fn submit(&self, append: Append, after: Option<Pending>) -> Result<Pending, AppendError> {
        self.inner.writer.submit(append, after)
    }

    /// The pool that shows one tenant at a time.
    pub fn tenants(&self) -> &TenantDb {
        &self.inner.tenants
    }

    /// What this process knows of the log's end.
    pub fn tail(&self) -> &Tail {
        &self.inner.tail
    }

    /// The newest epoch that this process knows: it rises with every tombstone. Epochs of different incarnations are
    /// never equal, so that an append is refused which was decided in another one than it comes to.
    pub fn epoch(&self) -> i64 {
        self.inner.tail.epoch()
    }

    /// The lives of the log.
    pub fn incarnations(&self) -> Incarnations {
        self.inner.tail.incarnations()
    }

    /// Looks at the log's end now: what this process knows of it afterwards is not older than the call.
    pub async fn look(&self) -> Result<(), StoreError> {
        Ok(self.inner.tail.look().await?)
    }

    /// Those of the positions at which the log has another event than that.
    pub async fn differing(&self, positions: &[i64], event_ids: &[Uuid]) -> Result<Vec<i64>, StoreError> {
        Ok(guard::others(positions, event_ids, &self.inner.reading).await?)
    }

    /// Puts what others have seen of the log before the log itself. Where it went back, a new incarnation is opened.
    pub async fn settle(&self, evidence: &[Evidence]) -> Result<(), StoreError> {
        Ok(self.inner.tail.settle(evidence).await?)
    }

    /// Who asks the house for something.
    pub fn callers(&self) -> &Callers {
        self.inner.membership.callers()
    }

    /// False once this process could not renew its row: another may be destroying keys, so nothing may be opened.
    pub fn may_open(&self) -> bool {
        self.inner.membership.holds()
    }

    /// Waits until every running process has seen this epoch.
    pub async fn all_have_seen(&self, epoch: i64) -> Result<(), StoreError> {
        self.inner.membership.all_have_seen(epoch).await
    }

    /// Makes every process of the house forget the keys that it remembers; gives the new epoch.
    pub async fn raise_epoch(&self) -> Result<i64, StoreError> {
        let epoch = sqlx::query_scalar("UPDATE log_head SET epoch = epoch + 1 RETURNING epoch")
            .fetch_one(&self.inner.writing)
            .await?;
        self.inner.tail.learn_epoch(epoch);
        Ok(epoch)
    }

    /// Takes this process's row away, so that nobody waits for it, and closes every connection. What is asked of the
    /// store afterwards fails.
    pub async fn close(&self) {
        self.inner.membership.leave().await;
        self.inner.guard.note().await;
        let inner = &self.inner;
        inner.writer.close().await;
        for pool in [inner.writing.pool(), inner.claiming.pool(), inner.reading.pool(), inner.tenants.pool()] {
            pool.close().await;
        }
        inner.appending.close().await;
    }

    /// Whether Postgres answers.
    pub async fn ping(&self) -> Result<(), StoreError> {
        sqlx::query("SELECT 1").execute(&self.inner.writing).await?;
        Ok(())
    }
}

/// Makes the idempotency tables of the next days and drops the old ones, in every process: keyed writes must not depend
/// on any one of them.
async fn keep_house(pool: Bounded, stop: CancellationToken) {
    let mut next = Duration::ZERO;
    while stop.run_until_cancelled(tokio::time::sleep(next)).await.is_some() {
        next = HOUSEKEEPING.0;
        if let Err(error) = turn_idempotency_days(&pool).await {
            // Somebody reads a table that is to go, or all of them: they are left in peace, and asked again.
            tracing::warn!(error = chain(&error), "the idempotency tables of the next days could not be made yet");
            next = HOUSEKEEPING.1;
        }
        if let Err(error) = forget_settled_commands(&pool).await {
            tracing::warn!(
                error = chain(&error),
                "commands of processes that were settled long ago are still remembered"
            );
            next = HOUSEKEEPING.1;
        }
    }
}

/// Keeps the mark beside the keys near the log's end, in every process: one of them may be alone in knowing of an append.
async fn keep_mark(guard: Guard, stop: CancellationToken) {
    let mut noted = None;
    let mut ticks = tokio::time::interval(NOTE);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    while stop.run_until_cancelled(ticks.tick()).await.is_some() {
        let place = guard.place();
        metrics::gauge!("annals_log_incarnation").set(place.incarnation as f64);
        if noted != Some(place) && guard.note().await.is_some() {
            noted = Some(place);
        }
    }
}

/// The outcome of a command is on its process's stream for good; its id is kept for as long as a host that was stopped
/// before it heard of that could wake up and send the command again.
async fn forget_settled_commands(pool: &Bounded) -> Result<(), sqlx::Error> {
    loop {
        let forgotten = sqlx::query(
            "DELETE FROM process_commands WHERE ctid = ANY (ARRAY(
                SELECT ctid FROM process_commands WHERE settled_at < now() - interval '7 days' LIMIT 10000))",
        );
        if forgotten.execute(pool).await?.rows_affected() == 0 {
            return Ok(());
        }
    }
}

pub(crate) async fn turn_idempotency_days<'c>(conn: impl Executor<'c, Database = Postgres>) -> Result<(), sqlx::Error> {
    sqlx::query("SELECT turn_idempotency_days()").execute(conn).await.map(|_| ())
}

/// A fresh UUIDv7.
pub fn new_id() -> Uuid {
    Uuid::now_v7()
}
