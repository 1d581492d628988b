//! What waits for the writer: one lane a tenant, taken in turns, so that an importer can't starve the others.
//!
//! Architecture Invariant: a stream is in one batch at a time. Within a batch appends to it follow one another; one that
//! was decided upon another is committed after it or not at all.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;
use uuid::Uuid;

use crate::append::{Append, AppendError, Committed};

/// The most events that one statement commits: beyond it, latency grows and throughput does not.
pub(crate) const MAX_BATCH_EVENTS: usize = 4_000;
/// The most bytes of one statement.
pub(crate) const MAX_BATCH_BYTES: usize = 4 * 1024 * 1024;
/// How many appends may wait, and how many bytes; more are told to come back, save those of a tenant that has less than
/// its share of the room.
const ROOM: (usize, usize) = (10_000, 64 * 1024 * 1024);
/// While a batch is being committed, the next is put together before the end of that once so many appends wait: fewer
/// would only mean more commits for the same appends.
const OVERLAP: usize = 32;
/// After a commit that took long (a disk's flush), whoever was in it is given a moment to come again: the part of that
/// time, and the most.
const LINGER: (u32, Duration) = (5, Duration::from_micros(500));
/// From when on a commit took long.
const LONG: Duration = Duration::from_millis(1);
/// How long an append may wait before it is told to come back.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

/// Tenant and stream.
type StreamKey = (Uuid, Uuid);

/// What becomes of an append, for its caller and for those that are decided upon it.
#[derive(Debug, Default)]
struct Ticket {
    outcome: OnceLock<Result<Committed, AppendError>>,
    settled: Notify,
}

/// An append that was handed over; clones wait for the same outcome.
#[derive(Clone, Debug)]
pub struct Pending(Arc<Ticket>);

impl Pending {
    /// How it went; waits until that is known. An error means that nothing was stored, save `Unavailable` after a lost
    /// connection, where it is not known.
    pub async fn outcome(&self) -> Result<Committed, AppendError> {
        loop {
            let settled = self.0.settled.notified();
            tokio::pin!(settled);
            settled.as_mut().enable();
            if let Some(outcome) = self.settled() {
                return outcome;
            }
            settled.await;
        }
    }

    /// How it went, if that is known yet.
    pub fn settled(&self) -> Option<Result<Committed, AppendError>> {
        self.0.outcome.get().cloned()
    }

    fn is_committed(&self) -> bool {
        matches!(self.0.outcome.get(), Some(Ok(_)))
    }

    fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    fn settle(&self, outcome: Result<Committed, AppendError>) {
        if self.0.outcome.set(outcome).is_ok() {
            self.0.settled.notify_waiters();
        }
    }
}

/// An append on its way.
pub(crate) struct Job {
    pub(crate) append: Append,
    pending: Pending,
    /// The append that it was decided upon, where that was not committed yet.
    after: Option<Pending>,
    /// When it came: patience is the caller's, not the queue's.
    begun: Instant,
    bytes: usize,
}

impl Job {
    pub(crate) fn settle(&self, outcome: Result<Committed, AppendError>) {
        self.pending.settle(outcome);
    }

    pub(crate) fn is_settled(&self) -> bool {
        self.pending.0.outcome.get().is_some()
    }

    /// What it comes to where what it was decided upon came to nothing, given that it was handed to the log together with
    /// that: where nobody knows of the one, nobody knows of the other.
    pub(crate) fn fate(&self) -> Option<AppendError> {
        match self.after.as_ref()?.0.outcome.get()? {
            Ok(_) => None,
            Err(AppendError::Unavailable) => Some(AppendError::Unavailable),
            Err(_) => Some(AppendError::Superseded),
        }
    }

    /// Whether it was decided upon that one.
    pub(crate) fn follows(&self, other: &Self) -> bool {
        self.after.as_ref().is_some_and(|after| after.is(&other.pending))
    }

    pub(crate) fn is_out_of_patience(&self) -> bool {
        self.begun.elapsed() > PATIENCE
    }

    /// Whether others may follow it in its batch: it has one stream, and is no append that is committed apart.
    fn is_plain(&self) -> bool {
        self.append.streams.len() == 1 && !self.append.is_rare()
    }

    fn keys(&self) -> impl Iterator<Item = StreamKey> + '_ {
        self.append.streams.iter().map(|stream| (self.append.tenant, stream.stream_id))
    }
}

/// Nobody waits for ever: what goes away unsettled was not committed by us.
impl Drop for Job {
    fn drop(&mut self) {
        self.pending.settle(Err(AppendError::Unavailable));
    }
}

/// What is committed together. Its streams are free again once it is dropped.
pub(crate) struct Batch {
    pub(crate) jobs: Vec<Job>,
    queue: Arc<Queue>,
    begun: Instant,
}

impl Drop for Batch {
    fn drop(&mut self) {
        self.queue.finish(std::mem::take(&mut self.jobs), self.begun.elapsed());
    }
}

/// See the module.
#[derive(Default)]
pub(crate) struct Queue {
    waiting: Mutex<Waiting>,
    ready: Notify,
}

