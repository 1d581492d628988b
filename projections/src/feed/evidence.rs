//! What Kafka knows of the log: a restored log finds there what it has lost. The relay looks before it publishes, at the
//! last messages of each partition, and further back for as long as they are not what the log has.

use std::collections::HashMap;
use std::time::Instant;

use eventstore::{EventStore, Evidence, HighWater, StoreError};
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::Message as _;
use rdkafka::{Offset, TopicPartitionList};
use uuid::Uuid;

use super::kafka::{Failure, KafkaConfig, PATIENCE};
use super::{Message, cloud_event};

/// How many messages of each partition are looked at first.
const LAST: i64 = 64;
/// The most that are looked at: what lies further back has been published long ago.
const MOST: i64 = 64 * 1024;
/// Who has seen it.
const BY: &str = "a message in Kafka";

/// Puts what was published before the log.
pub(super) async fn settle(
    store: &EventStore,
    kafka: &KafkaConfig,
    partitions: i32,
) -> Result<(), super::relay::Failure> {
    let mut count = LAST;
    loop {
        let kafka = kafka.clone();
        let read = tokio::task::spawn_blocking(move || last_messages(&kafka, partitions, count)).await;
        let seen = read.map_err(|_| Failure::CutShort).flatten()?;
        let differs = differing(store, &seen.events).await?;
        let incarnations = store.incarnations();
        let end = HighWater { incarnation: incarnations.newest().id, position: store.tail().position() };
        if differs.is_empty() && seen.highest <= end {
            return Ok(());
        }
        // Where even the oldest one differs, the log may differ from further back on.
        let oldest = seen.events.iter().map(|event| event.place.position).min();
        if oldest.is_some_and(|oldest| differs.contains(&oldest)) && !seen.whole && count < MOST {
            count *= 8;
            continue;
        }
        let events = seen.events.into_iter().filter(|event| differs.contains(&event.place.position));
        let events = events.map(|Published { place, event_id }| Evidence::Event { by: BY, place, event_id });
        let highest = Evidence::Seen { by: BY, place: seen.highest };
        return Ok(store.settle(&events.chain([highest]).collect::<Vec<_>>()).await?);
    }
}

/// An event as it was published.
struct Published {
    place: HighWater,
    event_id: Uuid,
}

/// The last messages of a topic.
struct Seen {
    /// How far the log had come.
    highest: HighWater,
    events: Vec<Published>,
    /// Whether that is all there is.
    whole: bool,
}

/// The positions at which the log has another event in the same life.
async fn differing(store: &EventStore, events: &[Published]) -> Result<Vec<i64>, StoreError> {
    let incarnations = store.incarnations();
    let ours = events.iter().filter(|event| incarnations.owner(event.place.position) == event.place.incarnation);
    let (positions, ids): (Vec<i64>, Vec<Uuid>) = ours.map(|event| (event.place.position, event.event_id)).unzip();
    store.differing(&positions, &ids).await
}

/// The last messages of each partition. Blocks.
fn last_messages(kafka: &KafkaConfig, partitions: i32, count: i64) -> Result<Seen, Failure> {
    let mut config = kafka.client();
    // It joins no group: the partitions are named. librdkafka wants a name all the same.
    config.set("group.id", format!("{}.look", kafka.group)).set("enable.auto.commit", "false");
    let consumer: BaseConsumer = config.create()?;
    let mut seen = Seen { highest: HighWater { incarnation: 1, position: 0 }, events: Vec::new(), whole: true };
    let (mut assigned, mut missing) = (TopicPartitionList::new(), HashMap::new());
    for partition in 0..partitions {
        let (low, high) = consumer.fetch_watermarks(&kafka.topic, partition, PATIENCE)?;
        let from = low.max(high - count);
        seen.whole &= from == low;
        if from < high {
            assigned.add_partition_offset(&kafka.topic, partition, Offset::Offset(from))?;
            missing.insert(partition, high - 1);
        }
    }
    consumer.assign(&assigned)?;
    let end = Instant::now() + PATIENCE;
    while !missing.is_empty() {
        if Instant::now() > end {
            return Err(Failure::CutShort);
        }
        let Some(message) = consumer.poll(PATIENCE / 10) else { continue };
        let message = message?;
        if missing.get(&message.partition()).is_some_and(|last| message.offset() >= *last) {
            missing.remove(&message.partition());
        }
        // What can't be read says nothing.
        let Ok(read) = cloud_event::read(message.payload().unwrap_or_default()) else { continue };
        seen.highest = seen.highest.max(read.place());
        if let Message::Event { event: Some(slotted), .. } = &read {
            seen.events.push(Published { place: read.place(), event_id: slotted.event.event_id });
        }
    }
    Ok(seen)
}
