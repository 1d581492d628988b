//! Looks for what must not be in the clear, in every table, in every message and in the log.

use std::time::Duration;

use domain::{CustomerId, TypedId};
use eventstore::Role;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::{ClientConfig, Message, Offset, TopicPartitionList};
use serde_json::Value;
use sqlx::{AssertSqlSafe, Connection, PgConnection};

use crate::house::House;
use crate::lodging::setting;

/// Pieces of personal texts that tests send, and of nothing else.
pub(crate) const CANARIES: &[&str] =
    &["canary-x7", "Canaryname", "canaryreason", "canary-e1", "Canary Name", "canary@example.com", "canary reason"];
/// More that no line of the log may have: reasons, notes, keys.
const NEVER_LOGGED: &[&str] = &[
    "canary question",
    "canary-secret",
    "canary provider",
    "canary prompt",
    "canary hello",
    "asked by phone",
    "likes jazz",
    "likes swing",
    "scratched",
    "ann_live_",
];

/// What stands in a log, which was written from the first request to the last, and should not.
pub(crate) fn found_in_log(log: &str, secrets: &[String]) -> Vec<String> {
    let forbidden = CANARIES.iter().chain(NEVER_LOGGED).copied().chain(secrets.iter().map(String::as_str));
    let forbidden: Vec<_> = forbidden.map(str::to_lowercase).collect();
    let lines = log.lines().filter(|line| {
        let line = line.to_lowercase();
        forbidden.iter().any(|text| line.contains(text))
    });
    lines.map(str::to_owned).collect()
}

impl House {
    /// No row of any table has any of these texts, as it is or as bytes; the customer's id is found in the same way.
    /// Each role looks at what it may see; together they see everything.
    pub(crate) async fn assert_nowhere_in_the_databases(&self, customer: &str, canaries: &[&str]) {
        let customer = customer.parse::<CustomerId>().unwrap().uuid().to_string();
        let mut found = 0;
        for role in [Role::Writer, Role::Reader, Role::Projector] {
            let mut conn = PgConnection::connect_with(&self.dsn.options(role).unwrap()).await.unwrap();
            let tables: Vec<String> = sqlx::query_scalar(
                "SELECT c.oid::regclass::text FROM pg_class c WHERE c.relnamespace = 'public'::regnamespace
                 AND c.relkind IN ('r', 'p') AND NOT c.relispartition AND has_table_privilege(c.oid, 'SELECT')",
            )
            .fetch_all(&mut conn)
            .await
            .unwrap();
            for table in tables {
                // Bytes are shown as hexadecimal digits.
                let sql = format!(
                    "SELECT count(*) FROM {table} t WHERE position($1::text in t::text) > 0
                     OR position(encode(convert_to($1::text, 'UTF8'), 'hex') in t::text) > 0"
                );
                for text in canaries.iter().copied().chain([customer.as_str()]) {
                    let query = sqlx::query_scalar(AssertSqlSafe(sql.clone())).bind(text);
                    let hits: i64 = query.fetch_one(&mut conn).await.unwrap();
                    if text == customer {
                        found += hits;
                    } else {
                        assert_eq!(hits, 0, "{text} stands in {table}");
                    }
                }
            }
        }
        assert!(found > 0, "the customer is found");
    }

    /// No message has any of these texts; that of the customer is there, and is a CloudEvent.
    pub(crate) async fn assert_nowhere_in_kafka(&self, customer: &str, canaries: &[&str]) {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", setting("ANNALS_KAFKA_BROKERS")).set("group.id", "canaries");
        let consumer: BaseConsumer = config.create().unwrap();
        let topic = &self.lodging.topic;
        let metadata = consumer.fetch_metadata(Some(topic), Duration::from_secs(10)).unwrap();
        let mut all = TopicPartitionList::new();
        let mut left = 0;
        for partition in metadata.topics()[0].partitions() {
            let (low, high) = consumer.fetch_watermarks(topic, partition.id(), Duration::from_secs(10)).unwrap();
            left += high - low;
            all.add_partition_offset(topic, partition.id(), Offset::Beginning).unwrap();
        }
        consumer.assign(&all).unwrap();
        let mut found = false;
        while left > 0 {
            let message = consumer.poll(Duration::from_secs(10)).expect("a message").unwrap();
            left -= 1;
            let text = String::from_utf8_lossy(message.payload().unwrap()).into_owned();
            for canary in canaries {
                assert!(!text.contains(canary), "{canary} stands in Kafka: {text}");
            }
            if text.contains(customer) {
                found = true;
                let event: Value = serde_json::from_str(&text).unwrap();
                assert_eq!(event["specversion"], "1.0");
                for attribute in [
                    "id",
                    "source",
                    "type",
                    "annalsposition",
                    "annalssequence",
                    "annalsprevious",
                    "annalsslot",
                    "annalsincarnation",
                ] {
                    assert!(event[attribute].is_string(), "{attribute}: {text}");
                }
                assert!(!text.contains("salt"));
            }
        }
        assert!(found, "the customer's event is in Kafka");
    }
}
