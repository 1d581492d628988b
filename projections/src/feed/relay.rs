//! Publishes the log to Kafka, in order: one process of the house at a time, from where the last one's acknowledgements
//! end.
//!
//! Architecture Invariant: the cursor moves over the acknowledged prefix alone. After any error the producer is thrown
//! away and a new one begins at the cursor, so Kafka may get an event twice and never one before another of its slot
//! without saying so.

use std::sync::Arc;
use std::time::Duration;

use domain::TenantId;
use eventstore::{EventStore, Incarnations, Leadership, RecordedEvent, RelayCursor, StoreError};
use futures::stream::FuturesOrdered;
use futures::{FutureExt, StreamExt};
use rdkafka::error::KafkaError;
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::future_producer::{DeliveryFuture, FutureProducer, FutureRecord};
use tokio::sync::watch;
use tokio::time::{Instant, Interval, MissedTickBehavior};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::cloud_event::{self, CONTENT_TYPE};
use super::evidence;
use super::kafka::{self, KafkaConfig, Watching};
use super::log::size;
use crate::running::chain;

/// How many events are read from the log at a time.
const READ: i64 = 256;
/// The most events, and bytes of them, that wait for Kafka's word.
const IN_FLIGHT: (usize, usize) = (5_000, 16 * 1024 * 1024);
/// How often the cursor is saved: what is lost of it is published twice.
const SAVE: Duration = Duration::from_millis(100);
/// How often the lease is looked after, and a heartbeat sent while there is news.
const LEASE: Duration = Duration::from_secs(1);
/// How often a heartbeat is sent without news: Kafka may lose the last one.
const QUIET_BEAT: Duration = Duration::from_secs(30);
/// After how long a silence of Kafka it is asked whether the topic is still there.
const STALLED: Duration = Duration::from_secs(2);
/// How long a relay that stops waits for what is in flight.
const FAREWELL: Duration = Duration::from_secs(5);
/// The pauses between tries after an error: the first and the longest.
const PAUSES: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(5));

/// The relay of this process: it publishes while it leads, and stands by while another does.
#[derive(Clone, Debug)]
pub struct Relay {
    store: EventStore,
    status: Arc<watch::Sender<RelayStatus>>,
    tasks: TaskTracker,
}

/// How the relay is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RelayStatus {
    /// Whether this process is the one that publishes.
    pub leading: bool,
    /// Everything at or below this position is acknowledged by Kafka.
    pub position: i64,
    /// How many events are not; 0 while this process stands by.
    pub lag_events: i64,
    /// What it failed at, if it did.
    pub error: Option<String>,
}

impl Relay {
    /// Starts the relay. It stops when `stop` is cancelled, after what it has sent is acknowledged.
    pub fn start(store: EventStore, kafka: KafkaConfig, stop: CancellationToken) -> Self {
        let relay = Self { store: store.clone(), status: Arc::default(), tasks: TaskTracker::new() };
        relay.tasks.spawn(run(store, kafka, relay.status.clone(), stop));
        relay.tasks.close();
        relay
    }

    /// How it is.
    pub fn status(&self) -> RelayStatus {
        let mut status = self.status.borrow().clone();
        if status.leading || status.error.is_some() {
            status.lag_events = (self.store.tail().position() - status.position).max(0);
        }
        status
    }

    /// Waits until it has stopped.
    pub async fn stopped(&self) {
        self.tasks.wait().await;
    }
}

