//! Publishes the log to Kafka, in order.

use eventstore::EventStore;
use tokio_util::sync::CancellationToken;

use super::kafka::KafkaConfig;

/// The relay of this process: it publishes while it leads, and stands by while another does.
#[derive(Clone, Debug)]
pub struct Relay {
    stop: CancellationToken,
}

/// How the relay is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RelayStatus {
    /// Whether this process is the one that publishes.
    pub leading: bool,
    /// Everything at or below this position is acknowledged by Kafka.
    pub position: i64,
    /// How many events are not.
    pub lag_events: i64,
    /// What it failed at, if it did.
    pub error: Option<String>,
}

impl Relay {
    /// Starts the relay. It stops when `stop` is cancelled.
    pub fn start(store: EventStore, kafka: KafkaConfig, stop: CancellationToken) -> Self {
        let _ = (store, kafka);
        Self { stop }
    }

    /// How it is.
    pub fn status(&self) -> RelayStatus {
        RelayStatus::default()
    }

    /// Waits until it has stopped.
    pub async fn stopped(&self) {
        self.stop.cancelled().await;
    }
}
