//! Looks for what must not be in the clear, in every table and in every message.

use std::time::Duration;

use eventstore::Role;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::{ClientConfig, Message, Offset, TopicPartitionList};
use serde_json::Value;
use sqlx::{AssertSqlSafe, Connection, PgConnection};

use crate::house::House;
use crate::lodging::setting;

impl House {
    /// No row of any table has any of these texts. Each role looks at what it may see; together they see everything.
    pub(crate) async fn assert_nowhere_in_the_databases(&self, canaries: &[&str]) {
        let mut seen = 0;
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
                for canary in canaries {
                    let sql =
                        format!("SELECT count(*), count(*) FILTER (WHERE position($1 in t::text) > 0) FROM {table} t");
                    let (rows, hits): (i64, i64) =
                        sqlx::query_as(AssertSqlSafe(sql)).bind(canary).fetch_one(&mut conn).await.unwrap();
                    seen += rows;
                    assert_eq!(hits, 0, "{canary} stands in {table}");
                }
            }
        }
        assert!(seen > 0);
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
