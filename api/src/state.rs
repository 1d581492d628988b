//! What the handlers of one process share.

use std::sync::Arc;

use chrono::TimeDelta;
use commands::Executor;
use commands::egress::Egress;
use metrics_exporter_prometheus::PrometheusHandle;
use projections::{Operator, ReadModels};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::audit::{LIVE, REPLAYS, Streams};
use crate::batch_room::BatchRoom;
use crate::extract::auth::ApiKeys;
use crate::health::Health;

/// How many requests are carried out at a time; beyond it the answer is 503 at once, for a queue without end helps nobody.
const REQUESTS_AT_A_TIME: usize = 1_024;

/// How many callers may wait for the end of what takes long; each looks at it about once a second. Others are told at once
/// that it has begun.
const WAITING_AT_A_TIME: usize = 2_000;

/// What the process has.
pub struct State {
    /// The write side.
    pub executor: Executor,
    /// The read side.
    pub models: ReadModels,
    /// What those who run the house do with the read side.
    pub operator: Operator,
    /// The way out, for what callers want called.
    pub egress: Egress,
    /// Who may ask.
    pub keys: ApiKeys,
    /// What the operator has set.
    pub settings: Settings,
    /// How everything that is needed is.
    pub health: Health,
    /// The requests that are being carried out, so that a shutdown waits for them.
    pub requests: TaskTracker,
    /// What bounds them.
    pub room: Arc<Semaphore>,
    /// What bounds the items of batches.
    pub batch_room: BatchRoom,
    /// What bounds those that wait for the end of what takes long.
    pub waiting: Semaphore,
    /// The streams of events that are open.
    pub streams: Arc<Streams>,
    /// The files and manifests of replays that are read.
    pub replays: Arc<Streams>,
    /// The figures for `/metrics`.
    pub metrics: PrometheusHandle,
}

/// What the operator has set for the operations.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// How long an approved erasure can still be called off.
    pub erasure_delay: TimeDelta,
}

impl State {
    /// Over both sides; streams end once `stop` is cancelled.
    pub fn new(
        executor: Executor,
        (models, operator): (ReadModels, Operator),
        egress: Egress,
        settings: Settings,
        health: Health,
        metrics: PrometheusHandle,
        stop: &CancellationToken,
    ) -> Self {
        let keys = ApiKeys::new(executor.store().clone());
        let (room, waiting) = (Arc::new(Semaphore::new(REQUESTS_AT_A_TIME)), Semaphore::new(WAITING_AT_A_TIME));
        let [streams, replays] = [LIVE, REPLAYS].map(|bounds| Arc::new(Streams::until(stop.clone(), bounds)));
        let requests = TaskTracker::new();
        Self {
            executor,
            models,
            operator,
            egress,
            keys,
            settings,
            health,
            requests,
            room,
            batch_room: BatchRoom::default(),
            waiting,
            streams,
            replays,
            metrics,
        }
    }
}

impl std::fmt::Debug for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("State")
    }
}
