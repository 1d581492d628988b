//! Group commit: two workers take turns at committing whatever waits, as one statement a batch.
//!
//! A batch that Postgres refuses is halved until each refused append stands alone; alone it is checked under the head's
//! lock, so that its caller hears which rule it broke and nobody else hears anything.

use std::sync::Arc;
use std::time::{Duration, Instant};

use sqlx::Connection;
use sqlx::postgres::PgPool;
use tokio::sync::{Mutex, mpsc, oneshot};

use crate::append::{Append, AppendError, Committed};
use crate::event::MAX_EVENT_BYTES;
use crate::tail::Tail;
use crate::{alone, statement};

/// The most events that one statement commits: beyond it, latency grows and throughput does not.
const MAX_BATCH_EVENTS: usize = 4_000;
/// The most bytes of one statement.
const MAX_BATCH_BYTES: usize = 4 * 1024 * 1024;
/// How many appends may wait; more are told to come back.
const QUEUE: usize = 10_000;
/// How long a lost connection is tried again before a caller hears `Unavailable`.
const PATIENCE: Duration = Duration::from_secs(10);

struct Job {
    append: Append,
    reply: oneshot::Sender<Result<Committed, AppendError>>,
    /// When it came: patience is the caller's, not the queue's.
    begun: Instant,
}

/// The queue in front of the log.
#[derive(Clone)]
pub(crate) struct Writer {
    queue: mpsc::Sender<Job>,
}

impl Writer {
    /// Starts the workers on a pool of `annals_writer`; they end when the last clone of the writer is dropped.
    pub(crate) fn start(pool: PgPool, tail: Tail) -> Self {
        let (queue, jobs) = mpsc::channel(QUEUE);
        let jobs = Arc::new(Mutex::new(jobs));
        for _ in 0..2 {
            let worker = Worker { pool: pool.clone(), tail: tail.clone(), jobs: jobs.clone() };
            tokio::spawn(worker.run());
        }
        Self { queue }
    }

    /// Hands an append over and waits for its commit.
    pub(crate) async fn append(&self, append: Append) -> Result<Committed, AppendError> {
        let size = |e: &crate::NewEvent| e.payload.len() + e.metadata.len();
        let largest = append.streams.iter().flat_map(|s| &s.events).map(size).max().unwrap_or_default();
        if largest > MAX_EVENT_BYTES {
            return Err(AppendError::TooLarge { bytes: largest });
        }
        let (reply, answer) = oneshot::channel();
        self.queue.try_send(Job { append, reply, begun: Instant::now() }).map_err(|_| AppendError::Unavailable)?;
        answer.await.unwrap_or(Err(AppendError::Unavailable))
    }
}

struct Worker {
    pool: PgPool,
    tail: Tail,
    jobs: Arc<Mutex<mpsc::Receiver<Job>>>,
}

/// How a batch fared as a whole.
enum Outcome {
    Committed(Vec<Committed>),
    EpochChanged,
    /// A version, a name, a key or a byte in it is refused: look at each.
    Refused,
    /// Whether it was committed is unknown.
    Lost,
}

impl Worker {
    async fn run(self) {
        while let Some(jobs) = self.next_batch().await {
            metrics::histogram!("annals_append_batch_events")
                .record(jobs.iter().map(|job| job.append.event_count()).sum::<usize>() as f64);
            // Whoever has gone before the first attempt wants no effect any more, and will hear of none.
            let jobs: Vec<_> = jobs.into_iter().filter(|job| !job.reply.is_closed()).collect();
            let epoch = self.tail.epoch();
            let (batch, alone): (Vec<_>, Vec<_>) = jobs
                .into_iter()
                .partition(|job| !job.append.is_rare() && job.append.epoch == epoch && !near_midnight(&job.append));
            if !batch.is_empty() {
                self.commit(epoch, batch).await;
            }
            for job in alone {
                self.commit_alone(job).await;
            }
        }
    }

    /// Whatever waits, at least one, within the bounds of a statement.
    async fn next_batch(&self) -> Option<Vec<Job>> {
        let mut jobs = self.jobs.lock().await;
        let first = jobs.recv().await?;
        let (mut events, mut bytes) = (first.append.event_count(), first.append.bytes());
        let mut batch = vec![first];
        while events < MAX_BATCH_EVENTS && bytes < MAX_BATCH_BYTES {
            let Ok(job) = jobs.try_recv() else { break };
            events += job.append.event_count();
            bytes += job.append.bytes();
            batch.push(job);
        }
        Some(batch)
    }

