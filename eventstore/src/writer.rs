//! Group commit: two workers take turns at committing whatever waits, as one statement a batch.
//!
//! What the statement can't commit (a version, a name, a key, a byte in it is refused, the epoch has risen, the answer
//! got lost) goes the slow way: under the head's lock, where each append is looked at by itself.

use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

use sqlx::pool::PoolConnection;
use sqlx::postgres::{PgPool, Postgres};
use sqlx::{Connection, PgConnection};
use tokio_util::task::TaskTracker;

use crate::append::{Append, AppendError, Committed};
use crate::chain;
use crate::event::MAX_EVENT_BYTES;
use crate::queue::{Batch, Job, MAX_BATCH_BYTES, MAX_BATCH_EVENTS, Pending, Queue};
use crate::store::turn_idempotency_days;
use crate::tail::Tail;
use crate::{slow, statement};

/// The most streams of one append.
const MAX_STREAMS: usize = 4;
/// The server ends a statement of the writer after so long; a server that can't even do that is given up a little later.
/// Together with the patience of the queue it is less than what callers wait.
pub(crate) const STATEMENT_TIMEOUT: &str = "8s";
const ANSWERS_WITHIN: Duration = Duration::from_secs(10);
/// How often those are looked for who have waited for too long.
const EXPIRE: Duration = Duration::from_millis(500);
/// The pauses between two tries while Postgres can't be reached: the first and the longest.
const PAUSES: (Duration, Duration) = (Duration::from_millis(20), Duration::from_millis(500));

/// The queue in front of the log.
#[derive(Clone)]
pub(crate) struct Writer {
    queue: Arc<Closing>,
    workers: TaskTracker,
}

/// Closes the queue with the last handle on it.
struct Closing(Arc<Queue>);

impl Drop for Closing {
    fn drop(&mut self) {
        self.0.close();
    }
}

impl Writer {
    /// Starts the workers on a pool of `annals_writer`; they end when the last clone of the writer is dropped.
    pub(crate) fn start(pool: PgPool, tail: Tail) -> Self {
        let (queue, workers) = (Arc::new(Queue::default()), TaskTracker::new());
        for _ in 0..2 {
            workers.spawn(employ(pool.clone(), tail.clone(), queue.clone()));
        }
        workers.close();
        let waiting = Arc::downgrade(&queue);
        tokio::spawn(async move {
            while let Some(queue) = waiting.upgrade() {
                queue.expire();
                drop(queue);
                tokio::time::sleep(EXPIRE).await;
            }
        });
        Self { queue: Arc::new(Closing(queue)), workers }
    }

    /// Takes nothing more in, and waits until the batches in hand are through and their connections given back.
    pub(crate) async fn close(&self) {
        self.queue.0.close();
        self.workers.wait().await;
    }

    /// Hands an append over, behind one that it was decided upon.
    pub(crate) fn submit(&self, append: Append, after: Option<Pending>) -> Result<Pending, AppendError> {
        if append.streams.len() > MAX_STREAMS || append.event_count() > MAX_BATCH_EVENTS {
            return Err(AppendError::Refused(format!("more than {MAX_STREAMS} streams or {MAX_BATCH_EVENTS} events")));
        }
        if append.streams.iter().any(|stream| stream.events.is_empty()) {
            return Err(AppendError::Refused("a stream without events".to_owned()));
        }
        let size = |e: &crate::NewEvent| e.payload.len() + e.metadata.len();
        let largest = append.streams.iter().flat_map(|s| &s.events).map(size).max().unwrap_or_default();
        if largest > MAX_EVENT_BYTES {
            return Err(AppendError::TooLarge { bytes: largest });
        }
        if append.bytes() > MAX_BATCH_BYTES {
            return Err(AppendError::TooLarge { bytes: append.bytes() });
        }
        self.queue.0.push(append, after)
    }
}

/// Keeps one worker at work: should it ever panic, its batch is told to come back and another one goes on.
async fn employ(pool: PgPool, tail: Tail, queue: Arc<Queue>) {
    loop {
        let link = Link { pool: pool.clone(), conn: None };
        let worker = Worker { link, tail: tail.clone(), queue: queue.clone() };
        match tokio::spawn(worker.run()).await {
            Ok(()) => break,
            Err(error) => {
                // A panic's message may hold a value.
                let panicked = error.is_panic();
                tracing::error!(panicked, "a worker of the log's writer fell over; another one goes on")
            }
        }
    }
}

