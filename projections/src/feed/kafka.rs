//! Kafka as the way of events to the projectors: one consumer a process, whose partitions decide the slots that the
//! process has the work of, and what it reads goes to every projector at once.
//!
//! Nothing here waits for a projector: one that can't keep up falls out of the broadcast and reads the log.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use eventstore::{EventStore, Evidence, StoreError, chain};
use futures::FutureExt;
use futures::future::BoxFuture;
use rdkafka::config::{ClientConfig, RDKafkaLogLevel};
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext, Rebalance, StreamConsumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{BorrowedMessage, Message as _};
use rdkafka::producer::FutureProducer;
use rdkafka::{ClientContext, TopicPartitionList};
use tokio::sync::{broadcast, watch};
use tokio_util::sync::CancellationToken;

use super::topic::{self, partitions_of};
use super::{Delivery, cloud_event};
use crate::checkpoint::Slots;

/// The most messages of a delivery, and the bytes after which it is full.
const DELIVERY: (usize, usize) = (256, 256 * 1024);
/// How many deliveries a projector may be behind before it reads the log instead.
pub(crate) const DELIVERIES: usize = 32;
/// How long Kafka may take to say something.
pub(crate) const PATIENCE: Duration = Duration::from_secs(5);
/// How often Kafka is asked whether it is there.
const PING: Duration = Duration::from_secs(5);

/// Where Kafka is, and what we call things there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KafkaConfig {
    /// `host:port`, more of them parted by commas.
    pub brokers: String,
    /// The topic of the events.
    pub topic: String,
    /// The group of the projectors.
    pub group: String,
    /// How many partitions the topic gets when it is made; divides 64.
    pub partitions: i32,
    /// How long the topic keeps its messages.
    pub retention: Duration,
}

impl KafkaConfig {
    /// The house's topic and group on these brokers.
    pub fn new(brokers: impl Into<String>) -> Self {
        Self {
            brokers: brokers.into(),
            topic: "annals.events.v1".to_owned(),
            group: "annals.projections".to_owned(),
            partitions: 8,
            retention: Duration::from_secs(7 * 24 * 60 * 60),
        }
    }

    /// Another topic, with a group of its own: houses that share brokers must share neither.
    pub fn on_topic(mut self, topic: String) -> Self {
        if topic != self.topic {
            self.group = format!("{}.{topic}", self.group);
            self.topic = topic;
        }
        self
    }

    pub(crate) fn client(&self) -> ClientConfig {
        let mut config = ClientConfig::new();
        config
            .set("bootstrap.servers", &self.brokers)
            .set("client.id", "annals")
            .set("topic.metadata.refresh.interval.ms", "5000")
            .set("reconnect.backoff.max.ms", "2000")
            .set("socket.nagle.disable", "true")
            .set_log_level(RDKafkaLogLevel::Warning);
        config
    }
}

/// Why Kafka is of no use.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// It does not answer, or refuses.
    #[error("Kafka does not answer or refuses")]
    Kafka(#[from] KafkaError),
    /// The topic can't be made.
    #[error("Kafka does not make the topic: {0}")]
    Topic(RDKafkaErrorCode),
    /// Slots could not be spread evenly.
    #[error("the topic has {0} partitions, which does not divide 64: make it anew with 1, 2, 4, 8, 16, 32 or 64")]
    Partitions(usize),
    /// The topic has another number of partitions than before.
    #[error("the topic has {0} partitions now")]
    Repartitioned(i32),
    /// Compaction keeps one event a tenant, and takes nothing without a key, such as a heartbeat.
    #[error("the topic's cleanup.policy is `{0}` and must be `delete`: compaction would keep one event a tenant")]
    Cleanup(String),
    /// Not even a stub would fit.
    #[error("the topic's max.message.bytes is {0} and must be {1} at least")]
    MessageSize(usize, usize),
    /// A blocking call did not come back.
    #[error("a call to Kafka was cut short")]
    CutShort,
}

/// What both producer and consumer do with what librdkafka has to say.
pub(crate) struct Watching;

impl ClientContext for Watching {
    fn log(&self, _: RDKafkaLogLevel, facility: &str, message: &str) {
        tracing::debug!(facility, message, "librdkafka");
    }

    fn error(&self, error: KafkaError, reason: &str) {
        tracing::debug!(error = chain(&error), reason, "librdkafka");
    }
}

