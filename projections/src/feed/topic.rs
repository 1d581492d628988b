//! The topic: it is made where there is none, and looked at whether it is as it should be. What can be worked with is
//! told to the operator and worked with; what can't, ends the relay's term with the reason.

use std::collections::HashMap;
use std::time::Duration;

use eventstore::bytes::SLOTS;
use eventstore::chain;
use futures::executor::block_on;
use rdkafka::ClientContext;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, ResourceSpecifier, TopicReplication};
use rdkafka::client::Client;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use tokio::time::Instant;

use super::cloud_event::MAX_BYTES;
use super::kafka::{Failure, KafkaConfig, PATIENCE, Watching};

/// The most bytes of a batch of messages that the topic takes as we make it.
pub const MAX_BATCH: usize = 1024 * 1024;
/// What a batch has beside the message in it: its own header, the record's, the key and the headers.
const AROUND: usize = 1024;
/// The least that a topic must take: a stub or a heartbeat always fits.
const LEAST_BATCH: usize = 16 * 1024;
/// How long it takes until a topic that was made is seen by everybody.
const SEEN: Duration = Duration::from_millis(50);

const CLEANUP: &str = "cleanup.policy";
const RETENTION: &str = "retention.ms";
const RETENTION_BYTES: &str = "retention.bytes";
const MESSAGE: &str = "max.message.bytes";
const IN_SYNC: &str = "min.insync.replicas";

/// The topic as it can be worked with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Topic {
    /// How many partitions it has; divides 64.
    pub(crate) partitions: i32,
    /// The most bytes of a batch of messages that it takes.
    pub(crate) max_batch: usize,
    /// What is not as it should be, a sentence each.
    pub(crate) faults: Vec<String>,
}

impl Topic {
    /// The most bytes of an event's message; a larger one goes as a stub.
    pub(crate) fn max_message(&self) -> usize {
        MAX_BYTES.min(self.max_batch - AROUND)
    }
}

/// What Kafka says of the topic.
#[derive(Clone, Debug, Default)]
struct Found {
    partitions: usize,
    /// How many copies a partition has, at the least.
    replicas: usize,
    /// Its settings by name; empty where they can't be read.
    settings: HashMap<String, String>,
    /// Why they can't.
    unreadable: Option<String>,
}

/// Makes the topic where there is none, and answers how it is.
pub(crate) async fn ensure(kafka: &KafkaConfig) -> Result<Topic, Failure> {
    if let Some(topic) = look(kafka).await? {
        return Ok(topic);
    }
    blocking(kafka, create).await?;
    let end = Instant::now() + PATIENCE;
    loop {
        if let Some(topic) = look(kafka).await? {
            return Ok(topic);
        }
        if Instant::now() >= end {
            return Err(Failure::Topic(RDKafkaErrorCode::UnknownTopicOrPartition));
        }
        tokio::time::sleep(SEEN).await;
    }
}

/// How the topic is; none where it does not exist.
pub(crate) async fn look(kafka: &KafkaConfig) -> Result<Option<Topic>, Failure> {
    blocking(kafka, |kafka, admin| find(kafka, admin)?.map(|found| judge(kafka, &found)).transpose()).await
}

/// How many partitions the topic has; none where it does not exist. Blocks.
pub(crate) fn partitions_of<C: ClientContext>(client: &Client<C>, topic: &str) -> Result<Option<i32>, Failure> {
    shape(client, topic)?.map(|(partitions, _)| divides(partitions)).transpose()
}

/// A client for what is asked seldom: making and dropping it wait for its threads.
async fn blocking<T: Send + 'static>(
    kafka: &KafkaConfig,
    ask: impl FnOnce(&KafkaConfig, &AdminClient<Watching>) -> Result<T, Failure> + Send + 'static,
) -> Result<T, Failure> {
    let kafka = kafka.clone();
    let asked = tokio::task::spawn_blocking(move || {
        let admin = kafka.client().create_with_context(Watching)?;
        ask(&kafka, &admin)
    });
    asked.await.map_err(|_| Failure::CutShort)?
}