/// A worker's own connection, made anew when it is lost.
struct Link {
    pool: PgPool,
    conn: Option<PoolConnection<Postgres>>,
}

impl Link {
    async fn get(&mut self) -> Result<&mut PgConnection, sqlx::Error> {
        if self.conn.is_none() {
            self.conn = Some(self.pool.acquire().await?);
        }
        self.conn.as_deref_mut().ok_or(sqlx::Error::PoolClosed)
    }

    /// Gives the connection up: what it still has under way is not waited for.
    fn lose(&mut self) {
        if let Some(conn) = self.conn.take() {
            drop(conn.detach());
        }
    }
}

struct Worker {
    link: Link,
    tail: Tail,
    queue: Arc<Queue>,
}

/// How a batch fared as one statement.
enum Outcome {
    /// Under which epoch, and where.
    Committed(i64, Vec<Committed>),
    /// Something in it is refused, or has to be looked at.
    Refused,
    /// Whether it was committed is unknown.
    Lost,
}

impl Worker {
    async fn run(mut self) {
        while let Some(batch) = self.queue.clone().take().await {
            self.commit(batch).await;
        }
    }

    async fn commit(&mut self, mut batch: Batch) {
        // Neighbours in the index are inserted one after the other; what follows another on a stream stays behind it.
        batch.jobs.sort_by_key(|job| (job.append.tenant, job.append.streams.first().map(|s| s.stream_id)));
        let (rare, jobs): (Vec<&Job>, Vec<&Job>) = batch.jobs.iter().partition(|job| job.append.is_rare());
        if !jobs.is_empty() {
            let begun = Instant::now();
            let events: usize = jobs.iter().map(|job| job.append.event_count()).sum();
            metrics::histogram!("annals_append_batch_events").record(events as f64);
            match self.try_statement(&jobs).await {
                Outcome::Committed(epoch, all) => self.answer(&jobs, epoch, all),
                Outcome::Refused | Outcome::Lost => self.commit_slowly(jobs).await,
            }
            metrics::histogram!("annals_append_batch_seconds").record(begun.elapsed().as_secs_f64());
        }
        for job in rare {
            self.commit_slowly(vec![job]).await;
        }
    }

    async fn try_statement(&mut self, jobs: &[&Job]) -> Outcome {
        let epoch = self.tail.epoch();
        if jobs.iter().any(|job| job.append.epoch != epoch) {
            return Outcome::Refused;
        }
        let appends: Vec<&Append> = jobs.iter().map(|job| &job.append).collect();
        let place = (epoch, self.tail.position());
        let attempt = async { statement::append(self.link.get().await?, place, false, &appends).await };
        match in_time(attempt).await {
            Ok(Some(committed)) => Outcome::Committed(epoch, committed),
            Ok(None) => Outcome::Refused,
            Err(error) if is_data_error(&error) => Outcome::Refused,
            Err(error) => {
                tracing::warn!(
                    error = chain(&error),
                    "a batch failed, or nobody knows; its appends are submitted again"
                );
                self.link.lose();
                Outcome::Lost
            }
        }
    }

