//! Runs one projector: takes what the feed brings, reads from the log what the feed did not bring, and commits rows and
//! checkpoints batch by batch.
//!
//! Whatever goes wrong, the way out is the same: forget what is in hand, read the stored checkpoints, catch up from the log.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use eventstore::{EventStore, Evidence, Incarnations, StoreError};
use sqlx::PgPool;
use tokio::sync::{broadcast, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::adoption::{Adopted, adopt};
use crate::bells::Bells;
use crate::checkpoint::{Checkpoints, Fence, Slots, Step, prepare};
use crate::feed::Delivery;
use crate::feed::log::{LogReader, Slotted, size};
use crate::feed::rules::{self, Reaction};
use crate::projector::{ProjectError, Projector};
use crate::running::{ProjectorState, ProjectorStatus, chain};

/// The most events of a batch: beyond that, more rows a statement make it no faster.
const BATCH: usize = 2_000;
/// The most bytes of events in hand.
const BATCH_BYTES: usize = 8 * 1024 * 1024;
/// How long events that concern no row of the projector may wait for others before their checkpoint is written.
const LAZY: Duration = Duration::from_millis(20);
/// The least time between two batches from Kafka: under load, fewer and fuller ones leave more of the machine to requests.
const PACE: Duration = Duration::from_millis(5);
/// How often a process without slots looks whether anybody does the work, which nobody does until the group has given
/// up a member that was killed.
const STANDBY_LOOK: Duration = Duration::from_secs(1);
/// How long a feed may be silent while the log goes on: longer than from one heartbeat to the next.
const SILENCE: Duration = Duration::from_millis(1_500);
/// The pauses between tries while something fails that may pass: the first and the longest.
const PAUSES: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

/// Where a runner gets its events from.
#[derive(Clone)]
pub(crate) enum Source {
    /// The log itself; all slots are its own.
    Log,
    /// Kafka, which also says which slots are its own.
    Kafka {
        /// What every projector of this process hears.
        deliveries: broadcast::Sender<Delivery>,
        /// The slots of this process.
        slots: watch::Receiver<Slots>,
        /// The topic, by which the log knows what was published.
        topic: Arc<str>,
    },
}

/// What every runner of a process shares.
#[derive(Clone)]
pub(crate) struct Shared {
    pub(crate) store: EventStore,
    pub(crate) log: LogReader,
    pub(crate) pool: PgPool,
    pub(crate) bells: Bells,
}

/// Why a session ended.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("another process has moved the checkpoints")]
    Fenced,
    #[error("the slots of this process have changed")]
    Reassigned,
    #[error("the log was restored")]
    LogRestored,
    #[error("the rows are of revision {rows}, this binary makes revision {ours}: the read model must be rebuilt")]
    OtherRevision { rows: i32, ours: i32 },
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

pub(crate) struct Runner {
    projector: Arc<dyn Projector>,
    shared: Shared,
    status: watch::Sender<ProjectorStatus>,
    stop: CancellationToken,
    generation: i32,
    /// The lives of the log, as the session knows them.
    incarnations: Incarnations,
    checkpoints: Checkpoints,
    pending: Pending,
    /// How many events a batch may have; halved while a batch fails, to come to the one that does.
    limit: usize,
    /// Where the process that has all slots has come to: positions are dense, so counting says it.
    counted: i64,
}

/// The events in hand, in order.
#[derive(Default)]
struct Pending {
    events: Vec<Slotted>,
    bytes: usize,
    /// Whether any of them concerns a row.
    urgent: bool,
    since: Option<Instant>,
    /// Before this the next batch is not due.
    paced: Option<Instant>,
}

impl Runner {
    pub(crate) fn new(
        projector: Arc<dyn Projector>,
        shared: Shared,
        status: watch::Sender<ProjectorStatus>,
        stop: CancellationToken,
    ) -> Self {
        let (incarnations, pending) = (Incarnations::default(), Pending::default());
        let checkpoints = Checkpoints::new(projector.name(), 0, incarnations.newest().id);
        let (generation, limit, counted) = (0, BATCH, 0);
        Self { projector, shared, status, stop, generation, incarnations, checkpoints, pending, limit, counted }
    }

    /// Runs until it is stopped; a projector that is paused waits for that too.
    pub(crate) async fn run(mut self, mut source: Source) {
        let name = self.projector.name();
        let mut pause = PAUSES.0;
        loop {
            let before = self.counted;
            let failure = match self.session(&mut source).await {
                Ok(()) => break,
                Err(failure) => failure,
            };
            if self.counted > before {
                pause = PAUSES.0;
            }
            match failure {
                Failure::Fenced | Failure::Reassigned | Failure::LogRestored => {
                    tracing::info!(projector = name, "{failure}; going on from what is stored");
                    continue;
                }
                _ if failure.is_deterministic() => {
                    tracing::error!(projector = name, error = chain(&failure), "projector paused");
                    self.report(ProjectorState::Paused, Some(chain(&failure)));
                    self.stop.cancelled().await;
                    break;
                }
                _ => {
                    tracing::warn!(projector = name, error = chain(&failure), "projector failed, trying again");
                    self.report(ProjectorState::Retrying, Some(chain(&failure)));
                }
            }
            if self.stop.run_until_cancelled(tokio::time::sleep(pause)).await.is_none() {
                break;
            }
            pause = (pause * 2).min(PAUSES.1);
        }
        if self.status.borrow().state != ProjectorState::Paused {
            self.report(ProjectorState::Standby, None);
        }
    }

    /// From the stored checkpoints to the log's end, and on with what the feed brings.
    async fn session(&mut self, source: &mut Source) -> Result<(), Failure> {
        let slots = match source {
            Source::Log => Slots::ALL,
            Source::Kafka { slots, .. } => *slots.borrow_and_update(),
        };
        // Listening begins before the log is read, so that the two overlap.
        let deliveries = match source {
            Source::Kafka { deliveries, .. } => Some(deliveries.subscribe()),
            Source::Log => None,
        };
        self.begin(slots).await?;
        if slots.is_empty() {
            self.report(ProjectorState::Standby, None);
        } else {
            self.report(ProjectorState::CatchingUp, None);
            self.catch_up(0).await?;
            self.report(ProjectorState::Live, None);
        }
        match (source, deliveries) {
            (Source::Kafka { slots, topic, .. }, Some(_)) if self.checkpoints.slots.is_empty() => {
                self.stand_by(slots, topic).await
            }
            (Source::Kafka { slots, .. }, Some(deliveries)) => self.follow_kafka(deliveries, slots).await,
            _ => self.follow_log().await,
        }
    }

    async fn begin(&mut self, slots: Slots) -> Result<(), Failure> {
        // A connection may have been lost because the log was restored: then this process knows from here on.
        self.shared.store.look().await?;
        let tail = self.shared.store.tail();
        (self.incarnations, self.pending) = (tail.incarnations(), Pending::default());
        let end = tail.position();
        let mut conn = self.shared.pool.acquire().await?;
        let (generation, revision) = prepare(self.projector.name(), self.projector.revision(), &mut conn).await?;
        if revision != self.projector.revision() {
            return Err(Failure::OtherRevision { rows: revision, ours: self.projector.revision() });
        }
        self.generation = generation;
        if let Adopted::Beyond(place) = adopt(&*self.projector, generation, &self.incarnations, end, &mut conn).await? {
            drop(conn);
            self.shared.store.settle(&[Evidence::Seen { by: "a read model", place }]).await?;
            return Err(Failure::LogRestored);
        }
        self.checkpoints = Checkpoints::new(self.projector.name(), generation, self.incarnations.newest().id);
        self.checkpoints.slots = slots;
        self.checkpoints.load(&mut conn).await?;
        self.counted = self.checkpoints.low();
        Ok(())
    }

    async fn follow_log(&mut self) -> Result<(), Failure> {
        let (stop, tail) = (self.stop.clone(), self.shared.store.tail().clone());
        loop {
            let due = self.pending.due();
            tokio::select! {
                biased;
                () = stop.cancelled() => return self.settle().await,
                _ = tail.incarnation_past(self.incarnations.newest().id) => return Err(Failure::LogRestored),
                () = at(due) => self.flush().await?,
                _ = tail.past(self.checkpoints.low()) => self.catch_up(0).await?,
            }
        }
    }

    /// Waits for slots; while nobody does what was published, does it from the log. The fence keeps two from doing it twice.
    async fn stand_by(&mut self, slots: &mut watch::Receiver<Slots>, topic: &str) -> Result<(), Failure> {
        let stop = self.stop.clone();
        let mut neglected = Vec::new();
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => return Ok(()),
                changed = slots.changed() => match changed {
                    Ok(()) => return Err(Failure::Reassigned),
                    Err(_) => { stop.cancelled().await; continue }
                },
                () = tokio::time::sleep(STANDBY_LOOK) => {}
            }
            let published = self.shared.store.relay_cursor(topic).await?.slots;
            self.begin(Slots::ALL).await?;
            let behind: Vec<_> =
                (0..).zip(published).filter(|(slot, last)| self.checkpoints.covered(*slot) < *last).collect();
            let still = behind.iter().any(|(slot, _)| neglected.iter().any(|(before, _)| before == slot));
            if still {
                tracing::info!(projector = self.projector.name(), "nobody keeps some slots: reading them from the log");
                self.catch_up(0).await?;
                self.settle().await?;
            }
            neglected = if still { Vec::new() } else { behind };
            self.begin(Slots::default()).await?;
        }
    }

    async fn follow_kafka(
        &mut self,
        mut deliveries: broadcast::Receiver<Delivery>,
        slots: &mut watch::Receiver<Slots>,
    ) -> Result<(), Failure> {
        use broadcast::error::{RecvError, TryRecvError};
        let (stop, tail) = (self.stop.clone(), self.shared.store.tail().clone());
        let mut heard_at = Instant::now();
        loop {
            let due = self.pending.due();
            let received = tokio::select! {
                biased;
                () = stop.cancelled() => return self.settle().await,
                _ = tail.incarnation_past(self.incarnations.newest().id) => return Err(Failure::LogRestored),
                changed = slots.changed() => {
                    self.flush().await?;
                    match changed {
                        Ok(()) => return Err(Failure::Reassigned),
                        Err(_) => { stop.cancelled().await; continue }
                    }
                }
                () = at(due) => { self.flush().await?; continue }
                received = deliveries.recv() => received,
                // Kafka or the relay is down: what goes on in the slots of this process is in the log.
                () = tokio::time::sleep_until(heard_at + SILENCE) => {
                    self.catch_up(0).await?;
                    heard_at = Instant::now();
                    continue;
                }
            };
            heard_at = Instant::now();
            match received {
                Ok(delivery) => self.hear(&delivery).await?,
                Err(RecvError::Lagged(_)) => self.catch_up(0).await?,
                Err(RecvError::Closed) => {
                    stop.cancelled().await;
                    continue;
                }
            }
            // What has come meanwhile goes into the same batch.
            while !self.pending.is_full() {
                match deliveries.try_recv() {
                    Ok(delivery) => self.hear(&delivery).await?,
                    Err(TryRecvError::Lagged(_)) => self.catch_up(0).await?,
                    Err(TryRecvError::Empty | TryRecvError::Closed) => break,
                }
            }
            if self.pending.is_full() || self.pending.due().is_some_and(|due| due <= Instant::now()) {
                self.flush().await?;
            }
        }
    }

    async fn hear(&mut self, delivery: &Delivery) -> Result<(), Failure> {
        let incarnations = self.incarnations.clone();
        for message in delivery.iter().filter(|message| message.counts(&incarnations)) {
            match rules::react(&self.checkpoints, message) {
                Reaction::Pass => {}
                Reaction::Take(event) => self.take(event.clone()),
                Reaction::CatchUp(least) => self.catch_up(least).await?,
            }
            rules::note(&mut self.checkpoints, message);
        }
        Ok(())
    }

    /// Reads the log from the lowest checkpoint to its end, at least to `least`, and applies what is not applied.
    async fn catch_up(&mut self, least: i64) -> Result<(), Failure> {
        let mut at = self.checkpoints.low();
        while !self.stop.is_cancelled() {
            let tail = self.shared.store.tail();
            if tail.incarnation() != self.incarnations.newest().id {
                return Err(Failure::LogRestored);
            }
            let end = tail.position().max(least);
            if at >= end {
                break;
            }
            let read = self.shared.log.read(at, end).await?;
            let Some(last) = read.last() else { break };
            at = last.event.position;
            for slotted in read {
                // The log has every event, so the one before was either covered or just taken.
                if self.checkpoints.step(slotted.slot, slotted.event.position, 0) == Step::Apply {
                    self.take(slotted);
                }
            }
            self.checkpoints.cover_all(at);
            self.counted = at;
            if self.pending.is_full() {
                self.flush().await?;
            }
        }
        if self.pending.urgent { self.flush().await } else { Ok(()) }
    }

    fn take(&mut self, slotted: Slotted) {
        self.checkpoints.cover(slotted.slot, slotted.event.position);
        self.counted += 1;
        self.pending.urgent |= self.projector.interested(&slotted.event.stream_type);
        self.pending.bytes += size(&slotted.event);
        self.pending.since.get_or_insert_with(Instant::now);
        self.pending.events.push(slotted);
    }

    /// Commits what is in hand. Where a batch can't be applied, its halves are tried, and so on down to the event that
    /// can't: all before it are applied.
    async fn flush(&mut self) -> Result<(), Failure> {
        let mut events = std::mem::take(&mut self.pending).events;
        self.pending.paced = Some(Instant::now() + PACE);
        while !events.is_empty() {
            let count = events.len().min(self.limit);
            let (batch, rest) = events.split_at(count);
            match self.commit(batch, rest).await {
                Ok(()) => {
                    events.drain(..count);
                    self.limit = (self.limit * 2).min(BATCH);
                }
                Err(failure) if failure.is_deterministic() && count > 1 => self.limit = count / 2,
                Err(failure) => return Err(failure),
            }
        }
        let position = if self.checkpoints.slots == Slots::ALL { self.counted } else { self.checkpoints.low() };
        self.status.send_modify(|status| status.position = position);
        Ok(())
    }

    /// One transaction: the fence, the tenants' sequences, the rows.
    async fn commit(&mut self, batch: &[Slotted], rest: &[Slotted]) -> Result<(), Failure> {
        let (mut ends, mut sequences) = (BTreeMap::new(), BTreeMap::<Uuid, i64>::new());
        for slotted in batch {
            ends.insert(slotted.slot, slotted.event.position);
            sequences.insert(slotted.event.tenant_id, slotted.event.sequence);
        }
        let mut busy = Slots::default();
        rest.iter().for_each(|slotted| busy.insert(slotted.slot));
        let ends: Vec<_> = ends.into_iter().collect();
        let sequences: Vec<_> = sequences.into_iter().collect();
        let moves = self.checkpoints.moves(&ends, busy, false);
        let concerned = batch.iter().filter(|slotted| self.projector.interested(&slotted.event.stream_type));
        let concerned: Vec<_> = concerned.map(|slotted| slotted.event.clone()).collect();

        let mut tx = self.shared.pool.begin().await?;
        if self.checkpoints.fence(&moves, &sequences, &mut tx).await? == Fence::Closed {
            return Err(Failure::Fenced);
        }
        if !concerned.is_empty() {
            self.projector.project(self.generation, &concerned, &mut tx).await?;
        }
        tx.commit().await?;

        self.checkpoints.committed(&moves);
        self.shared.bells.ring(self.projector.name(), self.incarnations.newest().id, sequences);
        let name = self.projector.name();
        metrics::counter!("annals_projector_events_total", "projector" => name).increment(batch.len() as u64);
        metrics::histogram!("annals_projector_batch_events", "projector" => name).record(batch.len() as f64);
        Ok(())
    }

    /// The end in good order: what is in hand is committed, and every slot's checkpoint is written, so that the next
    /// start has nothing to read.
    async fn settle(&mut self) -> Result<(), Failure> {
        self.flush().await?;
        let moves = self.checkpoints.moves(&[], Slots::default(), true);
        if !moves.is_empty() {
            let mut tx = self.shared.pool.begin().await?;
            if self.checkpoints.fence(&moves, &[], &mut tx).await? == Fence::Passed {
                tx.commit().await?;
            }
        }
        Ok(())
    }

    fn report(&self, state: ProjectorState, error: Option<String>) {
        let position = if self.checkpoints.slots == Slots::ALL { self.counted } else { self.checkpoints.low() };
        self.status.send_modify(|status| {
            status.state = state;
            status.position = position;
            status.error = error;
        });
    }
}

impl Pending {
    fn is_full(&self) -> bool {
        self.events.len() >= BATCH || self.bytes >= BATCH_BYTES
    }

    /// When it must be committed, if there is anything in hand.
    fn due(&self) -> Option<Instant> {
        let since = self.since?;
        let due = if self.urgent { since } else { since + LAZY };
        Some(self.paced.map_or(due, |paced| due.max(paced)))
    }
}

impl Failure {
    fn is_deterministic(&self) -> bool {
        match self {
            Self::OtherRevision { .. } | Self::Log(StoreError::Decode(_)) => true,
            Self::Project(error) => error.is_deterministic(),
            Self::Fenced | Self::Reassigned | Self::LogRestored | Self::Log(_) => false,
        }
    }
}

async fn at(time: Option<Instant>) {
    match time {
        Some(time) => tokio::time::sleep_until(time).await,
        None => std::future::pending().await,
    }
}
