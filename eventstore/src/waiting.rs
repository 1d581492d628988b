//! What waits for a moment, and who is at it, as operators see it.

use chrono::{DateTime, TimeDelta, Utc};
use sqlx::Row;
use sqlx::postgres::PgRow;
use uuid::Uuid;

use crate::store::{EventStore, StoreError};

/// Which waiting streams are wanted; each part that is given must hold.
#[derive(Clone, Debug, Default)]
pub struct WaitingFilter {
    /// Of this tenant; of all where absent.
    pub tenant: Option<Uuid>,
    /// Of these kinds.
    pub kinds: Vec<&'static str>,
    /// This one.
    pub stream: Option<Uuid>,
    /// Only those that are overdue.
    pub overdue: bool,
}

/// A stream that waits for a moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Waiting {
    /// Whose it is.
    pub tenant: Uuid,
    /// The stream.
    pub stream: Uuid,
    /// Its kind.
    pub stream_type: String,
    /// The moment, in the tenant's time.
    pub due_at: DateTime<Utc>,
    /// Whether that has come and nobody is at it.
    pub overdue: bool,
    /// The host that is at it.
    pub holder: Option<Uuid>,
    /// Until when that host has it; without a host, until when it rests.
    pub until: Option<DateTime<Utc>>,
    /// How far the tenant's clock is ahead of ours.
    pub ahead: TimeDelta,
}

/// A claim that has run out is nobody's.
const WAITING: &str = "SELECT * FROM (
        SELECT w.tenant_id, w.stream_id, w.stream_type, w.due_at,
            w.due_at <= statement_timestamp() + coalesce(c.ahead, 0) * interval '1 microsecond'
                AND (w.claimed_by IS NULL OR w.claimed_until < statement_timestamp()) AS overdue,
            CASE WHEN w.claimed_until >= statement_timestamp() THEN w.claimed_by END AS holder,
            CASE WHEN w.claimed_until >= statement_timestamp() THEN w.claimed_until END AS until,
            coalesce(c.ahead, 0) AS ahead
        FROM process_work w LEFT JOIN tenant_clocks c USING (tenant_id)
        WHERE w.due_at IS NOT NULL AND ($1::uuid IS NULL OR w.tenant_id = $1)
            AND w.stream_type = ANY($2) AND ($3::uuid IS NULL OR w.stream_id = $3)
    ) waiting
    WHERE (overdue OR NOT $4) AND ($5::timestamptz IS NULL OR (due_at, stream_id) > ($5, $6))
    ORDER BY due_at, stream_id LIMIT $7";

impl EventStore {
    /// Streams that wait, the longest due first, after a place in that order, at most `limit`.
    pub async fn waiting(
        &self,
        filter: &WaitingFilter,
        after: Option<(DateTime<Utc>, Uuid)>,
        limit: i64,
    ) -> Result<Vec<Waiting>, StoreError> {
        let query = sqlx::query(WAITING)
            .bind(filter.tenant)
            .bind(&filter.kinds)
            .bind(filter.stream)
            .bind(filter.overdue)
            .bind(after.map(|(due_at, _)| due_at))
            .bind(after.map(|(_, stream)| stream))
            .bind(limit);
        let rows = match filter.tenant {
            None => query.fetch_all(&self.inner.claiming).await?,
            Some(tenant) => {
                let mut tx = self.inner.tenants.begin(tenant).await?;
                let rows = query.fetch_all(&mut *tx).await?;
                tx.commit().await?;
                rows
            }
        };
        Ok(rows.iter().map(read).collect::<Result<_, _>>()?)
    }
}

fn read(row: &PgRow) -> Result<Waiting, sqlx::Error> {
    Ok(Waiting {
        tenant: row.try_get(0)?,
        stream: row.try_get(1)?,
        stream_type: row.try_get(2)?,
        due_at: row.try_get(3)?,
        overdue: row.try_get(4)?,
        holder: row.try_get(5)?,
        until: row.try_get(6)?,
        ahead: TimeDelta::microseconds(row.try_get(7)?),
    })
}
