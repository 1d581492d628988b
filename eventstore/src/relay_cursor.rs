//! How far the relay has come: everything at or below its position is acknowledged by Kafka.

use sqlx::Row;

use crate::bytes::SLOTS;
use crate::store::{EventStore, StoreError};

/// The relay's place in the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RelayCursor {
    /// The last position of the acknowledged prefix.
    pub position: i64,
    /// The last position of each slot at or below it; 0 for none.
    pub slots: Vec<i64>,
}

impl Default for RelayCursor {
    fn default() -> Self {
        Self { position: 0, slots: vec![0; usize::from(SLOTS)] }
    }
}

impl EventStore {
    /// Where the relay of a topic left off.
    pub async fn relay_cursor(&self, topic: &str) -> Result<RelayCursor, StoreError> {
        let row = sqlx::query("SELECT position, slots FROM relay_cursor WHERE topic = $1")
            .bind(topic)
            .fetch_optional(&self.inner.reading)
            .await?;
        match row {
            Some(row) => Ok(RelayCursor { position: row.try_get(0)?, slots: row.try_get(1)? }),
            None => Ok(RelayCursor::default()),
        }
    }

    /// Moves the cursor of a topic; it never goes back. One that was come to in another incarnation than the newest is
    /// left where it is: it may lie beyond the log's end.
    pub async fn save_relay_cursor(
        &self,
        topic: &str,
        cursor: &RelayCursor,
        incarnation: i64,
    ) -> Result<(), StoreError> {
        sqlx::query(
            "INSERT INTO relay_cursor (topic, position, slots) SELECT $1, $2, $3
             WHERE $2 <= (SELECT position FROM log_head) AND $4 = (SELECT max(id) FROM log_incarnations)
             ON CONFLICT (topic) DO UPDATE SET position = excluded.position, slots = excluded.slots
             WHERE relay_cursor.position <= excluded.position",
        )
        .bind(topic)
        .bind(cursor.position)
        .bind(&cursor.slots)
        .bind(incarnation)
        .execute(&self.inner.reading)
        .await?;
        Ok(())
    }
}
