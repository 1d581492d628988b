//! Publishes the log to Kafka, in order: one process of the house at a time, from where the last one's acknowledgements
//! end.
//!
//! Architecture Invariant: the cursor moves over the acknowledged prefix alone. After any error the producer is thrown
//! away and a new one begins at the cursor, so Kafka may get an event twice and never one before another of its slot
//! without saying so.

use std::sync::Arc;
use std::time::Duration;

use domain::TenantId;
use eventstore::{EventStore, Leadership, RecordedEvent, StoreError, chain};
use futures::stream::FuturesOrdered;
use futures::{FutureExt, StreamExt};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
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
use super::rules::{Beat, Course, Envelope};
use super::topic::{self, Topic};

/// How many events are read from the log at a time.
const READ: i64 = 256;
/// The least time between two looks at the log's end: what is appended meanwhile goes to Kafka together, and costs it and
/// whoever reads from it less.
const PACE: Duration = Duration::from_millis(4);
/// The most events, and bytes of them, that wait for Kafka's word.
const IN_FLIGHT: (usize, usize) = (5_000, 16 * 1024 * 1024);
/// How often the cursor is saved: what is lost of it is published twice.
const SAVE: Duration = Duration::from_millis(100);
/// How long the lease is good for, how often it is confirmed, and how often whoever stands by asks for it: a leader that
/// is killed or hangs is taken over from in less than three seconds.
const LEASE: (Duration, Duration, Duration) =
    (Duration::from_millis(1_500), Duration::from_millis(500), Duration::from_millis(250));
/// How often a heartbeat is sent while there is news.
const BEAT: Duration = Duration::from_secs(1);
/// How often a heartbeat is sent without news: Kafka may lose the last one.
const QUIET_BEAT: Duration = Duration::from_secs(30);
/// How often the topic's settings are looked at.
const LOOK: Duration = Duration::from_secs(10);
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
    /// What is not as it should be with the topic, a sentence each; told by whoever publishes.
    pub topic_faults: Vec<String>,
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
    #[error("a message of {0} bytes is too large for Kafka")]
    TooLarge(usize),
    #[error("Kafka's topic is gone")]
    Topic,
    #[error("Kafka's topic has changed")]
    TopicChanged,
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
    let (mut pause, mut max_bytes) = (PAUSES.0, cloud_event::MAX_BYTES);
    while let Some(leadership) = stop.run_until_cancelled(lead(&store, &kafka.topic, &status)).await {
        let began = Instant::now();
        let ended = term(&store, &kafka, leadership, max_bytes, &status, &stop).await;
        status.send_modify(|status| status.leading = false);
        let Err(failure) = ended else { break };
        tracing::warn!(error = chain(&failure), "the relay begins again from its cursor");
        metrics::counter!("annals_relay_failures_total").increment(1);
        status.send_modify(|status| status.error = Some(chain(&failure)));
        match failure {
            // Kafka takes less than its settings say, or does not tell them.
            Failure::TooLarge(bytes) => max_bytes = bytes / 2,
            // Its settings say something else now.
            Failure::Topic | Failure::TopicChanged => max_bytes = cloud_event::MAX_BYTES,
            _ => {}
        }
        if began.elapsed() > PAUSES.1 {
            pause = PAUSES.0;
        }
        if stop.run_until_cancelled(tokio::time::sleep(pause)).await.is_none() {
            break;
        }
        pause = (pause * 2).min(PAUSES.1);
    }
}

async fn lead(store: &EventStore, topic: &str, status: &watch::Sender<RelayStatus>) -> Leadership {
    loop {
        match store.lead_for(&format!("relay:{topic}"), LEASE.0).await {
            Ok(Some(leadership)) => return leadership,
            // What went wrong here before is no matter while another process publishes.
            Ok(None) => {
                status.send_if_modified(|status| {
                    let old = std::mem::take(status);
                    status.position = old.position;
                    *status != old
                });
            }
            Err(error) => tracing::warn!(error = chain(&error), "can't ask for the relay's work"),
        }
        tokio::time::sleep(LEASE.2).await;
    }
}

/// One term as the leader; ends well when it is stopped.
async fn term(
    store: &EventStore,
    kafka: &KafkaConfig,
    mut leadership: Leadership,
    max_bytes: usize,
    status: &watch::Sender<RelayStatus>,
    stop: &CancellationToken,
) -> Result<(), Failure> {
    let ended = match keeping(&mut leadership, begin(store, kafka)).await {
        Ok((topic, course)) => {
            let position = course.acknowledged().position;
            tracing::info!(position, partitions = topic.partitions, "this process publishes the log");
            status.send_modify(|status| *status = RelayStatus { leading: true, position, ..RelayStatus::default() });
            tell(status, &topic);
            let mut term = Term::new(kafka, topic, course, max_bytes)?;
            let ended = term.publish(store, kafka, &mut leadership, status, stop).await;
            // Dropping the producer waits for its threads.
            drop(tokio::task::spawn_blocking(move || drop(term.producer)));
            ended
        }
        Err(failure) => Err(failure),
    };
    leadership.resign().await;
    ended
}

