//! A house on the real Postgres of `./dev test`, for the tests beside the code. Without one these tests do nothing.

use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use domain::commerce::{CustomerEvent, OrderEvent, OrderLine};
use domain::{AnyId, CustomerId, Event, Money, names};
use eventstore::{
    Append, Credentials, EventStore, NewEvent, RecordedEvent, Role, StoreConfig, StreamAppend, WriteDsn, migrate,
    new_id,
};
use rdkafka::admin::{AdminClient, AdminOptions};
use rdkafka::client::DefaultClientContext;
use rdkafka::config::ClientConfig;
use secrecy::SecretString;
use sqlx::{AssertSqlSafe, Connection, PgConnection};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::generations::prepare;
use crate::running::projectors;
use crate::{KafkaConfig, Projections, Projector, ReadModels, Relay};

/// A database of its own, with its log, its projectors (once started) and its queries.
pub(crate) struct House {
    pub(crate) dsn: WriteDsn,
    pub(crate) store: EventStore,
    pub(crate) reads: ReadModels,
    pub(crate) stop: CancellationToken,
    name: String,
    server: WriteDsn,
}

fn server() -> Option<WriteDsn> {
    let secret = |name: &str| std::env::var(name).ok().map(SecretString::from);
    Some(WriteDsn {
        url: std::env::var("ANNALS_DATABASE_URL").ok()?,
        credentials: Credentials {
            owner: secret("ANNALS_OWNER_PASSWORD"),
            api: secret("ANNALS_API_PASSWORD")?,
            writer: secret("ANNALS_WRITER_PASSWORD")?,
            reader: secret("ANNALS_READER_PASSWORD")?,
            projector: secret("ANNALS_PROJECTOR_PASSWORD")?,
        },
    })
}

impl House {
    /// `None` where no Postgres is configured.
    pub(crate) async fn open() -> Option<Self> {
        let server = server()?;
        let name = format!("annals_projections_{}", new_id().simple());
        let mut owner = PgConnection::connect_with(&server.options(Role::Owner).unwrap()).await.unwrap();
        sqlx::query(AssertSqlSafe(format!("CREATE DATABASE {name}"))).execute(&mut owner).await.unwrap();
        let (base, _) = server.url.rsplit_once('/').unwrap();
        let dsn = WriteDsn { url: format!("{base}/{name}"), ..server.clone() };
        migrate::run(&dsn, &dsn).await.unwrap();
        let config = StoreConfig {
            dsn: dsn.clone(),
            roles: "test".to_owned(),
            poll: Duration::from_millis(5),
            readers: 4,
            high_water: None,
        };
        let store = EventStore::connect(config).await.unwrap();
        let reads = ReadModels::connect(&dsn, 4).unwrap();
        Some(Self { dsn, store, reads, stop: CancellationToken::new(), name, server })
    }

    /// Projectors that read the log itself.
    pub(crate) fn project(&self) -> Projections {
        Projections::start(self.store.clone(), &self.dsn, None, self.stop.child_token()).unwrap()
    }

    /// A relay and projectors that Kafka feeds, with a topic and a group of their own; `None` where no Kafka is configured.
    pub(crate) fn through_kafka(&self) -> Option<(Relay, Projections)> {
        let mut kafka = KafkaConfig::new(std::env::var("ANNALS_KAFKA_BROKERS").ok()?);
        (kafka.topic, kafka.group) = (self.name.clone(), self.name.clone());
        let relay = Relay::start(self.store.clone(), kafka.clone(), self.stop.child_token());
        let projections = Projections::start(self.store.clone(), &self.dsn, Some(kafka), self.stop.child_token());
        Some((relay, projections.unwrap()))
    }

    /// Takes the topic away.
    pub(crate) async fn delete_topic(&self) {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", std::env::var("ANNALS_KAFKA_BROKERS").unwrap());
        let admin: AdminClient<DefaultClientContext> = config.create().unwrap();
        admin.delete_topics(&[&self.name], &AdminOptions::new()).await.unwrap();
    }

    /// Appends events, each list to a new or known stream, and gives the tenant's last sequence.
    pub(crate) async fn append(&self, tenant: Uuid, streams: Vec<StreamAppend>) -> i64 {
        let mut last = 0;
        // An append has four streams at most.
        for streams in streams.chunks(4).map(<[_]>::to_vec) {
            let append = Append { tenant, epoch: self.store.epoch(), streams, ..Append::default() };
            last = self.store.append(append).await.unwrap().sequence;
        }
        last
    }

    /// Waits until a projector has seen that sequence.
    pub(crate) async fn seen(&self, projector: &str, tenant: Uuid, sequence: i64) {
        self.reads.wait(projector, tenant, 1, sequence, Duration::from_secs(30)).await.unwrap();
    }

    /// Has one projector take these events, one batch after the other, without a log, and says that it has seen them.
    pub(crate) async fn take(&self, projector: &dyn Projector, batches: &[&[Arc<RecordedEvent>]]) {
        let mut conn = self.projector().await;
        let (generation, _) = prepare(projector.name(), projector.revision(), &mut conn).await.unwrap();
        for batch in batches {
            projector.project(generation, batch, &mut conn).await.unwrap();
        }
        let Some(last) = batches.iter().flat_map(|batch| *batch).last() else { return };
        self.note(projector.name(), last.tenant_id, last.sequence).await;
    }