#[derive(Default)]
struct Waiting {
    lanes: HashMap<Uuid, VecDeque<Job>>,
    /// The tenants with something in their lane; the first is next.
    turns: VecDeque<Uuid>,
    /// Streams that are in a batch, with what waits for the end of that.
    in_flight: HashMap<StreamKey, VecDeque<Job>>,
    /// How many appends of each tenant wait, in its lane or for a stream, and how many bytes.
    counts: HashMap<Uuid, (usize, usize)>,
    jobs: usize,
    bytes: usize,
    closed: bool,
    /// How many batches are being committed.
    flying: usize,
    /// Until when more appends are waited for, and how many.
    linger: Option<(Instant, usize)>,
}

/// The streams of a batch that is being put together, each with its last append; none where nothing more may follow in
/// this batch.
type Tips = HashMap<StreamKey, Option<Pending>>;

impl Queue {
    /// Takes an append in, behind `after` where it was decided upon that.
    pub(crate) fn push(&self, append: Append, after: Option<Pending>) -> Result<Pending, AppendError> {
        let pending = Pending(Arc::default());
        let bytes = append.bytes();
        let job = Job { append, pending: pending.clone(), after, begun: Instant::now(), bytes };
        let mut waiting = self.lock();
        if waiting.closed || !waiting.has_room(job.append.tenant) {
            metrics::counter!("annals_append_refused_total").increment(1);
            return Err(AppendError::Unavailable);
        }
        let count = waiting.counts.entry(job.append.tenant).or_default();
        *count = (count.0 + 1, count.1 + bytes);
        waiting.jobs += 1;
        waiting.bytes += bytes;
        waiting.measure();
        waiting.enqueue(job);
        drop(waiting);
        self.ready.notify_one();
        Ok(pending)
    }

    /// What is to be committed next, as soon as there is anything; none once the queue is closed.
    pub(crate) async fn take(self: &Arc<Self>) -> Option<Batch> {
        loop {
            let ready = self.ready.notified();
            tokio::pin!(ready);
            ready.as_mut().enable();
            let lingers = {
                let mut waiting = self.lock();
                if waiting.closed {
                    self.ready.notify_one();
                    return None;
                }
                let lingers = waiting.lingers();
                let jobs = if lingers || waiting.is_better_later() { Vec::new() } else { waiting.next_batch() };
                if !jobs.is_empty() {
                    waiting.flying += 1;
                    if !waiting.turns.is_empty() {
                        self.ready.notify_one();
                    }
                    return Some(Batch { jobs, queue: self.clone(), begun: Instant::now() });
                }
                lingers
            };
            if lingers {
                // A timer would take longer than what is waited for.
                tokio::task::yield_now().await;
            } else {
                ready.await;
            }
        }
    }

    /// Tells those to come back who have waited for too long, also while no batch comes to its end.
    pub(crate) fn expire(&self) {
        let expired = self.lock().expire();
        drop(expired);
    }

    /// Takes nothing more in; whoever still waits is told to come back.
    pub(crate) fn close(&self) {
        let mut waiting = self.lock();
        let left = std::mem::take(&mut *waiting);
        waiting.closed = true;
        drop(waiting);
        drop(left);
        self.ready.notify_one();
    }

