//! Runs one projector: takes what the feed brings, reads from the log what the feed did not bring, and commits rows and
//! checkpoints batch by batch.
//!
//! Whatever goes wrong, the way out is the same: forget what is in hand, read the stored checkpoints, catch up from the log.

use std::sync::Arc;
use std::time::Duration;

use eventstore::{EventStore, Evidence, Incarnations, chain};
use sqlx::PgPool;
use tokio::sync::{broadcast, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::adoption::{Adopted, adopt};
use crate::batches::Batches;
use crate::bells::Bells;
use crate::checkpoint::{Slots, Step};
use crate::controls::Control;
use crate::failure::Failure;
use crate::feed::Delivery;
use crate::feed::log::{LogReader, Slotted};
use crate::feed::rules::{self, Reaction};
use crate::generations::{self, Purpose, prepare};
use crate::pending::{BATCH, Pending};
use crate::projector::Projector;
use crate::running::{ProjectorState, ProjectorStatus};

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
    /// The log itself.
    Log {
        /// The slots of this process.
        slots: watch::Receiver<Slots>,
    },
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

pub(crate) struct Runner {
    projector: Arc<dyn Projector>,
    shared: Shared,
    status: watch::Sender<ProjectorStatus>,
    /// What operators ask of it.
    control: watch::Receiver<Control>,
    /// The slots of this process, of which the session has those that it began with.
    assigned: Option<watch::Receiver<Slots>>,
    stop: CancellationToken,
    /// The lives of the log, as the session knows them.
    incarnations: Incarnations,
    batches: Batches,
    pending: Pending,
    /// Where the process that has all slots has come to: positions are dense, so counting says it.
    counted: i64,
    /// How far what is committed goes.
    committed: i64,
}

impl Runner {
    pub(crate) fn new(
        projector: Arc<dyn Projector>,
        shared: Shared,
        status: watch::Sender<ProjectorStatus>,
        control: watch::Receiver<Control>,
        stop: CancellationToken,
    ) -> Self {
        let (incarnations, pending) = (Incarnations::default(), Pending::default());
        let batches = Batches::new(projector.clone(), shared.pool.clone(), Some(shared.bells.clone()), BATCH);
        let assigned = None;
        Self {
            projector,
            shared,
            status,
            control,
            assigned,
            stop,
            incarnations,
            batches,
            pending,
            counted: 0,
            committed: 0,
        }
    }

    /// Runs until it is stopped.
    pub(crate) async fn run(mut self, mut source: Source) {
        let (name, stop) = (self.projector.name(), self.stop.clone());
        let mut pause = PAUSES.0;
        loop {
            let (before, mut control) = (self.counted, self.control.clone());
            if control.borrow_and_update().paused {
                self.report(ProjectorState::Paused, Some("paused by an operator".to_owned()));
                if !self.until_told(&mut control).await {
                    break;
                }
                continue;
            }
            let adopted = control.borrow().adopted;
            let mut building = false;
            // A session may be left anywhere: what it had in hand is forgotten, and what it had sent is behind the fence.
            let failure = tokio::select! {
                biased;
                _ = control.wait_for(|now| {
                    // Rows that were being built are perhaps those that are read now.
                    let built = std::mem::replace(&mut building, now.building.is_some()) && !building;
                    now.paused || now.adopted != adopted || built
                }) => continue,
                ended = self.session(&mut source, adopted) => match ended {
                    Ok(()) => break,
                    Err(failure) => failure,
                },
            };
            if self.counted > before {
                pause = PAUSES.0;
            }
            match failure {
                Failure::Fenced | Failure::Reassigned | Failure::LogRestored => {
                    tracing::info!(projector = name, "{failure}; going on from what is stored");
                    continue;
                }
                _ if failure.needs_somebody() => {
                    tracing::error!(projector = name, error = chain(&failure), "projector paused");
                    self.report(ProjectorState::Paused, Some(chain(&failure)));
                    if !self.until_told(&mut control).await {
                        break;
                    }
                    continue;
                }
                Failure::OtherRevision { .. } => {
                    self.report(ProjectorState::Rebuilding, Some(chain(&failure)));
                    // Whoever does its slots in its place must know which they are.
                    let Some(mut assigned) = self.assigned.clone() else { continue };
                    let wait = async {
                        tokio::select! {
                            _ = assigned.changed() => {}
                            _ = control.changed() => {}
                            () = tokio::time::sleep(PAUSES.1) => {}
                        }
                    };
                    if stop.run_until_cancelled(wait).await.is_none() {
                        break;
                    }
                    continue;
                }
                _ => {
                    tracing::warn!(projector = name, error = chain(&failure), "projector failed, trying again");
                    self.report(ProjectorState::Retrying, Some(chain(&failure)));
                }
            }
            if stop.run_until_cancelled(tokio::time::sleep(pause)).await.is_none() {
                break;
            }
            pause = (pause * 2).min(PAUSES.1);
        }
        if self.status.borrow().state != ProjectorState::Paused {
            self.report(ProjectorState::Standby, None);
        }
    }

    /// Waits for a word of an operator; false where it is stopped first.
    async fn until_told(&mut self, control: &mut watch::Receiver<Control>) -> bool {
        let stop = self.stop.clone();
        let told = stop.run_until_cancelled(control.changed()).await;
        self.batches.forgive();
        told.is_some_and(|told| told.is_ok())
    }

    /// From the stored checkpoints to the log's end, and on with what the feed brings; or with the log, where it also does
    /// what others can't, which the feed brings to them.
    async fn session(&mut self, source: &mut Source, adopted: Slots) -> Result<(), Failure> {
        let (Source::Log { slots } | Source::Kafka { slots, .. }) = source;
        let own = slots.borrow_and_update().and(adopted);
        self.assigned = Some(slots.clone());
        // Listening begins before the log is read, so that the two overlap.
        let deliveries = match source {
            Source::Kafka { deliveries, .. } => Some(deliveries.subscribe()),
            Source::Log { .. } => None,
        };
        self.begin(own).await?;
        if own.is_empty() {
            self.report(ProjectorState::Standby, None);
        } else {
            self.report(ProjectorState::CatchingUp, None);
            self.catch_up(0).await?;
            self.report(ProjectorState::Live, None);
        }
        match (source, deliveries) {
            (Source::Kafka { slots, topic, .. }, Some(_)) if self.batches.checkpoints.slots.is_empty() => {
                self.stand_by(slots, topic).await
            }
            (Source::Kafka { slots, .. }, Some(deliveries)) if adopted.is_empty() => {
                self.follow_kafka(deliveries, slots).await
            }
            (Source::Log { slots } | Source::Kafka { slots, .. }, _) => self.follow_log(slots).await,
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
        let ours = self.projector.revision();
        if revision != ours {
            if revision < ours {
                generations::open(&*self.projector, Purpose::Building, &mut conn).await?;
            }
            return Err(Failure::OtherRevision { rows: revision, ours });
        }
        if let Adopted::Beyond(place) = adopt(&*self.projector, generation, &self.incarnations, end, &mut conn).await? {
            drop(conn);
            self.shared.store.settle(&[Evidence::Seen { by: "a read model", place }]).await?;
            return Err(Failure::LogRestored);
        }
        self.batches.begin(generation, self.incarnations.newest().id, slots, &mut conn).await?;
        self.counted = self.batches.checkpoints.low();
        self.committed = self.counted;
        Ok(())
    }

    async fn follow_log(&mut self, slots: &mut watch::Receiver<Slots>) -> Result<(), Failure> {
        let (stop, tail) = (self.stop.clone(), self.shared.store.tail().clone());
        let (bells, name) = (self.shared.bells.clone(), self.projector.name());
        let idle = self.batches.checkpoints.slots.is_empty();
        loop {
            let due = self.due();
            tokio::select! {
                biased;
                () = stop.cancelled() => return self.settle().await,
                _ = tail.incarnation_past(self.incarnations.newest().id) => return Err(Failure::LogRestored),
                changed = slots.changed() => return self.reassigned(changed).await,
                () = at(due) => self.flush().await?,
                () = bells.asked(name) => {}
                _ = tail.past(self.batches.checkpoints.low()), if !idle => self.catch_up(0).await?,
            }
        }
    }

    /// Other slots are its own from here on; none ever, where whoever told it so has gone. Whoever gets the old ones has
    /// little to read.
    async fn reassigned(&mut self, changed: Result<(), watch::error::RecvError>) -> Result<(), Failure> {
        self.settle().await?;
        if changed.is_ok() {
            return Err(Failure::Reassigned);
        }
        self.stop.clone().cancelled().await;
        Ok(())
    }

    /// Waits for slots; while nobody does what was published, or nothing is published though the log goes on, does it from the
    /// log: Kafka gives no slots to anybody while it is away. The fence keeps two from doing it twice.
    async fn stand_by(&mut self, slots: &mut watch::Receiver<Slots>, topic: &str) -> Result<(), Failure> {
        let stop = self.stop.clone();
        let (mut neglected, mut published) = (Vec::new(), None);
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
            let cursor = self.shared.store.relay_cursor(topic).await?;
            let stuck = published.replace(cursor.position) == Some(cursor.position)
                && self.shared.store.tail().position() > cursor.position;
            self.begin(Slots::ALL).await?;
            // Whoever does others' work lags like anybody; who has none does not.
            self.report(if stuck { ProjectorState::CatchingUp } else { ProjectorState::Standby }, None);
            let behind: Vec<_> = (0..)
                .zip(cursor.slots)
                .filter(|(slot, last)| self.batches.checkpoints.covered(*slot) < *last)
                .collect();
            let still = behind.iter().any(|(slot, _)| neglected.iter().any(|(before, _)| before == slot));
            if still || stuck {
                tracing::debug!(
                    projector = self.projector.name(),
                    "nobody keeps some slots: reading them from the log"
                );
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
        let (bells, name) = (self.shared.bells.clone(), self.projector.name());
        let mut heard_at = Instant::now();
        loop {
            let due = self.due();
            let received = tokio::select! {
                biased;
                () = stop.cancelled() => return self.settle().await,
                _ = tail.incarnation_past(self.incarnations.newest().id) => return Err(Failure::LogRestored),
                changed = slots.changed() => return self.reassigned(changed).await,
                () = at(due) => { self.flush().await?; continue }
                () = bells.asked(name) => continue,
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
            if self.pending.is_full() || self.due().is_some_and(|due| due <= Instant::now()) {
                self.flush().await?;
            }
        }
    }

    async fn hear(&mut self, delivery: &Delivery) -> Result<(), Failure> {
        let incarnations = self.incarnations.clone();
        for message in delivery.iter().filter(|message| message.counts(&incarnations)) {
            match rules::react(&self.batches.checkpoints, message) {
                Reaction::Pass => {}
                Reaction::Take(event) => self.take(event.clone()),
                Reaction::CatchUp(least) => self.catch_up(least).await?,
            }
            rules::note(&mut self.batches.checkpoints, message);
        }
        Ok(())
    }

    /// Reads the log from the lowest checkpoint to its end, at least to `least`, and applies what is not applied.
    async fn catch_up(&mut self, least: i64) -> Result<(), Failure> {
        let mut at = self.batches.checkpoints.low();
        while !self.stop.is_cancelled() {
            let tail = self.shared.store.tail();
            if tail.incarnation() != self.incarnations.newest().id {
                return Err(Failure::LogRestored);
            }
            // Far behind, this takes long: whoever has these slots now, or waits for others, must not wait for its end.
            if self.assigned.as_ref().is_some_and(|assigned| assigned.has_changed().unwrap_or(false)) {
                return self.reassigned(Ok(())).await;
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
                if self.batches.checkpoints.step(slotted.slot, slotted.event.position, 0) == Step::Apply {
                    self.take(slotted);
                }
            }
            self.batches.checkpoints.cover_all(at);
            self.counted = at;
            if self.pending.is_full() {
                self.flush().await?;
            }
        }
        if self.pending.is_urgent() { self.flush().await } else { Ok(()) }
    }

    fn take(&mut self, slotted: Slotted) {
        self.batches.checkpoints.cover(slotted.slot, slotted.event.position);
        self.counted += 1;
        let urgent = self.projector.interested(&slotted.event.stream_type);
        self.pending.push(slotted, urgent);
    }

    /// When what is in hand must be committed.
    fn due(&self) -> Option<Instant> {
        self.pending.due(self.shared.bells.awaited(self.projector.name()))
    }

    /// Commits what is in hand.
    async fn flush(&mut self) -> Result<(), Failure> {
        let events = self.pending.take();
        self.batches.write(events).await?;
        let checkpoints = &self.batches.checkpoints;
        self.committed = if checkpoints.slots == Slots::ALL { self.counted } else { checkpoints.low() };
        let position = self.committed;
        self.status.send_modify(|status| status.position = position);
        Ok(())
    }

    /// The end in good order: what is in hand is committed, and every slot's checkpoint is written, so that the next
    /// start has nothing to read.
    async fn settle(&mut self) -> Result<(), Failure> {
        self.flush().await?;
        self.batches.settle().await
    }

    fn report(&self, state: ProjectorState, error: Option<String>) {
        let position = self.committed;
        let slots = self.batches.checkpoints.slots.count();
        let assigned = self.assigned.as_ref().map(|assigned| *assigned.borrow()).unwrap_or_default();
        let unable = if state == ProjectorState::Rebuilding { assigned } else { Slots::default() };
        self.status.send_modify(|status| {
            status.state = state;
            status.position = position;
            (status.slots, status.unable) = (slots, unable);
            status.error = error;
        });
    }
}

async fn at(time: Option<Instant>) {
    match time {
        Some(time) => tokio::time::sleep_until(time).await,
        None => std::future::pending().await,
    }
}
