//! Streams that wait for a moment, and who acts on them. A row is a hint with a time: what really happens is decided on
//! the stream itself, so a row that is told twice, or acted on by two, does no harm.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use sqlx::Row;
use sqlx::postgres::PgRow;
use uuid::Uuid;

use crate::store::{EventStore, StoreError};

/// When a stream is due next, as its append stores it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WorkRow {
    /// The moment, in the tenant's time; none where the stream waits for nothing.
    pub due_at: Option<DateTime<Utc>>,
    /// Who goes on with the stream after this append: its claim stays.
    pub holder: Option<Uuid>,
}

/// A stream that is due.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DueWork {
    /// Whose it is.
    pub tenant: Uuid,
    /// The stream.
    pub stream_id: Uuid,
    /// Its kind.
    pub stream_type: String,
    /// The moment that it waited for, in the tenant's time.
    pub due_at: DateTime<Utc>,
    /// How far the tenant's clock is ahead of ours.
    pub ahead: TimeDelta,
}

/// The clock of a test tenant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TenantClock {
    /// How far it is ahead of ours.
    pub ahead: TimeDelta,
    /// Whether it is being advanced.
    pub advancing: bool,
}

/// Postgres' clock at the beginning of the statement: an index can be searched by that, and not by `clock_timestamp()`,
/// which might be another for each row.
const NOW: &str = "statement_timestamp()";
const DUE: &str = "w.tenant_id, w.stream_id, w.stream_type, w.due_at";
const FREE: &str = "(w.claimed_until IS NULL OR w.claimed_until < statement_timestamp())";

/// Claims what is due by our clock, then what is due by the clock of a test tenant. Rows that an append is just writing
/// are passed over, so that nobody waits for anybody: the claim must never stand in the way of an append.
fn claim_sql() -> String {
    format!(
        "WITH ours AS (
            SELECT w.tenant_id, w.stream_id FROM process_work w
            WHERE w.stream_type = $1 AND w.due_at <= {NOW} AND {FREE} AND w.tenant_id <> ALL($5)
                AND NOT EXISTS (SELECT FROM tenant_clocks c WHERE c.tenant_id = w.tenant_id AND c.advancing AND $1 <> $6)
            ORDER BY w.due_at LIMIT $4 FOR UPDATE SKIP LOCKED
        ), theirs AS (
            SELECT due.* FROM tenant_clocks c CROSS JOIN LATERAL (
                SELECT w.tenant_id, w.stream_id FROM process_work w
                WHERE w.tenant_id = c.tenant_id AND w.stream_type = $1 AND w.due_at > {NOW}
                    AND w.due_at <= {NOW} + c.ahead * interval '1 microsecond' AND {FREE}
                ORDER BY w.due_at LIMIT $4 FOR UPDATE SKIP LOCKED
            ) due
            WHERE c.ahead > 0 AND NOT c.advancing AND c.tenant_id <> ALL($5)
        ), claimed AS (
            UPDATE process_work w SET claimed_by = $2, claimed_until = {NOW} + make_interval(secs => $3)
            FROM (SELECT * FROM ours UNION ALL SELECT * FROM theirs LIMIT $4) due
            WHERE w.tenant_id = due.tenant_id AND w.stream_id = due.stream_id
            RETURNING {DUE}
        )
        SELECT claimed.*, coalesce(c.ahead, 0) FROM claimed LEFT JOIN tenant_clocks c USING (tenant_id) ORDER BY due_at"
    )
}

impl EventStore {
    /// Claims streams of a kind that are due, the longest waiting first, for as long as `good_for`; none of the tenants
    /// in `busy`. Where a clock is being advanced, only `clock_kind` is claimed: the rest is its advancer's.
    pub async fn claim_work(
        &self,
        kind: &str,
        clock_kind: &str,
        holder: Uuid,
        good_for: Duration,
        limit: i64,
        busy: &[Uuid],
    ) -> Result<Vec<DueWork>, StoreError> {
        let rows = sqlx::query(sqlx::AssertSqlSafe(claim_sql()))
            .bind(kind)
            .bind(holder)
            .bind(good_for.as_secs_f64())
            .bind(limit)
            .bind(busy)
            .bind(clock_kind)
            .fetch_all(&self.inner.claiming)
            .await?;
        Ok(rows.iter().map(due_work).collect::<Result<_, _>>()?)
    }

    /// Claims one stream, if nobody else has it.
    pub async fn claim_one(&self, work: &DueWork, holder: Uuid, good_for: Duration) -> Result<bool, StoreError> {
        let claimed = sqlx::query(
            "UPDATE process_work w SET claimed_by = $3, claimed_until = statement_timestamp() + make_interval(secs => $4)
             WHERE w.tenant_id = $1 AND w.stream_id = $2
                AND (w.claimed_by = $3 OR w.claimed_until IS NULL OR w.claimed_until < statement_timestamp())",
        )
        .bind(work.tenant)
        .bind(work.stream_id)
        .bind(holder)
        .bind(good_for.as_secs_f64())
        .execute(&self.inner.claiming)
        .await?;
        Ok(claimed.rows_affected() == 1)
    }

