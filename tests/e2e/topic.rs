//! What stands in a topic, as any consumer sees it.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use rdkafka::admin::{AdminClient, AdminOptions};
use rdkafka::client::DefaultClientContext;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::{BorrowedMessage, Headers, Message};
use rdkafka::{Offset, TopicPartitionList};
use serde_json::Value;

use crate::lodging::setting;

const PATIENCE: Duration = Duration::from_secs(10);

/// A topic on some brokers.
#[derive(Clone)]
pub(crate) struct Topic {
    pub(crate) brokers: String,
    pub(crate) name: String,
}

/// A message as it stands there.
pub(crate) struct Published {
    pub(crate) partition: i32,
    pub(crate) key: Option<String>,
    pub(crate) content_type: Option<String>,
    pub(crate) body: Value,
}

impl Published {
    fn of(message: &BorrowedMessage<'_>) -> Self {
        let header = |name: &str| {
            let mut all = message.headers()?.iter();
            let value = all.find(|header| header.key == name)?.value?;
            Some(String::from_utf8(value.to_vec()).unwrap())
        };
        Self {
            partition: message.partition(),
            key: message.key().map(|key| String::from_utf8(key.to_vec()).unwrap()),
            content_type: header("content-type"),
            body: serde_json::from_slice(message.payload().unwrap()).unwrap(),
        }
    }

    /// An attribute that is a number.
    pub(crate) fn number(&self, name: &str) -> Option<i64> {
        self.body[name].as_str()?.parse().ok()
    }

    /// Whether it only says where to read the event.
    pub(crate) fn is_stub(&self) -> bool {
        self.body["annalsstub"] == "true"
    }

    pub(crate) fn is_heartbeat(&self) -> bool {
        self.body["type"] == "annals.heartbeat"
    }
}

impl Topic {
    /// On the brokers that the tests share.
    pub(crate) fn shared(name: &str) -> Self {
        Self { brokers: setting("ANNALS_KAFKA_BROKERS"), name: name.to_owned() }
    }

    fn client(&self) -> ClientConfig {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", &self.brokers).set("group.id", format!("{}.look", self.name));
        config
    }

    pub(crate) fn admin(&self) -> AdminClient<DefaultClientContext> {
        self.client().create().unwrap()
    }

    pub(crate) fn options() -> AdminOptions {
        AdminOptions::new().operation_timeout(Some(PATIENCE)).request_timeout(Some(PATIENCE))
    }

    pub(crate) fn partitions(&self) -> i32 {
        let consumer: BaseConsumer = self.client().create().unwrap();
        let metadata = consumer.fetch_metadata(Some(&self.name), PATIENCE).unwrap();
        metadata.topics()[0].partitions().len().try_into().unwrap()
    }

    /// The first and the next offset of each partition.
    pub(crate) fn ends(&self) -> HashMap<i32, (i64, i64)> {
        let consumer: BaseConsumer = self.client().create().unwrap();
        let begun = Instant::now();
        let ends = |partition| loop {
            match consumer.fetch_watermarks(&self.name, partition, PATIENCE) {
                Ok(ends) => return (partition, ends),
                // It may be made just now, or its broker begin.
                Err(error) => assert!(begun.elapsed() < 3 * PATIENCE, "{error}"),
            }
        };
        (0..self.partitions()).map(ends).collect()
    }

    /// Whoever reads what comes from now on.
    pub(crate) fn tail(&self) -> Tail {
        let consumer: BaseConsumer = self.client().create().unwrap();
        let mut assigned = TopicPartitionList::new();
        for (partition, (_, next)) in self.ends() {
            assigned.add_partition_offset(&self.name, partition, Offset::Offset(next)).unwrap();
        }
        consumer.assign(&assigned).unwrap();
        Tail(consumer)
    }

    /// All that stands in it now; in the order of each partition.
    pub(crate) fn read(&self) -> Vec<Published> {
        let consumer: BaseConsumer = self.client().create().unwrap();
        let (mut assigned, mut left) = (TopicPartitionList::new(), HashMap::new());
        for (partition, (low, high)) in self.ends().into_iter().filter(|(_, (low, high))| low < high) {
            assigned.add_partition_offset(&self.name, partition, Offset::Offset(low)).unwrap();
            left.insert(partition, high - 1);
        }
        consumer.assign(&assigned).unwrap();
        let mut all = Vec::new();
        while !left.is_empty() {
            let Some(message) = consumer.poll(PATIENCE) else { panic!("Kafka is silent") };
            let message = message.unwrap();
            if left.get(&message.partition()).is_some_and(|last| message.offset() >= *last) {
                left.remove(&message.partition());
            }
            all.push(Published::of(&message));
        }
        all
    }

    /// Waits until something of a stream is in it.
    pub(crate) async fn until_has(&self, subject: &str) {
        for _ in 0..600 {
            let topic = self.clone();
            let all = tokio::task::spawn_blocking(move || topic.read()).await.unwrap();
            if all.iter().any(|message| message.body["subject"] == subject) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("{subject} was never published");
    }

    /// Takes all that it has so far, as its retention does.
    pub(crate) async fn expire(&self) {
        // It may just be made anew.
        while self.partitions() == 0 {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let mut before = TopicPartitionList::new();
        for (partition, (_, next)) in self.ends() {
            before.add_partition_offset(&self.name, partition, Offset::Offset(next)).unwrap();
        }
        self.admin().delete_records(&before, &Self::options()).await.unwrap();
    }

    /// Reads the whole topic as a consumer does: drops what it has seen, and notices what is missing. Answers the
    /// sequences of each tenant, in the order in which they came, and how often something was missing.
    pub(crate) fn consume(&self) -> (HashMap<String, Vec<i64>>, usize) {
        let (mut lasts, mut sequences) = (HashMap::new(), HashMap::<String, Vec<i64>>::new());
        let mut gaps = 0;
        for message in self.read() {
            if message.is_heartbeat() {
                continue;
            }
            let number = |name| message.number(name).unwrap();
            let (position, slot) = (number("annalsposition"), number("annalsslot"));
            let last = lasts.entry(slot).or_insert(0);
            if position > *last {
                gaps += usize::from(number("annalsprevious") > *last);
                *last = position;
                sequences.entry(message.key.clone().unwrap()).or_default().push(number("annalssequence"));
            }
        }
        (sequences, gaps)
    }
}

/// See [`Topic::tail`].
pub(crate) struct Tail(BaseConsumer);

impl Tail {
    /// Waits for a message.
    pub(crate) fn until(&self, wanted: impl Fn(&Published) -> bool) -> Published {
        let begun = Instant::now();
        while begun.elapsed() < 3 * PATIENCE {
            if let Some(message) = self.0.poll(Duration::from_millis(100)) {
                let message = Published::of(&message.unwrap());
                if wanted(&message) {
                    return message;
                }
            }
        }
        panic!("it never came");
    }
}
