//! Reading the log: all of it in ranges of positions, one tenant's history, one stream.
//!
//! Long reads go in ranges, each a statement of its own: one long transaction would keep dead versions of the head alive.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use domain::names::STREAM_TYPES;
use sqlx::postgres::PgRow;
use sqlx::{AssertSqlSafe, Row};
use tokio::time::Instant;
use uuid::Uuid;

use crate::event::RecordedEvent;
use crate::store::{EventStore, StoreError};

const EVENT: &str = "SELECT position, tenant_id, sequence, stream_id, stream_type, version, event_id, event_type, \
    schema_version, subjects, actor, occurred_at, recorded_at, payload, metadata FROM events";

/// The most events that whoever follows the log's end reads at a time.
const END: i64 = 256;

/// How far the clock of whoever names a moment may be ahead of the log's: so long that is waited for.
const CLOCKS_APART: Duration = Duration::from_secs(1);

/// How long after it an append of a moment can't be under way any more: PostgreSQL ends statements, and transactions that
/// hang, after half of that.
const LONG_SETTLED: Duration = Duration::from_secs(60);

/// How much of a stream is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Until {
    /// All of it.
    End,
    /// Up to and with this version.
    Version(i64),
    /// Up to and with this sequence of the tenant.
    Sequence(i64),
}

/// Which events of a tenant's history are wanted.
#[derive(Clone, Debug, Default)]
pub struct EventFilter {
    /// Exactly this type.
    pub event_type: Option<String>,
    /// Only this stream.
    pub stream: Option<Uuid>,
}

impl EventStore {
    /// Events after a position, in order, at most `limit`, a few hundred. Positions are dense: what is not there is not
    /// committed. The log's end is read so some hundred times a second, and a prepared statement need not be planned anew.
    pub async fn read_log(&self, after: i64, limit: i64) -> Result<Vec<RecordedEvent>, StoreError> {
        // With a limit in its text PostgreSQL takes any such range for as short as it is, and keeps its plan.
        let most = limit.max(END);
        let sql = format!("{EVENT} WHERE position > $1 AND position <= $2 ORDER BY position LIMIT {most}");
        let rows = sqlx::query(AssertSqlSafe(sql)).bind(after).bind(after.saturating_add(limit));
        let rows = rows.fetch_all(&self.inner.reading).await?;
        Ok(rows.iter().map(event).collect::<Result<_, _>>()?)
    }

    /// Events of these types in a range of positions, `until` included, in order; and of the streams that hold them also
    /// those whose type this program does not know, so that whoever reads them can stop before them.
    pub async fn read_log_of(&self, after: i64, until: i64, types: &[&str]) -> Result<Vec<RecordedEvent>, StoreError> {
        let sql = format!(
            "{EVENT} WHERE position > $1 AND position <= $2
             AND (event_type = ANY($3) OR stream_type = ANY($4) AND event_type <> ALL($5)) ORDER BY position"
        );
        let streams = STREAM_TYPES.iter().filter(|stream| stream.events.iter().any(|event| types.contains(event)));
        let known: Vec<_> = domain::catalogue().iter().map(|kind| kind.name).collect();
        let query = sqlx::query(AssertSqlSafe(sql)).bind(after).bind(until).bind(types);
        let query = query.bind(streams.map(|stream| stream.name).collect::<Vec<_>>()).bind(known);
        let rows = query.fetch_all(&self.inner.reading).await?;
        Ok(rows.iter().map(event).collect::<Result<_, _>>()?)
    }

    /// Events of one stream after a version, in order, at most `limit`.
    pub async fn read_stream(
        &self,
        tenant: Uuid,
        stream: Uuid,
        after: i64,
        until: Until,
        limit: i64,
    ) -> Result<Vec<RecordedEvent>, StoreError> {
        let (version, sequence) = match until {
            Until::End => (i64::MAX, i64::MAX),
            Until::Version(version) => (version, i64::MAX),
            Until::Sequence(sequence) => (i64::MAX, sequence),
        };
        let sql = format!(
            "{EVENT} WHERE tenant_id = $1 AND stream_id = $2 AND version > $3 AND version <= $4 AND sequence <= $5
             ORDER BY version LIMIT $6"
        );
        let mut tx = self.inner.tenants.begin(tenant).await?;
        let rows = sqlx::query(AssertSqlSafe(sql))
            .bind(tenant)
            .bind(stream)
            .bind(after)
            .bind(version)
            .bind(sequence)
            .bind(limit)
            .fetch_all(&mut *tx)
            .await?;
        tx.commit().await?;
        Ok(rows.iter().map(event).collect::<Result<_, _>>()?)
    }