fn create(kafka: &KafkaConfig, admin: &AdminClient<Watching>) -> Result<(), Failure> {
    let (retention, message) = (kafka.retention.as_millis().to_string(), MAX_BATCH.to_string());
    let topic = NewTopic::new(&kafka.topic, kafka.partitions, TopicReplication::Fixed(-1))
        .set(RETENTION, &retention)
        .set(RETENTION_BYTES, "-1")
        .set(MESSAGE, &message)
        .set(CLEANUP, "delete");
    for made in block_on(admin.create_topics([&topic], &options()))? {
        match made {
            Ok(_) | Err((_, RDKafkaErrorCode::TopicAlreadyExists)) => {}
            Err((_, code)) => return Err(Failure::Topic(code)),
        }
    }
    Ok(())
}

fn options() -> AdminOptions {
    AdminOptions::new().operation_timeout(Some(PATIENCE)).request_timeout(Some(PATIENCE))
}

fn find(kafka: &KafkaConfig, admin: &AdminClient<Watching>) -> Result<Option<Found>, Failure> {
    let Some((partitions, replicas)) = shape(admin.inner(), &kafka.topic)? else { return Ok(None) };
    let (settings, unreadable) = match settings(kafka, admin) {
        Ok(settings) => (settings, None),
        Err(error) => (HashMap::new(), Some(chain(&error))),
    };
    Ok(Some(Found { partitions, replicas, settings, unreadable }))
}

fn settings(kafka: &KafkaConfig, admin: &AdminClient<Watching>) -> Result<HashMap<String, String>, KafkaError> {
    let described = block_on(admin.describe_configs(&[ResourceSpecifier::Topic(&kafka.topic)], &options()))?;
    let mut settings = HashMap::new();
    for resource in described {
        let entries = resource.map_err(KafkaError::AdminOp)?.entries;
        settings.extend(entries.into_iter().filter_map(|entry| Some((entry.name, entry.value?))));
    }
    Ok(settings)
}

/// How many partitions the topic has, and how many copies of each.
fn shape<C: ClientContext>(client: &Client<C>, topic: &str) -> Result<Option<(usize, usize)>, Failure> {
    let metadata = client.fetch_metadata(Some(topic), PATIENCE)?;
    let topic = metadata.topics().iter().find(|of| of.name() == topic);
    let partitions = topic.map(|topic| topic.partitions()).unwrap_or_default();
    let replicas = partitions.iter().map(|partition| partition.replicas().len()).min();
    Ok(replicas.map(|replicas| (partitions.len(), replicas)))
}

fn divides(partitions: usize) -> Result<i32, Failure> {
    match i32::try_from(partitions) {
        Ok(count) if count > 0 && i32::from(SLOTS) % count == 0 => Ok(count),
        _ => Err(Failure::Partitions(partitions)),
    }
}