    /// Renews the claims of a holder; gives those that it has no more. Rows that an append is just writing are left for
    /// the next time.
    pub async fn renew_claims(
        &self,
        holder: Uuid,
        good_for: Duration,
        held: &[(Uuid, Uuid)],
    ) -> Result<Vec<(Uuid, Uuid)>, StoreError> {
        let (tenants, streams): (Vec<Uuid>, Vec<Uuid>) = held.iter().copied().unzip();
        sqlx::query(
            "WITH held AS (
                SELECT w.tenant_id, w.stream_id
                FROM process_work w JOIN unnest($3::uuid[], $4::uuid[]) AS h (tenant_id, stream_id) USING (tenant_id, stream_id)
                WHERE w.claimed_by = $1 FOR UPDATE OF w SKIP LOCKED
             )
             UPDATE process_work w SET claimed_until = statement_timestamp() + make_interval(secs => $2)
             FROM held WHERE w.tenant_id = held.tenant_id AND w.stream_id = held.stream_id",
        )
        .bind(holder)
        .bind(good_for.as_secs_f64())
        .bind(&tenants)
        .bind(&streams)
        .execute(&self.inner.claiming)
        .await?;
        let lost = sqlx::query_as(
            "SELECT h.tenant_id, h.stream_id FROM unnest($2::uuid[], $3::uuid[]) AS h (tenant_id, stream_id)
             LEFT JOIN process_work w USING (tenant_id, stream_id) WHERE w.claimed_by IS DISTINCT FROM $1",
        )
        .bind(holder)
        .bind(&tenants)
        .bind(&streams)
        .fetch_all(&self.inner.claiming)
        .await?;
        Ok(lost)
    }

    /// Leaves a stream alone for a while, and then to whoever comes first: what it wants can't be done yet.
    pub async fn postpone_work(&self, work: &DueWork, holder: Uuid, pause: Duration) -> Result<(), StoreError> {
        sqlx::query(
            "UPDATE process_work SET claimed_by = NULL, claimed_until = statement_timestamp() + make_interval(secs => $4)
             WHERE tenant_id = $1 AND stream_id = $2 AND claimed_by = $3",
        )
        .bind(work.tenant)
        .bind(work.stream_id)
        .bind(holder)
        .bind(pause.as_secs_f64())
        .execute(&self.inner.claiming)
        .await?;
        Ok(())
    }

    /// Corrects a row by what its stream says: a hint that was told twice. `holder` is whose claim the row must have, none
    /// where nobody claims: an append, and whoever claimed the row after it, has the last word.
    pub async fn correct_work(
        &self,
        work: &DueWork,
        holder: Option<Uuid>,
        due_at: Option<DateTime<Utc>>,
    ) -> Result<(), StoreError> {
        let sql = match due_at {
            None => {
                "DELETE FROM process_work WHERE tenant_id = $1 AND stream_id = $2 AND due_at = $3
                 AND claimed_by IS NOT DISTINCT FROM $4 AND $5 IS NULL"
            }
            Some(_) => {
                "UPDATE process_work SET due_at = $5, claimed_by = NULL, claimed_until = NULL
                 WHERE tenant_id = $1 AND stream_id = $2 AND due_at = $3 AND claimed_by IS NOT DISTINCT FROM $4"
            }
        };
        let query = sqlx::query(sql).bind(work.tenant).bind(work.stream_id).bind(work.due_at).bind(holder).bind(due_at);
        query.execute(&self.inner.claiming).await?;
        Ok(())
    }

    /// Gives claims back, so that others need not wait until they run out.
    pub async fn release_work(&self, holder: Uuid, held: &[(Uuid, Uuid)]) -> Result<(), StoreError> {
        let (tenants, streams): (Vec<Uuid>, Vec<Uuid>) = held.iter().copied().unzip();
        sqlx::query(
            "UPDATE process_work w SET claimed_by = NULL, claimed_until = NULL
             FROM unnest($2::uuid[], $3::uuid[]) AS h (tenant_id, stream_id)
             WHERE w.tenant_id = h.tenant_id AND w.stream_id = h.stream_id AND w.claimed_by = $1",
        )
        .bind(holder)
        .bind(tenants)
        .bind(streams)
        .execute(&self.inner.claiming)
        .await?;
        Ok(())
    }

    /// The next moment that a stream of a kind waits for, by our clock, if any lies ahead.
    pub async fn next_due(&self, kind: &str) -> Result<Option<DateTime<Utc>>, StoreError> {
        let next = sqlx::query_scalar(
            "SELECT min(due_at) FROM process_work WHERE stream_type = $1 AND due_at > clock_timestamp()",
        );
        Ok(next.bind(kind).fetch_one(&self.inner.claiming).await?)
    }

    /// What a tenant's streams wait for up to a moment of the tenant's time, in order, at most `limit`; nothing of
    /// `but`, the kind of its clock, nor of streams of the kinds `young` that were begun after `begun` by our clock, which
    /// their ids (UUIDv7) tell.
    pub async fn due_of_tenant(
        &self,
        tenant: Uuid,
        until: DateTime<Utc>,
        but: &str,
        (young, begun): (&[&str], DateTime<Utc>),
        limit: i64,
    ) -> Result<Vec<DueWork>, StoreError> {
        let sql = format!(
            "SELECT {DUE}, 0::bigint FROM process_work w
             WHERE w.tenant_id = $1 AND w.due_at <= $2 AND w.stream_type <> $3
                AND NOT (w.stream_type = ANY($5) AND w.stream_id >= $6) ORDER BY w.due_at LIMIT $4"
        );
        let first = Uuid::from_u128(u128::try_from(begun.timestamp_millis()).unwrap_or_default() << 80);
        let query = sqlx::query(sqlx::AssertSqlSafe(sql)).bind(tenant).bind(until).bind(but).bind(limit);
        let query = query.bind(young).bind(first);
        let rows = query.fetch_all(&self.inner.claiming).await?;
        Ok(rows.iter().map(due_work).collect::<Result<_, _>>()?)
    }

    /// What a stream waits for, if it does.
    pub async fn due_of_stream(&self, tenant: Uuid, stream: Uuid) -> Result<Option<DueWork>, StoreError> {
        let sql = format!(
            "SELECT {DUE}, 0::bigint FROM process_work w WHERE w.tenant_id = $1 AND w.stream_id = $2 AND w.due_at IS NOT NULL"
        );
        let query = sqlx::query(sqlx::AssertSqlSafe(sql)).bind(tenant).bind(stream);
        let row = query.fetch_optional(&self.inner.claiming).await?;
        Ok(row.as_ref().map(due_work).transpose()?)
    }

    /// The clock of a tenant; none where it is no test tenant.
    pub async fn tenant_clock(&self, tenant: Uuid) -> Result<Option<TenantClock>, StoreError> {
        let mut tx = self.inner.tenants.begin(tenant).await?;
        let row: Option<(i64, bool)> =
            sqlx::query_as("SELECT ahead, advancing FROM tenant_clocks WHERE tenant_id = $1")
                .bind(tenant)
                .fetch_optional(&mut *tx)
                .await?;
        tx.commit().await?;
        Ok(row.map(|(ahead, advancing)| TenantClock { ahead: TimeDelta::microseconds(ahead), advancing }))
    }

    /// Moves the clock of a tenant on its way; it never goes back.
    pub async fn move_clock(&self, tenant: Uuid, ahead: TimeDelta) -> Result<(), StoreError> {
        sqlx::query("UPDATE tenant_clocks SET ahead = greatest(ahead, $2) WHERE tenant_id = $1 AND advancing")
            .bind(tenant)
            .bind(ahead.num_microseconds())
            .execute(&self.inner.claiming)
            .await?;
        Ok(())
    }

    /// The position up to which the process host has heard everything.
    pub async fn process_cursor(&self, name: &str) -> Result<i64, StoreError> {
        let position: Option<i64> = sqlx::query_scalar("SELECT position FROM process_cursor WHERE name = $1")
            .bind(name)
            .fetch_optional(&self.inner.writing)
            .await?;
        Ok(position.unwrap_or_default())
    }

    /// Moves that position; it never goes back. One that was come to in another incarnation than the newest is left where
    /// it is: it may lie beyond the log's end.
    pub async fn save_process_cursor(&self, name: &str, position: i64, incarnation: i64) -> Result<(), StoreError> {
        sqlx::query(
            "INSERT INTO process_cursor (name, position) SELECT $1, $2
             WHERE $2 <= (SELECT position FROM log_head) AND $3 = (SELECT max(id) FROM log_incarnations)
             ON CONFLICT (name) DO UPDATE SET position = excluded.position WHERE process_cursor.position < excluded.position",
        )
        .bind(name)
        .bind(position)
        .bind(incarnation)
        .execute(&self.inner.writing)
        .await?;
        Ok(())
    }
}

fn due_work(row: &PgRow) -> Result<DueWork, sqlx::Error> {
    Ok(DueWork {
        tenant: row.try_get(0)?,
        stream_id: row.try_get(1)?,
        stream_type: row.try_get(2)?,
        due_at: row.try_get(3)?,
        ahead: TimeDelta::microseconds(row.try_get(4)?),
    })
}
