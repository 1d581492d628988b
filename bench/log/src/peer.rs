//! postgres-es 0.5 with cqrs-es: each command loads its stream, decides and commits. Its event is a struct with the fields
//! of ours, so that both payloads have the same bytes.

use std::collections::HashMap;
use std::sync::Arc;

use cqrs_es::event_sink::EventSink;
use cqrs_es::persist::{PersistedEventRepository, SerializedEvent};
use cqrs_es::{Aggregate, AggregateError, DomainEvent};
use domain::Money;
use domain::billing::{Interval, PlanCommand, PlanError};
use domain::text::Line;
use eventstore::new_id;
use postgres_es::{PostgresCqrs, PostgresEventRepository, postgres_cqrs};
use serde::{Deserialize, Serialize};
use sqlx::PgPool;

use crate::event;
use crate::load::{HOT_STREAMS, Store};
use crate::server::Server;

/// Its tables.
pub const SCHEMA: &str = include_str!("peer.sql");
/// More connections than that help nobody.
const MOST_CONNECTIONS: usize = 100;

/// A plan with the rules of ours.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Plan {
    name: Option<Line>,
    price: Option<Money>,
    interval: Interval,
}

/// `plan.created` where it has a price, else `plan.renamed`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PlanEvent {
    name: Line,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    price: Option<Money>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    interval: Option<Interval>,
}

impl DomainEvent for PlanEvent {
    fn event_type(&self) -> String {
        if self.price.is_some() { "plan.created" } else { "plan.renamed" }.to_owned()
    }

    fn event_version(&self) -> String {
        "1".to_owned()
    }
}

impl Plan {
    fn decide(&self, command: PlanCommand) -> Result<Option<PlanEvent>, PlanError> {
        match (&self.name, command) {
            (None, PlanCommand::Create { name, price, interval, .. }) => {
                Ok(Some(PlanEvent { name, price: Some(price), interval: Some(interval) }))
            }
            (Some(_), PlanCommand::Create { .. }) => Err(PlanError::AlreadyExists),
            (None, PlanCommand::Rename { .. }) => Err(PlanError::NotFound),
            (Some(known), PlanCommand::Rename { name }) => {
                Ok(name.filter(|name| name != known).map(|name| PlanEvent { name, price: None, interval: None }))
            }
        }
    }
}

impl Aggregate for Plan {
    const TYPE: &'static str = "billing.plan";
    type Command = PlanCommand;
    type Event = PlanEvent;
    type Error = PlanError;
    type Services = ();

    async fn handle(&mut self, command: PlanCommand, (): &(), sink: &EventSink<Self>) -> Result<(), PlanError> {
        if let Some(event) = self.decide(command)? {
            sink.write(event, self).await;
        }
        Ok(())
    }

    fn apply(&mut self, event: PlanEvent) {
        self.name = Some(event.name);
        self.price = event.price.or(self.price);
        self.interval = event.interval.unwrap_or(self.interval);
    }
}

/// A framework over a database of its own.
pub struct Peer {
    framework: PostgresCqrs<Plan>,
    /// Where new streams go past the framework, so that nothing is loaded for them.
    repository: Option<PostgresEventRepository>,
    pool: PgPool,
    /// Ids of the first numbers: those that get hot.
    streams: Vec<String>,
}

impl Peer {
    /// As its documents have it, with a connection for each writer; `bare`: at its best, new streams past the framework
    /// and connections that are not looked at before each use.
    pub fn open(server: &Server, database: &str, writers: usize, bare: bool) -> Arc<Self> {
        let pool = server.pool(database, writers.min(MOST_CONNECTIONS) as u32, !bare);
        Arc::new(Self {
            framework: postgres_cqrs(pool.clone(), Vec::new(), ()),
            repository: bare.then(|| PostgresEventRepository::new(pool.clone())),
            pool,
            streams: (0..HOT_STREAMS).map(|_| new_id().to_string()).collect(),
        })
    }

    pub async fn close(&self) {
        self.pool.close().await;
    }
}

impl Store for Peer {
    async fn append(&self, n: u64) -> Result<(), String> {
        let id = self.streams.get(n as usize).cloned().unwrap_or_else(|| new_id().to_string());
        let Some(repository) = &self.repository else {
            return self.framework.execute(&id, event::create(n)).await.map_err(|error| error.to_string());
        };
        let event = Plan::default().decide(event::create(n)).map_err(|error| error.to_string())?.expect("an event");
        let (kind, version) = (event.event_type(), event.event_version());
        let payload = serde_json::to_value(event).expect("a payload");
        let metadata = serde_json::to_value(HashMap::<String, String>::new()).expect("metadata");
        let event = SerializedEvent::new(id, 1, Plan::TYPE.to_owned(), kind, version, payload, metadata);
        repository.persist::<Plan>(&[event], None).await.map_err(|error| error.to_string())
    }

    async fn change(&self, stream: usize, n: u64) -> Result<(), String> {
        loop {
            match self.framework.execute(&self.streams[stream], event::rename(n)).await {
                Err(AggregateError::AggregateConflict) => {}
                done => return done.map_err(|error| error.to_string()),
            }
        }
    }
}

/// Fails unless its table has just these many events, each stream dense.
pub async fn check(server: &Server, database: &str, acknowledged: u64) {
    let sql = "SELECT count(*), (SELECT count(*) FROM (SELECT 1 FROM events GROUP BY aggregate_type, aggregate_id
         HAVING min(sequence) <> 1 OR max(sequence) <> count(*)) gaps) FROM events";
    let found = server.numbers(database, sql).await;
    assert_eq!(found, [acknowledged as i64, 0], "what postgres-es has is not what it has acknowledged");
}