    /// A stream's history, newest first: events below a version, at most `limit`.
    pub async fn read_stream_back(
        &self,
        tenant: Uuid,
        stream: Uuid,
        below: i64,
        limit: i64,
    ) -> Result<Vec<RecordedEvent>, StoreError> {
        let sql =
            format!("{EVENT} WHERE tenant_id = $1 AND stream_id = $2 AND version < $3 ORDER BY version DESC LIMIT $4");
        let mut tx = self.inner.tenants.begin(tenant).await?;
        let rows = sqlx::query(AssertSqlSafe(sql))
            .bind(tenant)
            .bind(stream)
            .bind(below)
            .bind(limit)
            .fetch_all(&mut *tx)
            .await?;
        tx.commit().await?;
        Ok(rows.iter().map(event).collect::<Result<_, _>>()?)
    }

    /// One range of a tenant's history: the sequences in `(after, after + span]` that pass the filter, at most `limit`.
    /// The caller goes on after the last one that it got, or after the range where it got fewer.
    pub async fn read_tenant(
        &self,
        tenant: Uuid,
        after: i64,
        span: i64,
        filter: &EventFilter,
        limit: i64,
    ) -> Result<Vec<RecordedEvent>, StoreError> {
        let sql = format!(
            "{EVENT} WHERE tenant_id = $1 AND sequence > $2 AND sequence <= $3
             AND ($4::text IS NULL OR event_type = $4) AND ($5::uuid IS NULL OR stream_id = $5) ORDER BY sequence LIMIT $6"
        );
        let mut tx = self.inner.tenants.begin(tenant).await?;
        let rows = sqlx::query(AssertSqlSafe(sql))
            .bind(tenant)
            .bind(after)
            .bind(after.saturating_add(span))
            .bind(filter.event_type.as_deref())
            .bind(filter.stream)
            .bind(limit)
            .fetch_all(&mut *tx)
            .await?;
        tx.commit().await?;
        Ok(rows.iter().map(event).collect::<Result<_, _>>()?)
    }