    /// Says that a projector has seen a sequence.
    pub(crate) async fn note(&self, projector: &str, tenant: Uuid, sequence: i64) {
        let mut conn = self.projector().await;
        let revision = projectors().iter().find(|known| known.name() == projector).map_or(1, |known| known.revision());
        prepare(projector, revision, &mut conn).await.unwrap();
        sqlx::query(
            "INSERT INTO projection_sequences (projector, generation, tenant_id, sequence, at)
             VALUES ($1, 1, $2, $3, clock_timestamp())
             ON CONFLICT (projector, generation, tenant_id) DO UPDATE SET sequence = excluded.sequence",
        )
        .bind(projector)
        .bind(tenant)
        .bind(sequence)
        .execute(&mut conn)
        .await
        .unwrap();
    }

    /// A connection of the projectors.
    pub(crate) async fn projector(&self) -> PgConnection {
        PgConnection::connect_with(&self.dsn.options(Role::Projector).unwrap()).await.unwrap()
    }

    /// Takes the database away, once nobody uses it any more. (The owner can't end the others' connections.)
    pub(crate) async fn close(self) {
        self.stop.cancel();
        let Self { store, reads, name, server, .. } = self;
        drop((store, reads));
        let mut owner = PgConnection::connect_with(&server.options(Role::Owner).unwrap()).await.unwrap();
        for _ in 0..100 {
            if sqlx::query(AssertSqlSafe(format!("DROP DATABASE {name}"))).execute(&mut owner).await.is_ok() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

pub(crate) fn at(text: &str) -> DateTime<Utc> {
    text.parse().unwrap()
}

pub(crate) fn money(amount: i64, currency: &str) -> Money {
    Money::new(amount, currency.parse().unwrap()).unwrap()
}

/// An event that is ready to be appended.
pub(crate) fn new_event<E: Event>(event: &E, occurred_at: DateTime<Utc>) -> NewEvent {
    NewEvent {
        event_id: new_id(),
        event_type: event.event_type().name,
        schema_version: event.event_type().schema_version,
        subjects: Vec::new(),
        actor: AnyId::new("key", Uuid::from_u128(1)).to_string(),
        occurred_at,
        payload: event.payload().unwrap(),
        metadata: r#"{"request_id":"req_1","causation_id":"cmd_1","command":"commerce.test"}"#.to_owned(),
        salt: [7; 16],
    }
}

/// A customer that was created.
pub(crate) fn created(customer: Uuid, country: &str) -> StreamAppend {
    let event =
        CustomerEvent::Created { external_id: None, name: None, email: None, country: Some(country.parse().unwrap()) };
    StreamAppend {
        stream_type: names::CUSTOMER.name,
        stream_id: customer,
        expected_version: 0,
        events: vec![new_event(&event, at("1997-01-01T00:00:00Z"))],
    }
}

/// An order that was placed.
pub(crate) fn placed(order: Uuid, customer: Uuid, occurred_at: DateTime<Utc>, total: Money) -> StreamAppend {
    let line = OrderLine { sku: "cd".parse().unwrap(), name: None, quantity: 1, unit_price: None, total };
    let event =
        OrderEvent::Placed { external_id: None, customer: CustomerId::from(customer), lines: vec![line], total };
    StreamAppend {
        stream_type: names::ORDER.name,
        stream_id: order,
        expected_version: 0,
        events: vec![new_event(&event, occurred_at)],
    }
}

/// An order that was given money back for.
pub(crate) fn refunded(
    order: Uuid,
    version: i64,
    customer: Uuid,
    occurred_at: DateTime<Utc>,
    amount: Money,
) -> StreamAppend {
    let event = OrderEvent::Refunded { customer: CustomerId::from(customer), amount, reason: None };
    StreamAppend {
        stream_type: names::ORDER.name,
        stream_id: order,
        expected_version: version,
        events: vec![new_event(&event, occurred_at)],
    }
}

/// Where an event stands: its tenant and sequence, its stream and its version there.
#[derive(Clone, Copy)]
pub(crate) struct Place {
    pub(crate) tenant: Uuid,
    pub(crate) sequence: i64,
    pub(crate) stream: Uuid,
    pub(crate) version: i64,
}

/// An event as the log has it.
pub(crate) fn recorded<E: Event>(place: Place, stream_type: &str, event: &E, at: DateTime<Utc>) -> Arc<RecordedEvent> {
    let new = new_event(event, at);
    Arc::new(RecordedEvent {
        position: place.sequence,
        tenant_id: place.tenant,
        sequence: place.sequence,
        stream_id: place.stream,
        stream_type: stream_type.to_owned(),
        version: place.version,
        event_id: new.event_id,
        event_type: new.event_type.to_owned(),
        schema_version: new.schema_version,
        subjects: None,
        actor: new.actor,
        occurred_at: at,
        recorded_at: at,
        payload: Some(new.payload),
        metadata: Some(new.metadata),
    })
}