    fn finish(&self, jobs: Vec<Job>, took: Duration) {
        // Where each stream stands now, as far as this batch knows.
        let mut versions = HashMap::<StreamKey, i64>::new();
        let handed_over: HashSet<_> = jobs.iter().filter_map(|job| job.append.last_event_id()).collect();
        for job in &jobs {
            let committed = job.pending.is_committed();
            for stream in &job.append.streams {
                let version = if committed { stream.expected_version + stream.events.len() as i64 } else { 0 };
                let known = versions.entry((job.append.tenant, stream.stream_id)).or_default();
                *known = version.max(*known);
            }
        }
        let mut waiting = self.lock();
        waiting.flying = waiting.flying.saturating_sub(1);
        let moment = (took / LINGER.0).min(LINGER.1);
        waiting.linger = (took > LONG && jobs.len() > 1).then(|| (Instant::now() + moment, jobs.len()));
        for (key, version) in versions {
            let waiters = waiting.in_flight.remove(&key).unwrap_or_default();
            // Back to the front of the lane, in their order.
            for waiter in waiters.into_iter().rev() {
                if waiter.append.last_event_id().is_some_and(|id| handed_over.contains(&id)) {
                    // The same append once more: the log knows where it stands.
                    waiting.put_back(waiter, key.1, 0);
                } else {
                    waiting.put_back(waiter, key.1, version);
                }
            }
        }
        drop(waiting);
        self.ready.notify_one();
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Waiting {
    /// Whether one more append of the tenant is taken in: while there is room, and beyond that for who has less than
    /// an equal share.
    fn has_room(&self, tenant: Uuid) -> bool {
        let own = self.counts.get(&tenant).copied().unwrap_or_default();
        let share = |room: usize| room / 8 / (self.counts.len() + 1);
        self.jobs < ROOM.0 && self.bytes < ROOM.1 || own.0 < share(ROOM.0) && own.1 < share(ROOM.1)
    }

    /// Whether the appends of the last batch are still likely to be followed by others.
    fn lingers(&mut self) -> bool {
        let still = |(until, jobs)| self.flying == 0 && self.jobs < jobs && Instant::now() < until;
        self.linger = self.linger.filter(|linger| still(*linger));
        self.linger.is_some() && !self.turns.is_empty()
    }

    fn is_better_later(&self) -> bool {
        self.flying > 0 && self.jobs < OVERLAP
    }

    fn enqueue(&mut self, job: Job) {
        let lane = self.lanes.entry(job.append.tenant).or_default();
        if lane.is_empty() {
            self.turns.push_back(job.append.tenant);
        }
        lane.push_back(job);
    }

    /// One that waited for a stream. What expects a version that has passed has lost without asking the log.
    fn put_back(&mut self, job: Job, stream_id: Uuid, actual: i64) {
        if job.append.streams.iter().any(|s| s.stream_id == stream_id && s.expected_version < actual) {
            self.forget(&job);
            job.settle(Err(AppendError::Conflict { stream_id, actual }));
            return;
        }
        self.put_in_front(job);
    }

    fn put_in_front(&mut self, job: Job) {
        let lane = self.lanes.entry(job.append.tenant).or_default();
        if lane.is_empty() {
            self.turns.push_back(job.append.tenant);
        }
        lane.push_front(job);
    }

    /// Takes out those that are out of patience.
    fn expire(&mut self) -> Vec<Job> {
        let mut expired = Vec::new();
        let mut sift = |jobs: &mut VecDeque<Job>| {
            while jobs.front().is_some_and(Job::is_out_of_patience) {
                expired.extend(jobs.pop_front());
            }
        };
        self.lanes.values_mut().for_each(&mut sift);
        self.in_flight.values_mut().for_each(&mut sift);
        self.lanes.retain(|_, lane| !lane.is_empty());
        self.turns.retain(|tenant| self.lanes.contains_key(tenant));
        expired.iter().for_each(|job| self.forget(job));
        expired
    }

    fn measure(&self) {
        metrics::gauge!("annals_append_queue").set(self.jobs as f64);
    }

    fn forget(&mut self, job: &Job) {
        self.jobs = self.jobs.saturating_sub(1);
        self.bytes = self.bytes.saturating_sub(job.bytes);
        self.measure();
        if let Some(count) = self.counts.get_mut(&job.append.tenant) {
            *count = (count.0.saturating_sub(1), count.1.saturating_sub(job.bytes));
            if count.0 == 0 {
                self.counts.remove(&job.append.tenant);
            }
        }
    }

    /// One append of each tenant in turn, within the bounds of a statement.
    fn next_batch(&mut self) -> Vec<Job> {
        let (mut jobs, mut tips) = (Vec::new(), Tips::new());
        let (mut events, mut bytes) = (0, 0);
        while let Some(job) = self.next_in_turn() {
            if job.is_out_of_patience() {
                self.forget(&job);
                continue;
            }
            if !jobs.is_empty()
                && (events + job.append.event_count() > MAX_BATCH_EVENTS || bytes + job.bytes > MAX_BATCH_BYTES)
            {
                self.put_in_front(job);
                break;
            }
            if let Some(busy) = self.busy(&job, &tips) {
                self.in_flight.entry(busy).or_default().push_back(job);
                continue;
            }
            self.forget(&job);
            // What it was decided upon is in this batch before it, or was settled.
            let follows = job.keys().any(|key| tips.contains_key(&key));
            if !follows && job.after.as_ref().is_some_and(|after| !after.is_committed()) {
                job.settle(Err(AppendError::Superseded));
                continue;
            }
            note(&job, &mut tips);
            for key in job.keys() {
                self.in_flight.entry(key).or_default();
            }
            events += job.append.event_count();
            bytes += job.bytes;
            jobs.push(job);
        }
        jobs
    }

    fn next_in_turn(&mut self) -> Option<Job> {
        let tenant = self.turns.pop_front()?;
        let lane = self.lanes.get_mut(&tenant)?;
        let job = lane.pop_front();
        if lane.is_empty() {
            self.lanes.remove(&tenant);
        } else {
            self.turns.push_back(tenant);
        }
        job
    }

    /// The stream that the append has to wait for: one that is in another batch, or in this one with a last append that
    /// it was not decided upon.
    fn busy(&self, job: &Job, tips: &Tips) -> Option<StreamKey> {
        job.keys().find(|key| match tips.get(key) {
            Some(tip) => {
                !job.is_plain() || !tip.as_ref().zip(job.after.as_ref()).is_some_and(|(tip, after)| tip.is(after))
            }
            None => self.in_flight.contains_key(key),
        })
    }
}

/// Notes what the append leaves of its streams for others in the same batch. Behind one with more streams, or one that
/// is committed apart, nothing follows.
fn note(job: &Job, tips: &mut Tips) {
    tips.extend(job.keys().map(|key| (key, job.is_plain().then(|| job.pending.clone()))));
}

#[cfg(test)]
#[path = "queue_tests.rs"]
mod tests;