    /// The same of the sequences in `(after, until]`, and no more bytes than that, save those of the last event. With them
    /// comes the sequence up to which they are all there is.
    pub async fn read_tenant_within(
        &self,
        tenant: Uuid,
        after: i64,
        until: i64,
        filter: &EventFilter,
        (limit, bytes): (i64, i64),
    ) -> Result<(Vec<RecordedEvent>, i64), StoreError> {
        // The length of a stored text is known without reading it.
        let sql = format!(
            "SELECT * FROM (
                 SELECT found.*, count(*) OVER (), sum(octet_length(payload) + octet_length(metadata))
                     OVER (ORDER BY sequence ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING) AS before
                 FROM ({EVENT} WHERE tenant_id = $1 AND sequence > $2 AND sequence <= $3
                     AND ($4::text IS NULL OR event_type = $4) AND ($5::uuid IS NULL OR stream_id = $5)
                     ORDER BY sequence LIMIT $6) found) bounded
             WHERE before IS NULL OR before < $7 ORDER BY sequence"
        );
        let mut tx = self.inner.tenants.begin(tenant).await?;
        let rows = sqlx::query(AssertSqlSafe(sql))
            .bind(tenant)
            .bind(after)
            .bind(until)
            .bind(filter.event_type.as_deref())
            .bind(filter.stream)
            .bind(limit)
            .bind(bytes)
            .fetch_all(&mut *tx)
            .await?;
        tx.commit().await?;
        let found = rows.last().map(|row| row.try_get::<i64, _>(15)).transpose()?.unwrap_or_default();
        let events = rows.iter().map(event).collect::<Result<Vec<_>, _>>()?;
        let whole = found < limit && events.len() as i64 == found;
        let stands = if whole { None } else { events.last().map(|last| last.sequence) };
        Ok((events, stands.unwrap_or(until)))
    }

    /// The events of a tenant with these sequences, in order.
    pub async fn read_sequences(&self, tenant: Uuid, sequences: &[i64]) -> Result<Vec<RecordedEvent>, StoreError> {
        let sql = format!("{EVENT} WHERE tenant_id = $1 AND sequence = ANY($2) ORDER BY sequence");
        let mut tx = self.inner.tenants.begin(tenant).await?;
        let rows = sqlx::query(AssertSqlSafe(sql)).bind(tenant).bind(sequences).fetch_all(&mut *tx).await?;
        tx.commit().await?;
        Ok(rows.iter().map(event).collect::<Result<_, _>>()?)
    }

    /// The last sequence of a tenant; 0 where it has none.
    pub async fn tenant_head(&self, tenant: Uuid) -> Result<i64, StoreError> {
        let mut tx = self.inner.tenants.begin(tenant).await?;
        let head: Option<i64> = sqlx::query_scalar("SELECT sequence FROM tenant_heads WHERE tenant_id = $1")
            .bind(tenant)
            .fetch_optional(&mut *tx)
            .await?;
        tx.commit().await?;
        Ok(head.unwrap_or_default())
    }

    /// The highest sequence that was recorded at or before a time, which nothing that is still to come changes; 0 where there
    /// is none, and nothing where the log's clock has not come so far. Recorded times never fall as sequences rise, so a
    /// binary search over the tenant's history finds it without an index of its own.
    pub async fn sequence_at(&self, tenant: Uuid, time: DateTime<Utc>) -> Result<Option<i64>, StoreError> {
        if !self.is_past(time).await? {
            return Ok(None);
        }
        let mut tx = self.inner.tenants.begin(tenant).await?;
        let head: Option<i64> = sqlx::query_scalar("SELECT sequence FROM tenant_heads WHERE tenant_id = $1")
            .bind(tenant)
            .fetch_optional(&mut *tx)
            .await?;
        let (mut low, mut high) = (0, head.unwrap_or_default());
        while low < high {
            let middle = high - (high - low) / 2;
            let recorded: DateTime<Utc> =
                sqlx::query_scalar("SELECT recorded_at FROM events WHERE tenant_id = $1 AND sequence = $2")
                    .bind(tenant)
                    .bind(middle)
                    .fetch_one(&mut *tx)
                    .await?;
            if recorded <= time {
                low = middle;
            } else {
                high = middle - 1;
            }
        }
        tx.commit().await?;
        Ok(Some(low))
    }

    /// Whether all that was recorded by a time is there to be read, waiting for what is just being committed: whoever reads
    /// the same moment twice must find the same. False where the log's clock has not come so far.
    async fn is_past(&self, time: DateTime<Utc>) -> Result<bool, StoreError> {
        if self.has_passed(time).await? {
            return Ok(true);
        }
        let end = Instant::now() + CLOCKS_APART;
        // One at a time: what one finds out, those behind it know, and the claims' connections are for the claims.
        let _turn = self.inner.asking_for_time.lock().await;
        while !self.has_passed(time).await? {
            // Under the head's lock nothing is under way, and whatever takes it next is recorded no earlier than this.
            let at: Option<DateTime<Utc>> = sqlx::query_scalar(
                "UPDATE log_head SET at = greatest(at, clock_timestamp()) WHERE at <= $1 RETURNING at",
            )
            .bind(time)
            .fetch_optional(&self.inner.claiming)
            .await?;
            let Some(ahead) = at.map(|at| time - at).filter(|ahead| *ahead >= TimeDelta::zero()) else { break };
            let ahead = ahead.to_std().unwrap_or_default() + Duration::from_millis(1);
            if Instant::now() + ahead > end {
                return Ok(false);
            }
            tokio::time::sleep(ahead).await;
        }
        Ok(true)
    }

    /// Whether the head is of a later time; or that time is so long ago that nothing of it can be under way any more, which
    /// must do where nothing can be written.
    async fn has_passed(&self, time: DateTime<Utc>) -> Result<bool, StoreError> {
        let sql = "SELECT at > $1 OR clock_timestamp() > $1 + make_interval(secs => $2) FROM log_head";
        let passed = sqlx::query_scalar(sql).bind(time).bind(LONG_SETTLED.as_secs_f64());
        Ok(passed.fetch_one(&self.inner.reading).await?)
    }

    /// The version that a stream stands at; 0 where there is none.
    pub async fn stream_version(&self, tenant: Uuid, stream: Uuid) -> Result<i64, StoreError> {
        let mut tx = self.inner.tenants.begin(tenant).await?;
        let version: Option<i64> =
            sqlx::query_scalar("SELECT max(version) FROM events WHERE tenant_id = $1 AND stream_id = $2")
                .bind(tenant)
                .bind(stream)
                .fetch_one(&mut *tx)
                .await?;
        tx.commit().await?;
        Ok(version.unwrap_or_default())
    }
}

fn event(row: &PgRow) -> Result<RecordedEvent, sqlx::Error> {
    Ok(RecordedEvent {
        position: row.try_get(0)?,
        tenant_id: row.try_get(1)?,
        sequence: row.try_get(2)?,
        stream_id: row.try_get(3)?,
        stream_type: row.try_get(4)?,
        version: row.try_get(5)?,
        event_id: row.try_get(6)?,
        event_type: row.try_get(7)?,
        schema_version: row.try_get(8)?,
        subjects: row.try_get(9)?,
        actor: row.try_get(10)?,
        occurred_at: row.try_get(11)?,
        recorded_at: row.try_get(12)?,
        payload: row.try_get(13)?,
        metadata: row.try_get(14)?,
    })
}
