//! What the process host needs: how far it has heard, and who has something to do.

use chrono::{DateTime, Utc};
use sqlx::Row;
use uuid::Uuid;

use crate::store::{EventStore, StoreError};

/// A process that has something to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DueProcess {
    /// Whose process it is.
    pub tenant: Uuid,
    /// Its stream.
    pub stream_id: Uuid,
    /// Its kind.
    pub stream_type: String,
}

impl EventStore {
    /// The position up to which a process host has heard everything.
    pub async fn process_cursor(&self, name: &str) -> Result<i64, StoreError> {
        let position: Option<i64> = sqlx::query_scalar("SELECT position FROM process_cursor WHERE name = $1")
            .bind(name)
            .fetch_optional(&self.inner.writing)
            .await?;
        Ok(position.unwrap_or_default())
    }

    /// Moves that position; it never goes back.
    pub async fn save_process_cursor(&self, name: &str, position: i64) -> Result<(), StoreError> {
        sqlx::query(
            "INSERT INTO process_cursor (name, position) VALUES ($1, $2)
             ON CONFLICT (name) DO UPDATE SET position = excluded.position WHERE process_cursor.position < excluded.position",
        )
        .bind(name)
        .bind(position)
        .execute(&self.inner.writing)
        .await?;
        Ok(())
    }

    /// The processes of these kinds that are due, the longest waiting first.
    pub async fn due_processes(&self, kinds: &[&str], limit: i64) -> Result<Vec<DueProcess>, StoreError> {
        let rows = sqlx::query(
            "SELECT tenant_id, stream_id, stream_type FROM process_work
             WHERE due_at <= clock_timestamp() AND stream_type = ANY($1) ORDER BY due_at LIMIT $2",
        )
        .bind(kinds)
        .bind(limit)
        .fetch_all(&self.inner.writing)
        .await?;
        let row = |row: &sqlx::postgres::PgRow| {
            Ok(DueProcess { tenant: row.try_get(0)?, stream_id: row.try_get(1)?, stream_type: row.try_get(2)? })
        };
        Ok(rows.iter().map(row).collect::<Result<_, sqlx::Error>>()?)
    }

    /// Lets a process wait: what it wants done can't be done yet.
    pub async fn postpone(&self, process: &DueProcess, seconds: f64) -> Result<(), StoreError> {
        sqlx::query(
            "UPDATE process_work SET due_at = clock_timestamp() + make_interval(secs => $3)
             WHERE tenant_id = $1 AND stream_id = $2 AND due_at IS NOT NULL",
        )
        .bind(process.tenant)
        .bind(process.stream_id)
        .bind(seconds)
        .execute(&self.inner.writing)
        .await?;
        Ok(())
    }

    /// When the next process of these kinds is due, if any waits.
    pub async fn next_due(&self, kinds: &[&str]) -> Result<Option<DateTime<Utc>>, StoreError> {
        let due = sqlx::query_scalar(
            "SELECT min(due_at) FROM process_work WHERE due_at IS NOT NULL AND stream_type = ANY($1)",
        )
        .bind(kinds)
        .fetch_one(&self.inner.writing)
        .await?;
        Ok(due)
    }
}
