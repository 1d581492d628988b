//! Kafka as the way of events to the projectors.

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
}

impl KafkaConfig {
    /// The house's topic and group on these brokers.
    pub fn new(brokers: impl Into<String>) -> Self {
        Self {
            brokers: brokers.into(),
            topic: "annals.events.v1".to_owned(),
            group: "annals.projections".to_owned(),
            partitions: 8,
        }
    }
}