/// How the topic is, and from where on the log is published.
async fn begin(store: &EventStore, kafka: &KafkaConfig) -> Result<(Topic, Course), Failure> {
    let topic = topic::ensure(kafka).await?;
    store.look().await?;
    // What was published and is not in the log shows that it went back.
    evidence::settle(store, kafka, topic.partitions).await?;
    let incarnations = store.incarnations();
    let cursor = store.relay_cursor(&kafka.topic).await?;
    let course = Course::from(cursor, incarnations, topic.partitions);
    Ok((topic, course))
}

/// Does a work that may take longer than the lease is good for.
async fn keeping<T>(leadership: &mut Leadership, work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    let mut work = std::pin::pin!(work);
    let mut leases = ticks(LEASE.1);
    loop {
        tokio::select! {
            done = &mut work => return done,
            _ = leases.tick() => leadership.confirm().await?,
        }
    }
}

/// Tells the operator what is not as it should be with the topic, once.
fn tell(status: &watch::Sender<RelayStatus>, topic: &Topic) {
    let changed = status.send_if_modified(|status| {
        let changed = status.topic_faults != topic.faults;
        status.topic_faults.clone_from(&topic.faults);
        changed
    });
    if changed && topic.faults.is_empty() {
        tracing::info!("the topic is as it should be");
    }
    for fault in topic.faults.iter().filter(|_| changed) {
        tracing::warn!(fault, "the topic is not as it should be");
    }
}

/// How the topic is after a while.
async fn look_after(a_while: Duration, kafka: &KafkaConfig) -> Result<Option<Topic>, kafka::Failure> {
    tokio::time::sleep(a_while).await;
    topic::look(kafka).await
}

/// What a leader holds in its hands.
struct Term<'a> {
    producer: FutureProducer<Watching>,
    topic: &'a str,
    /// The topic as it was when the term began.
    shape: Topic,
    /// The most bytes of a message.
    max_bytes: usize,
    course: Course,
    /// In the order of the log. A heartbeat has no event.
    in_flight: FuturesOrdered<futures::future::Join<DeliveryFuture, std::future::Ready<Sent>>>,
    in_flight_bytes: usize,
    /// When Kafka last acknowledged anything, or was given something after it had.
    heard_at: Instant,
}

/// A message that waits for its acknowledgement.
#[derive(Clone, Copy)]
struct Sent {
    /// Slot and position of the event; none of a heartbeat.
    event: Option<(u8, i64)>,
    /// About what it takes in memory.
    size: usize,
    /// How many bytes the message has.
    bytes: usize,
}

type Acknowledgement = <DeliveryFuture as Future>::Output;

impl<'a> Term<'a> {
    fn new(kafka: &'a KafkaConfig, shape: Topic, course: Course, max_bytes: usize) -> Result<Self, Failure> {
        Ok(Self {
            producer: kafka::producer(kafka, shape.max_batch)?,
            topic: &kafka.topic,
            max_bytes: max_bytes.min(shape.max_message()),
            shape,
            course,
            in_flight: FuturesOrdered::new(),
            in_flight_bytes: 0,
            heard_at: Instant::now(),
        })
    }

