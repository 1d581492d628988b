//! The running projectors of this process.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use eventstore::{EventStore, Role, WriteDsn, chain};
use tokio::sync::{broadcast, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::agents::runs::Runs;
use crate::analytics::mrr::Mrr;
use crate::analytics::sales::Sales;
use crate::bells::Bells;
use crate::checkpoint::Slots;
use crate::controls::{self, Controls};
use crate::documents::DOCUMENTS;
use crate::feed::kafka::{DELIVERIES, KafkaConfig, KafkaFeed};
use crate::feed::log::LogReader;
use crate::projector::Projector;
use crate::rebuild::Site;
use crate::rows::AuditEntries;
use crate::runner::{Runner, Shared, Source};

/// In how many parts the processes share the work without Kafka, and how often each asks for its own.
const PARTS: i32 = 64;
const LEASE: Duration = Duration::from_secs(1);

/// For how many seconds it is remembered where the log's end was.
const ENDS: usize = 600;

/// Every projector of the house.
pub(crate) fn projectors() -> Vec<Arc<dyn Projector>> {
    let documents = DOCUMENTS.iter().map(|kind| kind.projector());
    let others: [Arc<dyn Projector>; 4] = [Arc::new(AuditEntries), Arc::new(Sales), Arc::new(Mrr), Arc::new(Runs)];
    documents.chain(others).collect()
}

/// The projectors of this process; clones share everything.
#[derive(Clone, Debug)]
pub struct Projections {
    store: EventStore,
    bells: Bells,
    statuses: Arc<[watch::Sender<ProjectorStatus>]>,
    feed_error: Arc<watch::Sender<Option<String>>>,
    /// Where the log's end was, second by second.
    ends: Arc<Mutex<VecDeque<(Instant, i64)>>>,
    tasks: TaskTracker,
}

/// What a projector is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ProjectorState {
    /// Another process has the work.
    Standby,
    /// It reads the log to come up to its end.
    CatchingUp,
    /// It takes events as they come.
    Live,
    /// It failed at something that may pass, and tries again.
    Retrying,
    /// The rows are of another revision; those of this binary's are being made.
    Rebuilding,
    /// An operator has paused it, or it met what it can't go on with: an event of a newer binary, a flood of events that
    /// can't be applied.
    Paused,
}

/// How a projector is.
#[derive(Clone, Debug, PartialEq)]
pub struct ProjectorStatus {
    /// Its name.
    pub name: &'static str,
    /// What it is doing.
    pub state: ProjectorState,
    /// How many of the 64 slots are this process's.
    pub slots: i16,
    /// The slots that it has and can't do, for the rows are of another revision.
    pub(crate) unable: Slots,
    /// The position that it has come to.
    pub position: i64,
    /// How many events it lags behind the log's end; 0 while another process has the work.
    pub lag_events: i64,
    /// For how long the log has been further than this, to the second and for ten minutes at most.
    pub lag_seconds: f64,
    /// What it failed at, if it did.
    pub error: Option<String>,
}

impl Projections {
    /// Starts every projector: fed by Kafka where it is configured, else by the log. They stop, each with the batch in
    /// hand finished, when `stop` is cancelled.
    pub fn start(
        store: EventStore,
        read: &WriteDsn,
        kafka: Option<KafkaConfig>,
        stop: CancellationToken,
    ) -> Result<Self, sqlx::Error> {
        let projectors = projectors();
        let settings = [
            // Read models can always be made again: a checkpoint is lost with its rows or not at all.
            ("synchronous_commit", "off"),
            // The plans never depend on the parameters, and planning is the first cost of a small batch.
            ("plan_cache_mode", "force_generic_plan"),
            ("statement_timeout", "60s"),
        ];
        // One for each projector, one for what operators ask, and some for a generation that is being built.
        let pool = read.pool(Role::Projector, u32::try_from(projectors.len()).unwrap_or(8) + 5, &settings)?;
        let shared =
            Shared { log: LogReader::new(store.clone()), bells: Bells::of(&projectors), store: store.clone(), pool };
        let statuses = projectors.iter().map(|projector| watch::Sender::new(ProjectorStatus::of(projector.name())));
        let started = Self {
            store,
            bells: shared.bells.clone(),
            statuses: statuses.collect(),
            feed_error: Arc::default(),
            ends: Arc::default(),
            tasks: TaskTracker::new(),
        };
        let controls: Controls = projectors.iter().map(|_| watch::Sender::default()).collect();
        started.tasks.spawn(controls::watch(started.clone(), shared.pool.clone(), controls.clone(), stop.clone()));
        for (projector, control) in projectors.iter().zip(controls.iter()) {
            let site = Site { projector: projector.clone(), store: shared.store.clone(), pool: shared.pool.clone() };
            started.tasks.spawn(site.run(control.subscribe(), stop.clone()));
        }
        let crew = Crew { projectors, shared, statuses: started.statuses.clone(), controls };
        match kafka {
            Some(kafka) => started.tasks.spawn(crew.follow_kafka(kafka, started.feed_error.clone(), stop.clone())),
            None => started.tasks.spawn(crew.follow_log(stop.clone())),
        };
        started.tasks.spawn(started.clone().measure(stop));
        started.tasks.close();
        Ok(started)
    }