/// A producer that keeps the order of each partition and loses nothing that it has acknowledged. A batch of messages has
/// so many bytes at the most.
pub(crate) fn producer(kafka: &KafkaConfig, max_batch: usize) -> Result<FutureProducer<Watching>, Failure> {
    let mut config = kafka.client();
    config
        .set("enable.idempotence", "true")
        .set("acks", "all")
        .set("compression.type", "lz4")
        // Long enough to fill a batch under load, too short to be felt.
        .set("linger.ms", "1")
        .set("message.max.bytes", max_batch.to_string())
        .set("batch.size", max_batch.min(1_000_000).to_string())
        .set("message.timeout.ms", "10000")
        .set("queue.buffering.max.messages", "20000")
        .set("queue.buffering.max.kbytes", "65536");
    Ok(config.create_with_context(Watching)?)
}

/// What every projector of the process listens to.
pub(crate) struct KafkaFeed {
    pub(crate) deliveries: broadcast::Sender<Delivery>,
    pub(crate) slots: watch::Sender<Slots>,
    /// Why nothing comes, if nothing can.
    pub(crate) error: Arc<watch::Sender<Option<String>>>,
}

/// Turns what the group gives this process into slots.
struct Group {
    slots: watch::Sender<Slots>,
    partitions: i32,
    held: Mutex<BTreeSet<i32>>,
}

impl ClientContext for Group {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        Watching.log(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        Watching.error(error, reason);
    }
}

impl ConsumerContext for Group {
    fn pre_rebalance(&self, _: &BaseConsumer<Self>, rebalance: &Rebalance<'_>) {
        if let Rebalance::Revoke(list) = rebalance {
            self.change(|held| held.retain(|partition| !numbers(list).contains(partition)));
        }
    }

    fn post_rebalance(&self, _: &BaseConsumer<Self>, rebalance: &Rebalance<'_>) {
        if let Rebalance::Assign(list) = rebalance {
            self.change(|held| held.extend(numbers(list)));
        }
    }
}

impl Group {
    fn change(&self, change: impl FnOnce(&mut BTreeSet<i32>)) {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut held);
        let partitions: Vec<_> = held.iter().copied().collect();
        tracing::info!(?partitions, "the group has shared out its partitions");
        give(&self.slots, Slots::of_partitions(&partitions, self.partitions));
    }
}

/// Tells of slots, where they are others than before: whoever hears of them breaks off what it does.
fn give(slots: &watch::Sender<Slots>, now: Slots) {
    slots.send_if_modified(|before| {
        let changed = *before != now;
        *before = now;
        changed
    });
}

fn numbers(list: &TopicPartitionList) -> Vec<i32> {
    list.elements().iter().map(|element| element.partition()).collect()
}

impl KafkaFeed {
    /// Feeds until it is stopped; begins again after whatever goes wrong.
    pub(crate) async fn run(self, store: EventStore, kafka: KafkaConfig, stop: CancellationToken) {
        loop {
            let ended = self.consume(&store, &kafka, &stop).await;
            give(&self.slots, Slots::default());
            let Err(failure) = ended else { break };
            tracing::warn!(error = chain(&*failure), "the feed from Kafka begins again");
            self.error.send_replace(Some(chain(&*failure)));
            if stop.run_until_cancelled(tokio::time::sleep(Duration::from_secs(1))).await.is_none() {
                break;
            }
        }
    }

