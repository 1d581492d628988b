//! Whether this process is alive, and whether it can do its work: Postgres, Kafka, and how far each part lags.

use std::time::Duration;

use commands::Executor;
use projections::{KafkaConfig, Projections, ProjectorState, ReadModels, Relay, RelayStatus};
use serde_json::{Map, Value, json};

/// How long a dependency may take to answer.
const PATIENCE: Duration = Duration::from_secs(2);

/// What is asked for health.
pub struct Health {
    executor: Executor,
    models: ReadModels,
    kafka: Option<KafkaConfig>,
    relay: Option<Relay>,
    projections: Option<Projections>,
}

impl Health {
    /// Over the parts that this process runs.
    pub fn new(
        executor: Executor,
        models: ReadModels,
        kafka: Option<KafkaConfig>,
        relay: Option<Relay>,
        projections: Option<Projections>,
    ) -> Self {
        Self { executor, models, kafka, relay, projections }
    }

    /// Whether all that requests need is there, and what is known of each part. Without Kafka, with a topic that is not as
    /// it should be, without the read models' database, or with a projector that fails, a process is degraded and still
    /// ready: commands and reads by id go on, lists lag.
    pub async fn ready(&self) -> (bool, Value) {
        let mut checks = Map::new();
        let (postgres, positions) = tokio::join!(
            tokio::time::timeout(PATIENCE, self.executor.store().ping()),
            tokio::time::timeout(PATIENCE, self.models.positions()),
        );
        let postgres = matches!(postgres, Ok(Ok(())));
        let positions = positions.ok().and_then(Result::ok);
        checks.insert("postgres".into(), status(postgres));
        checks.insert("read_models".into(), status(positions.is_some()));
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
        let relayed = match &self.relay {
            Some(relay) => {
                let (well, shown) = published(&relay.status());
                checks.insert("relay".into(), shown);
                well
            }
            None => true,
        };
        let feed = self.projections.as_ref().and_then(Projections::feed_error);
        let fed = feed.is_none();
        if let Some(error) = feed {
            checks.insert("feed".into(), json!({ "status": "down", "error": error }));
        }
        let read_models = positions.is_some();
        let (working, projectors) = match &self.projections {
            Some(projections) => ours(projections),
            None => (true, self.elsewhere(positions.unwrap_or_default())),
        };
        if !projectors.is_empty() {
            checks.insert("projectors".into(), Value::Object(projectors));
        }
        let ready = postgres && keys;
        let status = match (ready, kafka && relayed && fed && read_models && working) {
            (true, true) => "ready",
            (true, false) => "degraded",
            (false, _) => "unready",
        };
        (ready, json!({ "status": status, "checks": checks }))
    }

    /// The projectors of other processes, by what those have stored.
    fn elsewhere(&self, positions: Vec<(String, i64)>) -> Map<String, Value> {
        let end = self.executor.store().tail().position();
        let lag = |(name, position): (String, i64)| (name, json!({ "lag_events": (end - position).max(0) }));
        positions.into_iter().map(lag).collect()
    }
}

/// Whether the relay of this process has nothing to complain of, and what is told of it.
fn published(relay: &RelayStatus) -> (bool, Value) {
    let mut shown = json!({ "leading": relay.leading, "lag_events": relay.lag_events });
    if let Some(error) = &relay.error {
        shown["error"] = json!(error);
    }
    if !relay.topic_faults.is_empty() {
        shown["topic"] = json!(relay.topic_faults);
    }
    (relay.error.is_none() && relay.topic_faults.is_empty(), shown)
}

/// Whether every projector of this process works, and what is told of each.
fn ours(projections: &Projections) -> (bool, Map<String, Value>) {
    let statuses = projections.status();
    let working =
        statuses.iter().all(|status| !matches!(status.state, ProjectorState::Retrying | ProjectorState::Paused));
    let shown = statuses.into_iter().map(|status| {
        let (events, seconds) = (status.lag_events, status.lag_seconds);
        (status.name.to_owned(), json!({ "state": status.state, "lag_events": events, "lag_seconds": seconds }))
    });
    (working, shown.collect())
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