/// Why a term as the leader ended.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    #[error("Kafka did not take an event")]
    Produce(#[source] KafkaError),
    #[error("Kafka's producer is gone")]
    Gone,
    #[error("Kafka's topic is gone")]
    Topic,
    #[error("the log was restored")]
    LogRestored,
    #[error("an event can't be written as JSON")]
    Json(#[from] serde_json::Error),
    #[error(transparent)]
    Kafka(#[from] kafka::Failure),
    #[error(transparent)]
    Store(#[from] StoreError),
}

async fn run(store: EventStore, kafka: KafkaConfig, status: Arc<watch::Sender<RelayStatus>>, stop: CancellationToken) {
    let mut pause = PAUSES.0;
    while let Some(leadership) = stop.run_until_cancelled(lead(&store, &kafka.topic)).await {
        let began = Instant::now();
        let ended = term(&store, &kafka, leadership, &status, &stop).await;
        status.send_modify(|status| status.leading = false);
        let Err(failure) = ended else { break };
        tracing::warn!(error = chain(&failure), "the relay begins again from its cursor");
        metrics::counter!("annals_relay_failures_total").increment(1);
        status.send_modify(|status| status.error = Some(chain(&failure)));
        if began.elapsed() > PAUSES.1 {
            pause = PAUSES.0;
        }
        if stop.run_until_cancelled(tokio::time::sleep(pause)).await.is_none() {
            break;
        }
        pause = (pause * 2).min(PAUSES.1);
    }
}

async fn lead(store: &EventStore, topic: &str) -> Leadership {
    loop {
        match store.lead(&format!("relay:{topic}")).await {
            Ok(Some(leadership)) => return leadership,
            Ok(None) => {}
            Err(error) => tracing::warn!(error = chain(&error), "can't ask for the relay's work"),
        }
        tokio::time::sleep(LEASE).await;
    }
}

/// One term as the leader; ends well when it is stopped.
async fn term(
    store: &EventStore,
    kafka: &KafkaConfig,
    mut leadership: Leadership,
    status: &watch::Sender<RelayStatus>,
    stop: &CancellationToken,
) -> Result<(), Failure> {
    let partitions = kafka::ensure_topic(kafka).await?;
    store.look().await?;
    // What was published and is not in the log shows that it went back.
    evidence::settle(store, kafka, partitions).await?;
    let incarnations = store.incarnations();
    let cursor = store.relay_cursor(&kafka.topic).await?;
    tracing::info!(position = cursor.position, partitions, "this process publishes the log");
    let mut term = Term {
        producer: kafka::producer(kafka)?,
        topic: &kafka.topic,
        partitions,
        incarnations,
        sent: cursor.clone(),
        acknowledged: cursor,
        in_flight: FuturesOrdered::new(),
        in_flight_bytes: 0,
        heard_at: Instant::now(),
    };
    status.send_modify(|status| {
        *status = RelayStatus { leading: true, position: term.acknowledged.position, ..RelayStatus::default() };
    });
    let ended = term.publish(store, kafka, &mut leadership, status, stop).await;
    leadership.resign().await;
    // Dropping the producer waits for its threads.
    let producer = term.producer;
    drop(tokio::task::spawn_blocking(move || drop(producer)));
    ended
}

type Producer = FutureProducer<Watching>;

/// What a leader holds in its hands.
struct Term<'a> {
    producer: Producer,
    topic: &'a str,
    partitions: i32,
    /// The lives of the log: the cursor is good for as long as these are all.
    incarnations: Incarnations,
    /// Up to here everything was handed to the producer.
    sent: RelayCursor,
    /// Up to here everything is acknowledged.
    acknowledged: RelayCursor,
    /// In the order of the log. A heartbeat has no event.
    in_flight: FuturesOrdered<futures::future::Join<DeliveryFuture, std::future::Ready<Option<Sent>>>>,
    in_flight_bytes: usize,
    /// When Kafka last acknowledged anything, or was given something after it had.
    heard_at: Instant,
}

/// An event that waits for its acknowledgement.
#[derive(Clone, Copy)]
struct Sent {
    slot: u8,
    position: i64,
    bytes: usize,
}

type Acknowledgement = <DeliveryFuture as Future>::Output;

impl Term<'_> {
    async fn publish(
        &mut self,
        store: &EventStore,
        kafka: &KafkaConfig,
        leadership: &mut Leadership,
        status: &watch::Sender<RelayStatus>,
        stop: &CancellationToken,
    ) -> Result<(), Failure> {
        let (mut saves, mut leases, mut beats) = (ticks(SAVE), ticks(LEASE), ticks(LEASE));
        let newest = self.incarnations.newest().id;
        let mut saved = self.acknowledged.position;
        let (mut beaten, mut beaten_at) = (-1, Instant::now());
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                _ = store.tail().incarnation_past(newest) => return Err(Failure::LogRestored),
                _ = leases.tick() => {
                    leadership.confirm().await?;
                    self.look_after_topic(kafka).await?;
                }
                _ = saves.tick() => if self.acknowledged.position > saved {
                    store.save_relay_cursor(self.topic, &self.acknowledged, newest).await?;
                    saved = self.acknowledged.position;
                    status.send_modify(|status| status.position = saved);
                    metrics::gauge!("annals_relay_position").set(saved as f64);
                },
                _ = beats.tick() => if self.sent.position != beaten || beaten_at.elapsed() >= QUIET_BEAT {
                    self.beat()?;
                    (beaten, beaten_at) = (self.sent.position, Instant::now());
                },
                Some(acknowledged) = self.in_flight.next() => {
                    self.acknowledge(acknowledged)?;
                    while let Some(Some(acknowledged)) = self.in_flight.next().now_or_never() {
                        self.acknowledge(acknowledged)?;
                    }
                }
                _ = store.tail().past(self.sent.position), if self.has_room() => {
                    for event in store.read_log(self.sent.position, READ).await? {
                        self.send(&event)?;
                    }
                }
            }
        }
        self.farewell().await?;
        store.save_relay_cursor(self.topic, &self.acknowledged, newest).await?;
        Ok(())
    }

    /// A topic that was deleted is waited for in vain: the next term makes it anew.
    async fn look_after_topic(&self, kafka: &KafkaConfig) -> Result<(), Failure> {
        let stalled = !self.in_flight.is_empty() && self.heard_at.elapsed() > STALLED;
        if stalled && kafka::partitions(kafka).await? != Some(self.partitions) {
            return Err(Failure::Topic);
        }
        Ok(())
    }

    fn has_room(&self) -> bool {
        self.in_flight.len() < IN_FLIGHT.0 && self.in_flight_bytes < IN_FLIGHT.1
    }

    fn send(&mut self, event: &RecordedEvent) -> Result<(), Failure> {
        let slot = event.slot();
        let previous = self.sent.slots.get(usize::from(slot)).copied().unwrap_or(0);
        let message = cloud_event::write(event, previous, self.incarnations.owner(event.position))?;
        let key = TenantId::from(event.tenant_id).to_string();
        let sent = Sent { slot, position: event.position, bytes: size(event) };
        self.produce(i32::from(slot) % self.partitions, Some(&key), &message, Some(sent))?;
        self.in_flight_bytes += sent.bytes;
        advance(&mut self.sent, sent);
        Ok(())
    }

    /// Tells each partition the last position of its slots, and how far that holds.
    fn beat(&mut self) -> Result<(), Failure> {
        for partition in 0..self.partitions {
            let lasts = self.sent.slots.iter().zip(0u8..).map(|(last, slot)| (slot, *last));
            let lasts: Vec<_> = lasts.filter(|(slot, _)| i32::from(*slot) % self.partitions == partition).collect();
            let message =
                cloud_event::write_beat(partition, &lasts, self.sent.position, self.incarnations.newest().id)?;
            self.produce(partition, None, &message, None)?;
        }
        Ok(())
    }

    fn produce(
        &mut self,
        partition: i32,
        key: Option<&str>,
        message: &[u8],
        sent: Option<Sent>,
    ) -> Result<(), Failure> {
        let content_type = Header { key: "content-type", value: Some(CONTENT_TYPE) };
        let record = FutureRecord::<str, [u8]> {
            topic: self.topic,
            partition: Some(partition),
            payload: Some(message),
            key,
            timestamp: None,
            headers: Some(OwnedHeaders::new_with_capacity(1).insert(content_type)),
        };
        if self.in_flight.is_empty() {
            self.heard_at = Instant::now();
        }
        let delivery = self.producer.send_result(record).map_err(|(error, _)| Failure::Produce(error))?;
        self.in_flight.push_back(futures::future::join(delivery, std::future::ready(sent)));
        Ok(())
    }

    fn acknowledge(&mut self, (delivered, sent): (Acknowledgement, Option<Sent>)) -> Result<(), Failure> {
        match delivered {
            Ok(Ok(_)) => {}
            Ok(Err((error, _))) => return Err(Failure::Produce(error)),
            Err(_) => return Err(Failure::Gone),
        }
        self.heard_at = Instant::now();
        if let Some(sent) = sent {
            self.in_flight_bytes -= sent.bytes;
            advance(&mut self.acknowledged, sent);
            metrics::counter!("annals_relay_events_total").increment(1);
        }
        Ok(())
    }

    async fn farewell(&mut self) -> Result<(), Failure> {
        let end = Instant::now() + FAREWELL;
        while let Ok(Some(acknowledged)) = tokio::time::timeout_at(end, self.in_flight.next()).await {
            self.acknowledge(acknowledged)?;
        }
        Ok(())
    }
}

fn advance(cursor: &mut RelayCursor, sent: Sent) {
    cursor.position = sent.position;
    if let Some(last) = cursor.slots.get_mut(usize::from(sent.slot)) {
        *last = sent.position;
    }
}

fn ticks(period: Duration) -> Interval {
    let mut ticks = tokio::time::interval(period);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks
}