/// Whether it can be worked with, and what is not as it should be.
fn judge(kafka: &KafkaConfig, found: &Found) -> Result<Topic, Failure> {
    let text = |name: &str| found.settings.get(name).map(String::as_str);
    let number = |name: &str| text(name).and_then(|text| text.parse::<i64>().ok());
    let partitions = divides(found.partitions)?;
    if let Some(policy) = text(CLEANUP).filter(|policy| *policy != "delete") {
        return Err(Failure::Cleanup(policy.to_owned()));
    }
    let mut faults = Vec::new();
    if partitions != kafka.partitions {
        faults.push(format!(
            "the topic has {partitions} partitions, and ANNALS_KAFKA_PARTITIONS says {}: {partitions} are used",
            kafka.partitions
        ));
    }
    if let Some(why) = &found.unreadable {
        faults.push(format!("the topic's settings can't be read ({why}): whoever publishes must be allowed to"));
    }
    let (retention, wanted) = (number(RETENTION), kafka.retention.as_millis());
    if let Some(retention) = retention.filter(|retention| u128::try_from(*retention) != Ok(wanted)) {
        let hours = kafka.retention.as_secs() / 3600;
        faults.push(format!("{RETENTION} is {retention}, and ANNALS_KAFKA_RETENTION_HOURS says {hours} ({wanted})"));
    }
    if let Some(bytes) = number(RETENTION_BYTES).filter(|bytes| *bytes >= 0) {
        faults.push(format!("{RETENTION_BYTES} is {bytes} and must be -1: events would expire before their time"));
    }
    let max_batch = number(MESSAGE).and_then(|bytes| usize::try_from(bytes).ok()).unwrap_or(MAX_BATCH);
    if max_batch < LEAST_BATCH {
        return Err(Failure::MessageSize(max_batch, LEAST_BATCH));
    }
    if max_batch < MAX_BATCH {
        faults.push(format!(
            "{MESSAGE} is {max_batch} and should be {MAX_BATCH}: an event that is too large goes as a stub"
        ));
    }
    if let Some(in_sync) = number(IN_SYNC).and_then(|in_sync| usize::try_from(in_sync).ok()) {
        if in_sync > found.replicas {
            let replicas = found.replicas;
            faults.push(format!("{IN_SYNC} is {in_sync} with {replicas} replicas: nothing can be published"));
        } else if in_sync < 2 && found.replicas > 2 {
            faults.push(format!("{IN_SYNC} is {in_sync} and should be 2: one broker that fails loses messages"));
        }
    }
    Ok(Topic { partitions, max_batch: max_batch.min(MAX_BATCH), faults })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn as_made() -> Found {
        let settings = [(CLEANUP, "delete"), (RETENTION, "604800000"), (RETENTION_BYTES, "-1"), (MESSAGE, "1048576")];
        let settings = settings.into_iter().chain([(IN_SYNC, "1")]);
        let settings = settings.map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
        Found { partitions: 8, replicas: 1, settings, unreadable: None }
    }

    fn with(changes: &[(&str, &str)], replicas: usize) -> Found {
        let mut found = as_made();
        found.replicas = replicas;
        found.settings.extend(changes.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
        found
    }

    fn judged(found: &Found) -> Topic {
        judge(&KafkaConfig::new("nowhere:1"), found).unwrap()
    }

    #[test]
    fn a_topic_as_we_make_it_has_no_fault() {
        assert_eq!(judged(&as_made()), Topic { partitions: 8, max_batch: MAX_BATCH, faults: Vec::new() });
        assert_eq!(judged(&as_made()).max_message(), MAX_BYTES);
        assert_eq!(judged(&with(&[(IN_SYNC, "2")], 3)).faults, [""; 0]);
        assert_eq!(judged(&with(&[(MESSAGE, "9000000")], 1)).max_batch, MAX_BATCH, "more does no harm");
    }

    #[test]
    fn a_wrong_setting_is_named_and_worked_with() {
        for (found, named) in [
            (with(&[(RETENTION, "3600000")], 1), "ANNALS_KAFKA_RETENTION_HOURS says 168"),
            (with(&[(RETENTION, "-1")], 1), RETENTION),
            (with(&[(RETENTION_BYTES, "1000")], 1), RETENTION_BYTES),
            (with(&[(MESSAGE, "20000")], 1), MESSAGE),
            (with(&[(IN_SYNC, "1")], 3), IN_SYNC),
            (with(&[(IN_SYNC, "2")], 1), "nothing can be published"),
            (Found { partitions: 16, ..as_made() }, "16 are used"),
            (Found { settings: HashMap::new(), unreadable: Some("no".into()), ..as_made() }, "can't be read"),
        ] {
            let topic = judged(&found);
            assert!(topic.faults.len() == 1 && topic.faults[0].contains(named), "{named}: {topic:?}");
        }
        assert_eq!(judged(&Found { partitions: 16, ..as_made() }).partitions, 16);
        assert_eq!(judged(&with(&[(MESSAGE, "20000")], 1)).max_message(), 20_000 - AROUND);
    }

    #[test]
    fn what_cannot_be_worked_with_is_refused_with_the_reason() {
        let refused = |found| judge(&KafkaConfig::new("nowhere:1"), &found).unwrap_err().to_string();
        assert!(refused(Found { partitions: 12, ..as_made() }).contains("12 partitions"));
        assert!(refused(Found { partitions: 0, ..as_made() }).contains("0 partitions"));
        for policy in ["compact", "compact,delete"] {
            assert!(refused(with(&[(CLEANUP, policy)], 1)).contains(&format!("cleanup.policy is `{policy}`")));
        }
        assert!(refused(with(&[(MESSAGE, "1000")], 1)).contains("max.message.bytes is 1000"));
    }
}