    async fn publish(
        &mut self,
        store: &EventStore,
        kafka: &KafkaConfig,
        leadership: &mut Leadership,
        status: &watch::Sender<RelayStatus>,
        stop: &CancellationToken,
    ) -> Result<(), Failure> {
        let (mut saves, mut leases, mut beats) = (ticks(SAVE), ticks(LEASE.1), ticks(BEAT));
        let (mut look, mut hurried) = (Box::pin(look_after(LOOK, kafka)), false);
        let newest = self.course.newest();
        let mut saved = self.course.acknowledged().position;
        let (mut beaten, mut beaten_at) = (-1, Instant::now());
        let mut look_at = Instant::now();
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                _ = store.tail().incarnation_past(newest) => return Err(Failure::LogRestored),
                _ = leases.tick() => {
                    leadership.confirm().await?;
                    // A topic that was deleted is waited for in vain: the next term makes it anew.
                    if self.is_stalled() && !hurried {
                        (look, hurried) = (Box::pin(look_after(Duration::ZERO, kafka)), true);
                    }
                }
                _ = saves.tick() => if self.course.acknowledged().position > saved {
                    store.save_relay_cursor(self.topic, self.course.acknowledged(), newest).await?;
                    saved = self.course.acknowledged().position;
                    status.send_modify(|status| status.position = saved);
                    metrics::gauge!("annals_relay_position").set(saved as f64);
                },
                _ = beats.tick() => if self.course.sent() != beaten || beaten_at.elapsed() >= QUIET_BEAT {
                    self.beat()?;
                    (beaten, beaten_at) = (self.course.sent(), Instant::now());
                },
                topic = &mut look => {
                    self.compare(topic, status)?;
                    (look, hurried) = (Box::pin(look_after(LOOK, kafka)), false);
                }
                Some(acknowledged) = self.in_flight.next() => {
                    self.acknowledge(acknowledged)?;
                    while let Some(Some(acknowledged)) = self.in_flight.next().now_or_never() {
                        self.acknowledge(acknowledged)?;
                    }
                }
                () = more(store, self.course.sent(), look_at), if self.has_room() => {
                    let read = store.read_log(self.course.sent(), READ).await?;
                    // Where there is more than was read, the next look can't come too soon.
                    let at_the_end = i64::try_from(read.len()).is_ok_and(|read| read < READ);
                    look_at = Instant::now() + if at_the_end { PACE } else { Duration::ZERO };
                    for event in &read {
                        self.send(event)?;
                    }
                }
            }
        }
        self.farewell().await?;
        store.save_relay_cursor(self.topic, self.course.acknowledged(), newest).await?;
        Ok(())
    }

    /// Where the topic has other partitions, or takes other messages, the next term goes by that.
    fn compare(
        &self,
        topic: Result<Option<Topic>, kafka::Failure>,
        status: &watch::Sender<RelayStatus>,
    ) -> Result<(), Failure> {
        let topic = match topic {
            Ok(Some(topic)) => topic,
            Ok(None) => return Err(Failure::Topic),
            // While Kafka does not answer, what is in flight tells.
            Err(kafka::Failure::Kafka(_) | kafka::Failure::CutShort) => return Ok(()),
            Err(failure) => return Err(failure.into()),
        };
        tell(status, &topic);
        let as_it_was = (topic.partitions, topic.max_batch) == (self.shape.partitions, self.shape.max_batch);
        if as_it_was { Ok(()) } else { Err(Failure::TopicChanged) }
    }

    fn is_stalled(&self) -> bool {
        !self.in_flight.is_empty() && self.heard_at.elapsed() > STALLED
    }

    fn has_room(&self) -> bool {
        self.in_flight.len() < IN_FLIGHT.0 && self.in_flight_bytes < IN_FLIGHT.1
    }

    fn send(&mut self, event: &RecordedEvent) -> Result<(), Failure> {
        let slot = event.slot();
        let Envelope { partition, previous, incarnation } = self.course.send(slot, event.position);
        let message = cloud_event::write(event, previous, incarnation, self.max_bytes)?;
        let key = TenantId::from(event.tenant_id).to_string();
        let sent = Sent { event: Some((slot, event.position)), size: size(event), bytes: message.len() };
        self.produce(partition, Some(&key), &message, sent)
    }

    /// Tells each partition the last position of its slots, and how far that holds.
    fn beat(&mut self) -> Result<(), Failure> {
        let beats: Vec<_> = self.course.beats().collect();
        for Beat { partition, lasts, covered, incarnation } in beats {
            let message = cloud_event::write_beat(partition, &lasts, covered, incarnation)?;
            self.produce(partition, None, &message, Sent { event: None, size: 0, bytes: message.len() })?;
        }
        Ok(())
    }

    fn produce(&mut self, partition: i32, key: Option<&str>, message: &[u8], sent: Sent) -> Result<(), Failure> {
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
        let delivery = self.producer.send_result(record).map_err(|(error, _)| refused(error, sent))?;
        self.in_flight.push_back(futures::future::join(delivery, std::future::ready(sent)));
        self.in_flight_bytes += sent.size;
        Ok(())
    }

    fn acknowledge(&mut self, (delivered, sent): (Acknowledgement, Sent)) -> Result<(), Failure> {
        match delivered {
            Ok(Ok(_)) => {}
            Ok(Err((error, _))) => return Err(refused(error, sent)),
            Err(_) => return Err(Failure::Gone),
        }
        self.heard_at = Instant::now();
        self.in_flight_bytes -= sent.size;
        if let Some((slot, position)) = sent.event {
            self.course.acknowledge(slot, position);
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

/// Waits until there is more in the log than what was sent, and for the time of the next look.
async fn more(store: &EventStore, sent: i64, look_at: Instant) {
    store.tail().past(sent).await;
    tokio::time::sleep_until(look_at).await;
}

fn refused(error: KafkaError, sent: Sent) -> Failure {
    use RDKafkaErrorCode::{InvalidMessageSize, MessageBatchTooLarge, MessageSizeTooLarge};
    match error.rdkafka_error_code() {
        Some(MessageSizeTooLarge | MessageBatchTooLarge | InvalidMessageSize) => Failure::TooLarge(sent.bytes),
        _ => Failure::Produce(error),
    }
}

fn ticks(period: Duration) -> Interval {
    let mut ticks = tokio::time::interval(period);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks
}
