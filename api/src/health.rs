//! Whether this process is alive, and whether it can do its work: Postgres, Kafka, and how far each part lags.

use std::time::Duration;

use commands::Executor;
use projections::{KafkaConfig, Projections, ProjectorState, Relay};
use serde_json::{Map, Value, json};

/// How long a dependency may take to answer.
const PATIENCE: Duration = Duration::from_secs(2);

/// What is asked for health.
pub struct Health {
    executor: Executor,
    kafka: Option<KafkaConfig>,
    relay: Option<Relay>,
    projections: Option<Projections>,
}

impl Health {
    /// Over the parts that this process runs.
    pub fn new(
        executor: Executor,
        kafka: Option<KafkaConfig>,
        relay: Option<Relay>,
        projections: Option<Projections>,
    ) -> Self {
        Self { executor, kafka, relay, projections }
    }

    /// Whether all that requests need is there, and what is known of each part. Without Kafka, or with a projector that
    /// fails, a process is degraded and still ready: commands and reads by id go on, lists lag.
    pub async fn ready(&self) -> (bool, Value) {
        let mut checks = Map::new();
        let postgres = tokio::time::timeout(PATIENCE, self.executor.store().ping()).await;
        let postgres = matches!(postgres, Ok(Ok(())));
        checks.insert("postgres".into(), status(postgres));
        let keys = self.executor.store().may_open();
        checks.insert("keys".into(), status(keys));
        let kafka = match &self.kafka {
            Some(kafka) => {
                let reachable = reachable(&kafka.brokers).await;
                checks.insert("kafka".into(), status(reachable));
                reachable
            }
            None => true,
        };
        if let Some(relay) = &self.relay {
            let relay = relay.status();
            checks.insert("relay".into(), json!({ "leading": relay.leading, "lag_events": relay.lag_events }));
        }
        let projectors = self.projectors();
        let working = projectors.iter().all(|(_, working, _)| *working);
        let shown = projectors.into_iter().map(|(name, _, shown)| (name.to_owned(), shown)).collect::<Map<_, _>>();
        if !shown.is_empty() {
            checks.insert("projectors".into(), Value::Object(shown));
        }
        let ready = postgres && keys;
        let status = match (ready, kafka && working) {
            (true, true) => "ready",
            (true, false) => "degraded",
            (false, _) => "unready",
        };
        (ready, json!({ "status": status, "checks": checks }))
    }

    /// Each projector: its name, whether it works, and what is told of it.
    fn projectors(&self) -> Vec<(&'static str, bool, Value)> {
        let statuses = self.projections.as_ref().map(Projections::status).unwrap_or_default();
        let shown = |status: projections::ProjectorStatus| {
            let working = !matches!(status.state, ProjectorState::Retrying | ProjectorState::Paused);
            (
                status.name,
                working,
                json!({ "state": status.state, "lag_events": status.lag_events, "lag_seconds": status.lag_seconds }),
            )
        };
        statuses.into_iter().map(shown).collect()
    }
}

fn status(well: bool) -> Value {
    json!({ "status": if well { "up" } else { "down" } })
}

/// Whether one of the brokers takes a connection.
async fn reachable(brokers: &str) -> bool {
    for broker in brokers.split(',').map(str::trim) {
        let connected = tokio::time::timeout(PATIENCE, tokio::net::TcpStream::connect(broker)).await;
        if matches!(connected, Ok(Ok(_))) {
            return true;
        }
    }
    false
}