    /// What readers of this process listen to.
    pub(crate) fn bells(&self) -> Bells {
        self.bells.clone()
    }

    /// How each projector is.
    pub fn status(&self) -> Vec<ProjectorStatus> {
        let (end, now) = (self.store.tail().position(), Instant::now());
        let ends = self.ends.lock().unwrap_or_else(PoisonError::into_inner);
        let statuses = self.statuses.iter().map(|status| status.borrow().clone());
        let looked = statuses.map(|status| {
            if status.state == ProjectorState::Standby {
                return status;
            }
            // The first moment at which the log was known to be further.
            let passed = ends.iter().find(|(_, end)| *end > status.position).map(|(at, _)| now - *at);
            let lag_events = (end - status.position).max(0);
            ProjectorStatus { lag_events, lag_seconds: passed.unwrap_or_default().as_secs_f64(), ..status }
        });
        looked.collect()
    }

    /// Why nothing comes from Kafka, if nothing does.
    pub fn feed_error(&self) -> Option<String> {
        self.feed_error.borrow().clone()
    }

    /// Waits until all have stopped.
    pub async fn stopped(&self) {
        self.tasks.wait().await;
    }

    fn note_end(&self) {
        let (now, end) = (Instant::now(), self.store.tail().position());
        let mut ends = self.ends.lock().unwrap_or_else(PoisonError::into_inner);
        // Where the log went back it has never been further.
        while ends.back().is_some_and(|(_, last)| *last > end) {
            ends.pop_back();
        }
        if ends.len() >= ENDS {
            ends.pop_front();
        }
        ends.push_back((now, end));
    }

    async fn measure(self, stop: CancellationToken) {
        let mut ticks = tokio::time::interval(Duration::from_secs(1));
        while stop.run_until_cancelled(ticks.tick()).await.is_some() {
            self.note_end();
            for status in self.status() {
                metrics::gauge!("annals_projector_lag_events", "projector" => status.name)
                    .set(status.lag_events as f64);
                metrics::gauge!("annals_projector_lag_seconds", "projector" => status.name).set(status.lag_seconds);
                let paused = status.state == ProjectorState::Paused;
                metrics::gauge!("annals_projector_paused", "projector" => status.name).set(f64::from(u8::from(paused)));
            }
        }
    }
}

impl ProjectorStatus {
    pub(crate) fn of(name: &'static str) -> Self {
        let state = ProjectorState::Standby;
        let unable = Slots::default();
        Self { name, state, slots: 0, unable, position: 0, lag_events: 0, lag_seconds: 0.0, error: None }
    }
}

/// What it takes to run every projector.
struct Crew {
    projectors: Vec<Arc<dyn Projector>>,
    shared: Shared,
    statuses: Arc<[watch::Sender<ProjectorStatus>]>,
    controls: Controls,
}

impl Crew {
    /// Without Kafka each process has its share of the slots, under leases, and reads them from the log.
    async fn follow_log(self, stop: CancellationToken) {
        let slots = watch::Sender::new(Slots::default());
        let running = self.start(&Source::Log { slots: slots.subscribe() }, &stop);
        let mut share = self.shared.store.share("projections", PARTS);
        loop {
            if let Err(error) = share.renew().await {
                tracing::warn!(error = chain(&error), "can't ask for a share of the projectors' work");
            }
            let held = Slots::of_partitions(share.held(), PARTS);
            let changed = slots.send_if_modified(|slots| std::mem::replace(slots, held) != held);
            if changed {
                tracing::info!(slots = held.count(), "this process has another share of the projectors' work");
            }
            if stop.run_until_cancelled(tokio::time::sleep(LEASE)).await.is_none() {
                break;
            }
        }
        running.wait().await;
        share.resign().await;
    }

    /// With Kafka each process has the slots of the partitions that the group gives it.
    async fn follow_kafka(
        self,
        kafka: KafkaConfig,
        error: Arc<watch::Sender<Option<String>>>,
        stop: CancellationToken,
    ) {
        let (deliveries, slots) = (broadcast::Sender::new(DELIVERIES), watch::Sender::new(Slots::default()));
        let source = Source::Kafka {
            deliveries: deliveries.clone(),
            slots: slots.subscribe(),
            topic: kafka.topic.as_str().into(),
        };
        let running = self.start(&source, &stop);
        drop(source);
        let feed = KafkaFeed { deliveries, slots, error };
        tokio::join!(feed.run(self.shared.store.clone(), kafka, stop), running.wait());
    }

    fn start(&self, source: &Source, stop: &CancellationToken) -> TaskTracker {
        let running = TaskTracker::new();
        for ((projector, status), control) in self.projectors.iter().zip(self.statuses.iter()).zip(self.controls.iter())
        {
            let (projector, shared, control) = (projector.clone(), self.shared.clone(), control.subscribe());
            let runner = Runner::new(projector, shared, status.clone(), control, stop.clone());
            running.spawn(runner.run(source.clone()));
        }
        running.close();
        running
    }
}