    /// Commits the batch as one statement; where that is refused, its halves.
    async fn commit(&self, epoch: i64, mut batch: Vec<Job>) {
        // Neighbours in the index are inserted one after the other.
        batch.sort_by_key(|job| (job.append.tenant, job.append.streams.first().map(|s| s.stream_id)));
        let mut parts = vec![batch];
        while let Some(mut part) = parts.pop() {
            if part.len() == 1 {
                if let Some(job) = part.pop() {
                    self.commit_single(epoch, job).await;
                }
                continue;
            }
            match self.try_statement(epoch, &part.iter().map(|job| &job.append).collect::<Vec<_>>()).await {
                Outcome::Committed(all) => self.answer(epoch, part, all),
                Outcome::Refused => {
                    let right = part.split_off(part.len() / 2);
                    parts.push(right);
                    parts.push(part);
                }
                Outcome::EpochChanged | Outcome::Lost => {
                    for job in part {
                        self.commit_alone(job).await;
                    }
                }
            }
        }
    }

    async fn commit_single(&self, epoch: i64, job: Job) {
        match self.try_statement(epoch, &[&job.append]).await {
            Outcome::Committed(all) => self.answer(epoch, vec![job], all),
            Outcome::EpochChanged | Outcome::Refused | Outcome::Lost => self.commit_alone(job).await,
        }
    }

    async fn try_statement(&self, epoch: i64, batch: &[&Append]) -> Outcome {
        let attempt = async {
            let mut conn = self.pool.acquire().await?;
            statement::append(&mut conn, epoch, batch).await
        };
        match attempt.await {
            Ok(Some(committed)) => Outcome::Committed(committed),
            Ok(None) => Outcome::EpochChanged,
            Err(error) if is_data_error(&error) => Outcome::Refused,
            Err(error) => {
                tracing::warn!(%error, "the outcome of a batch is unknown; each of its appends is submitted again");
                Outcome::Lost
            }
        }
    }

    /// Commits one append under the head's lock, told apart from all others; repeats it until its outcome is known.
    async fn commit_alone(&self, job: Job) {
        let mut pause = Duration::from_millis(20);
        let result = loop {
            let attempt = async {
                let mut conn = self.pool.acquire().await?;
                let mut tx = conn.begin().await?;
                let result = alone::append(&mut tx, &job.append).await?;
                match result {
                    Ok((committed, epoch)) => {
                        tx.commit().await?;
                        self.tail.learn(committed.position, epoch);
                        Ok::<_, sqlx::Error>(Ok(committed))
                    }
                    Err(refused) => {
                        tx.rollback().await?;
                        Ok(Err(refused))
                    }
                }
            };
            match attempt.await {
                Ok(result) => break result,
                Err(error) if is_data_error(&error) => break Err(AppendError::Refused(error.to_string())),
                Err(error) if job.begun.elapsed() > PATIENCE => {
                    tracing::error!(%error, "an append could not be committed");
                    break Err(AppendError::Unavailable);
                }
                Err(_) => {
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(Duration::from_secs(1));
                }
            }
        };
        // The caller may have gone; the append stands all the same.
        let _ = job.reply.send(result);
    }

    fn answer(&self, epoch: i64, jobs: Vec<Job>, committed: Vec<Committed>) {
        if let Some(last) = committed.iter().map(|c| c.position).max() {
            self.tail.learn(last, epoch);
        }
        for (job, committed) in jobs.into_iter().zip(committed) {
            let _ = job.reply.send(Ok(committed));
        }
    }
}

/// The same key may be on its way to yesterday's table and to today's: around midnight look under the lock.
fn near_midnight(append: &Append) -> bool {
    append.idempotency.is_some()
        && append
            .streams
            .first()
            .and_then(|s| s.events.first())
            .is_some_and(|e| matches!(uuid_minute(e.event_id), 0 | 1_439))
}

/// The minute of the day in which a UUIDv7 was made.
fn uuid_minute(id: uuid::Uuid) -> u64 {
    id.get_timestamp().map_or(1, |t| t.to_unix().0 / 60 % (24 * 60))
}

/// Whether Postgres refuses what stands in the batch (classes 21, 22, 23, 54), rather than being unable to answer.
fn is_data_error(error: &sqlx::Error) -> bool {
    let code = error.as_database_error().and_then(|e| e.code());
    let refused = code.is_some_and(|code| ["21", "22", "23", "54"].iter().any(|class| code.starts_with(class)));
    refused || matches!(error, sqlx::Error::Encode(_))
}