    async fn consume(
        &self,
        store: &EventStore,
        kafka: &KafkaConfig,
        stop: &CancellationToken,
    ) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        let partitions = loop {
            match stop.run_until_cancelled(topic::look(kafka)).await {
                None => return Ok(()),
                Some(Ok(Some(topic))) => break topic.partitions,
                // The relay makes the topic.
                Some(Ok(None)) => tokio::time::sleep(Duration::from_millis(100)).await,
                Some(Err(failure)) => return Err(failure.into()),
            }
        };
        let group = Group { slots: self.slots.clone(), partitions, held: Mutex::default() };
        let consumer = Arc::new(consumer(kafka, group)?);
        consumer.subscribe(&[&kafka.topic])?;
        self.error.send_replace(None);
        let ask = || -> BoxFuture<'_, _> { Box::pin(partitions_later(consumer.clone(), kafka.topic.clone())) };
        let mut ping = ask();
        let ended = loop {
            let message = tokio::select! {
                biased;
                () = stop.cancelled() => break Ok(()),
                message = consumer.recv() => message,
                partitions_now = &mut ping => match partitions_now {
                    // Other slots are in each of them.
                    Ok(Some(now)) if now != partitions => break Err(Failure::Repartitioned(now).into()),
                    asked => {
                        self.error.send_replace(complaint(asked));
                        ping = ask();
                        continue;
                    }
                },
            };
            match message {
                Ok(message) => {
                    if let Err(error) = self.deliver(&consumer, message, store).await {
                        break Err(error.into());
                    }
                }
                // librdkafka goes on trying by itself.
                Err(error) => {
                    tracing::debug!(error = chain(&error), "nothing comes from Kafka");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        };
        // Closing tells the group and waits for its word.
        drop(ping);
        tokio::task::spawn_blocking(move || drop(consumer)).await?;
        ended
    }

    /// Hands this message and those that lie ready to every projector. Offsets are hints: they say where to begin after
    /// a restart, and what lies before a checkpoint is dropped.
    async fn deliver(
        &self,
        consumer: &StreamConsumer<Group>,
        first: BorrowedMessage<'_>,
        store: &EventStore,
    ) -> Result<(), StoreError> {
        let (mut messages, mut bytes) = (Vec::new(), 0);
        let mut next = Some(first);
        while let Some(message) = next {
            let payload = message.payload().unwrap_or_default();
            bytes += payload.len();
            match cloud_event::read(payload) {
                Ok(message) => {
                    let place = message.place();
                    if place.incarnation > store.tail().incarnation() {
                        // Another process has opened it just now, or the log has lost it.
                        store.look().await?;
                        if place.incarnation > store.tail().incarnation() {
                            store.settle(&[Evidence::Seen { by: "a message from Kafka", place }]).await?;
                        }
                    }
                    messages.push(message);
                }
                // Whatever was lost with it, the next message of the slot shows that it is missing.
                Err(error) => {
                    let (partition, offset) = (message.partition(), message.offset());
                    tracing::warn!(partition, offset, error = chain(&error), "a message can't be read");
                    metrics::counter!("annals_feed_unreadable_total").increment(1);
                }
            }
            if let Err(error) = consumer.store_offset_from_message(&message) {
                tracing::debug!(error = chain(&error), "an offset was not stored");
            }
            let full = messages.len() >= DELIVERY.0 || bytes >= DELIVERY.1;
            next = if full { None } else { consumer.recv().now_or_never().and_then(Result::ok) };
        }
        if !messages.is_empty() {
            // Nobody may be listening yet; then everybody begins with the log.
            drop(self.deliveries.send(Delivery::from(messages)));
        }
        Ok(())
    }
}

fn consumer(kafka: &KafkaConfig, group: Group) -> Result<StreamConsumer<Group>, KafkaError> {
    let mut config = kafka.client();
    config
        .set("group.id", &kafka.group)
        .set("enable.auto.commit", "true")
        .set("auto.commit.interval.ms", "1000")
        .set("enable.auto.offset.store", "false")
        .set("auto.offset.reset", "earliest")
        .set("allow.auto.create.topics", "false")
        .set("session.timeout.ms", "6000")
        .set("heartbeat.interval.ms", "1500")
        .set("fetch.error.backoff.ms", "100")
        .set("fetch.queue.backoff.ms", "20")
        .set("queued.min.messages", "5000")
        .set("queued.max.messages.kbytes", "8192");
    config.create_with_context(group)
}

/// A while later: how many partitions the topic has then.
async fn partitions_later(consumer: Arc<StreamConsumer<Group>>, topic: String) -> Result<Option<i32>, Failure> {
    tokio::time::sleep(PING).await;
    let asked = tokio::task::spawn_blocking(move || partitions_of(consumer.client(), &topic)).await;
    asked.map_err(|_| Failure::CutShort).flatten()
}

/// Why nothing comes from Kafka, if nothing can.
fn complaint(asked: Result<Option<i32>, Failure>) -> Option<String> {
    match asked {
        Ok(Some(_)) => None,
        Ok(None) => Some("the topic is gone".to_owned()),
        Err(failure) => Some(chain(&failure)),
    }
}