    /// Commits appends under the head's lock, each told apart from the others; repeats it until the outcome is known.
    /// Where bytes are refused, the batch is halved until it is known whose.
    async fn commit_slowly(&mut self, jobs: Vec<&Job>) {
        metrics::counter!("annals_append_slow_total").increment(1);
        let mut pause = PAUSES.0;
        let mut parts = vec![jobs];
        while let Some(mut part) = parts.pop() {
            for job in &part {
                if let Some(fate) = job.fate() {
                    job.settle(Err(fate));
                }
            }
            part.retain(|job| !job.is_settled());
            let attempt = async { transaction(self.link.get().await?, &self.tail, &part).await };
            match in_time(attempt).await {
                Ok((results, epoch)) => {
                    pause = PAUSES.0;
                    self.tail.learn_epoch(epoch);
                    for (job, result) in part.iter().zip(results) {
                        if let Ok(committed) = &result {
                            self.tail.learn(committed.position, epoch);
                        }
                        job.settle(result);
                    }
                }
                Err(error) if is_data_error(&error) && part.len() == 1 => {
                    part.iter().for_each(|job| job.settle(Err(AppendError::Refused(error.to_string()))));
                }
                Err(error) if is_data_error(&error) => {
                    let right = part.split_off(part.len() / 2);
                    parts.extend([right, part]);
                }
                Err(error) => {
                    tracing::warn!(error = chain(&error), appends = part.len(), "appends could not be committed yet");
                    self.link.lose();
                    if lacks_a_day(&error) && !self.make_days().await {
                        // Nothing of it was stored, and it may last: those without keys must not wait for it.
                        let keyed = part.iter().filter(|job| job.append.idempotency.is_some());
                        keyed.for_each(|job| job.settle(Err(AppendError::Unavailable)));
                    }
                    part.iter()
                        .filter(|job| job.is_out_of_patience())
                        .for_each(|job| job.settle(Err(AppendError::Unavailable)));
                    part.retain(|job| !job.is_settled());
                    if !part.is_empty() {
                        parts.push(part);
                        tokio::time::sleep(pause).await;
                        pause = (pause * 2).min(PAUSES.1);
                    }
                }
            }
        }
    }

    /// A log that was restored from an old backup has no tables for the keys of today.
    async fn make_days(&mut self) -> bool {
        let made = async { turn_idempotency_days(&mut *self.link.get().await?).await };
        let made = in_time(made).await;
        if let Err(error) = &made {
            tracing::warn!(error = chain(&error), "the idempotency tables of today could not be made yet");
            self.link.lose();
        }
        made.is_ok()
    }

    fn answer(&mut self, jobs: &[&Job], epoch: i64, committed: Vec<Committed>) {
        if let Some(last) = committed.iter().max_by_key(|c| c.position) {
            self.tail.learn(last.position, epoch);
        }
        for (job, committed) in jobs.iter().zip(committed) {
            job.settle(Ok(committed));
        }
    }
}

/// The slow way, in a transaction of its own.
async fn transaction(
    conn: &mut PgConnection,
    tail: &Tail,
    jobs: &[&Job],
) -> Result<(Vec<Result<Committed, AppendError>>, i64), sqlx::Error> {
    let appends: Vec<&Append> = jobs.iter().map(|job| &job.append).collect();
    let before = |(index, job): (usize, &&Job)| jobs[..index].iter().rposition(|other| job.follows(other));
    let decided_on: Vec<_> = jobs.iter().enumerate().map(before).collect();
    let mut tx = conn.begin().await?;
    match slow::append(&mut tx, tail.position(), &appends, &decided_on).await {
        Ok(appended) => {
            tx.commit().await?;
            Ok(appended)
        }
        Err(error) => {
            // Now, and not with the next batch: the server ends a session that idles in a transaction.
            if is_data_error(&error) {
                tx.rollback().await?;
            }
            Err(error)
        }
    }
}

async fn in_time<T>(attempt: impl Future<Output = Result<T, sqlx::Error>>) -> Result<T, sqlx::Error> {
    tokio::time::timeout(ANSWERS_WITHIN, attempt).await.unwrap_or(Err(sqlx::Error::WorkerCrashed))
}

/// Whether Postgres refuses what stands in the batch (classes 21, 22, 23, 54), rather than being unable to answer.
fn is_data_error(error: &sqlx::Error) -> bool {
    let code = error.as_database_error().and_then(|e| e.code());
    let refused = code.is_some_and(|code| ["21", "22", "23", "54"].iter().any(|class| code.starts_with(class)));
    refused && !lacks_a_day(error) || matches!(error, sqlx::Error::Encode(_))
}

/// Whether there is no table for the day that it is ("check violation" of the parent table).
fn lacks_a_day(error: &sqlx::Error) -> bool {
    error
        .as_database_error()
        .is_some_and(|error| error.code().as_deref() == Some("23514") && error.table() == Some("idempotency_keys"))
}
