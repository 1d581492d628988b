//! The slow way: one append in a transaction that holds the head's lock, with each rule looked up before the insert, so
//! that the caller hears which one was broken. Also the way of all that is rare: tombstones, releases, keys.

use std::collections::HashMap;

use sqlx::{PgConnection, Row};
use uuid::Uuid;

use crate::append::{Append, AppendError, Committed, SubjectSlot};
use crate::identity::idempotency_record;
use crate::incarnation::same_incarnation;
use crate::statement;
use crate::work::TenantClock;

type Checked<T> = Result<Result<T, AppendError>, sqlx::Error>;

macro_rules! check {
    ($checked:expr) => {
        match $checked.await? {
            Ok(value) => value,
            Err(refused) => return Ok(Err(refused)),
        }
    };
}

/// Appends within the caller's transaction; answers where it came to stand and the log's epoch.
pub(crate) async fn append(conn: &mut PgConnection, append: &Append) -> Checked<(Committed, i64)> {
    let mut epoch: i64 = sqlx::query_scalar("SELECT epoch FROM log_head FOR UPDATE").fetch_one(&mut *conn).await?;
    // Each statement from here on has a snapshot of its own, taken while nobody else can append.
    if let Some(committed) = check!(versions(conn, append)) {
        return Ok(Ok((committed, epoch)));
    }
    if !same_incarnation(append.epoch, epoch) {
        return Ok(Err(AppendError::LogRestored));
    }
    check!(tombstones(conn, append));
    check!(duplicates(conn, append));
    check!(process_command(conn, append));
    let mut append = append.clone();
    check!(slots(conn, &mut append));
    release(conn, &append).await?;
    check!(claims(conn, &mut append));
    if let Some(subject) = append.tombstone {
        epoch = bury(conn, append.tenant, subject).await?;
    }
    if let Some(key) = append.api_key.take() {
        store_api_key(conn, append.tenant, &key).await?;
    }
    if let Some(clock) = append.clock.take() {
        set_clock(conn, append.tenant, clock).await?;
    }
    if let Some(command) = append.settled_command.take() {
        settle_command(conn, append.tenant, command).await?;
    }
    match statement::append(conn, epoch, &[&append]).await? {
        Some(committed) => match committed.first() {
            Some(committed) => Ok(Ok((*committed, epoch))),
            None => Err(sqlx::Error::RowNotFound),
        },
        None => Err(sqlx::Error::RowNotFound),
    }
}

/// Every stream must stand where the caller saw it. An append whose own first event stands there already was committed
/// by an attempt whose answer got lost.
async fn versions(conn: &mut PgConnection, append: &Append) -> Checked<Option<Committed>> {
    for stream in &append.streams {
        let actual: i64 =
            sqlx::query_scalar("SELECT coalesce(max(version), 0) FROM events WHERE tenant_id = $1 AND stream_id = $2")
                .bind(append.tenant)
                .bind(stream.stream_id)
                .fetch_one(&mut *conn)
                .await?;
        if actual == stream.expected_version {
            continue;
        }
        return Ok(match earlier_attempt(conn, append).await? {
            Some(committed) => Ok(Some(committed)),
            None => Err(AppendError::Conflict { stream_id: stream.stream_id, actual }),
        });
    }
    Ok(Ok(None))
}

async fn earlier_attempt(conn: &mut PgConnection, append: &Append) -> Result<Option<Committed>, sqlx::Error> {
    let last = append.streams.iter().flat_map(|s| s.events.iter().enumerate().map(move |(i, e)| (s, i, e))).last();
    let Some((stream, index, event)) = last else { return Ok(None) };
    let row = sqlx::query(
        "SELECT position, sequence, recorded_at FROM events
         WHERE tenant_id = $1 AND stream_id = $2 AND version = $3 AND event_id = $4",
    )
    .bind(append.tenant)
    .bind(stream.stream_id)
    .bind(stream.expected_version + 1 + index as i64)
    .bind(event.event_id)
    .fetch_optional(conn)
    .await?;
    row.map(|row| Ok(Committed { position: row.try_get(0)?, sequence: row.try_get(1)?, recorded_at: row.try_get(2)? }))
        .transpose()
}

async fn tombstones(conn: &mut PgConnection, append: &Append) -> Checked<()> {
    let erased: Option<Uuid> = sqlx::query_scalar(
        "SELECT subject FROM subjects WHERE tenant_id = $1 AND subject = ANY($2) AND erased_at IS NOT NULL LIMIT 1",
    )
    .bind(append.tenant)
    .bind(&append.about)
    .fetch_optional(conn)
    .await?;
    Ok(erased.map_or(Ok(()), |subject| Err(AppendError::SubjectErased(subject))))
}

async fn duplicates(conn: &mut PgConnection, append: &Append) -> Checked<()> {
    let Some(record) = &append.idempotency else { return Ok(Ok(())) };
    let found = idempotency_record(conn, append.tenant, &record.key, record.item).await?;
    Ok(found.map_or(Ok(()), |record| Err(AppendError::Duplicate(Box::new(record)))))
}

async fn process_command(conn: &mut PgConnection, append: &Append) -> Checked<()> {
    let Some(id) = append.process_command else { return Ok(Ok(())) };
    let sent = sqlx::query("SELECT 1 FROM process_commands WHERE tenant_id = $1 AND command_id = $2")
        .bind(append.tenant)
        .bind(id)
        .fetch_optional(conn)
        .await?;
    Ok(if sent.is_some() { Err(AppendError::AlreadySent) } else { Ok(()) })
}

/// A person that another process named first has that process's slot; the same slot again is an earlier attempt's.
async fn slots(conn: &mut PgConnection, append: &mut Append) -> Checked<()> {
    for index in (0..append.subjects.len()).rev() {
        let Some(wanted) = append.subjects.get(index).copied() else { continue };
        let row =
            sqlx::query("SELECT ring, slot FROM subjects WHERE tenant_id = $1 AND subject = $2 AND ring IS NOT NULL")
                .bind(append.tenant)
                .bind(wanted.subject)
                .fetch_optional(&mut *conn)
                .await?;
        let Some(row) = row else { continue };
        let stored = SubjectSlot { subject: wanted.subject, ring: row.try_get(0)?, slot: row.try_get(1)? };
        if stored != wanted {
            return Ok(Err(AppendError::SlotTaken(stored)));
        }
        append.subjects.remove(index);
    }
    Ok(Ok(()))
}

async fn release(conn: &mut PgConnection, append: &Append) -> Result<(), sqlx::Error> {
    for release in &append.releases {
        sqlx::query(
            "DELETE FROM unique_claims WHERE tenant_id = $1 AND stream_id = $2 AND ($3::text IS NULL OR kind = $3)",
        )
        .bind(append.tenant)
        .bind(release.stream_id)
        .bind(release.kind.as_deref())
        .execute(&mut *conn)
        .await?;
    }
    Ok(())
}

async fn claims(conn: &mut PgConnection, append: &mut Append) -> Checked<()> {
    let mut holders = HashMap::new();
    for claim in &append.claims {
        let holder: Option<Uuid> =
            sqlx::query_scalar("SELECT stream_id FROM unique_claims WHERE tenant_id = $1 AND kind = $2 AND key = $3")
                .bind(append.tenant)
                .bind(&claim.kind)
                .bind(claim.key.as_slice())
                .fetch_optional(&mut *conn)
                .await?;
        if let Some(holder) = holder {
            if holder != claim.stream_id {
                return Ok(Err(AppendError::ClaimTaken { kind: claim.kind.clone(), holder }));
            }
            holders.insert(claim.key, holder);
        }
    }
    append.claims.retain(|claim| !holders.contains_key(&claim.key));
    Ok(Ok(()))
}

async fn bury(conn: &mut PgConnection, tenant: Uuid, subject: Uuid) -> Result<i64, sqlx::Error> {
    sqlx::query(
        "INSERT INTO subjects (tenant_id, subject, erased_at) VALUES ($1, $2, clock_timestamp())
         ON CONFLICT (tenant_id, subject) DO UPDATE SET erased_at = coalesce(subjects.erased_at, excluded.erased_at)",
    )
    .bind(tenant)
    .bind(subject)
    .execute(&mut *conn)
    .await?;
    sqlx::query_scalar("UPDATE log_head SET epoch = epoch + 1 RETURNING epoch").fetch_one(conn).await
}

async fn set_clock(conn: &mut PgConnection, tenant: Uuid, clock: TenantClock) -> Result<(), sqlx::Error> {
    sqlx::query(
        "INSERT INTO tenant_clocks AS known (tenant_id, ahead, advancing) VALUES ($1, $2, $3)
         ON CONFLICT (tenant_id) DO UPDATE SET ahead = greatest(known.ahead, excluded.ahead), advancing = excluded.advancing",
    )
    .bind(tenant)
    .bind(clock.ahead.num_microseconds().map(|ahead| ahead.max(0)))
    .bind(clock.advancing)
    .execute(conn)
    .await
    .map(|_| ())
}

async fn settle_command(conn: &mut PgConnection, tenant: Uuid, command: Uuid) -> Result<(), sqlx::Error> {
    sqlx::query("UPDATE process_commands SET settled_at = clock_timestamp() WHERE tenant_id = $1 AND command_id = $2")
        .bind(tenant)
        .bind(command)
        .execute(conn)
        .await
        .map(|_| ())
}

async fn store_api_key(conn: &mut PgConnection, tenant: Uuid, key: &crate::ApiKeyRow) -> Result<(), sqlx::Error> {
    sqlx::query(
        "INSERT INTO api_key_lookup (key_id, tenant_id, hash, scopes, expires_at, revoked)
         VALUES ($1, $2, coalesce($3, ''::bytea), $4, $5, $6)
         ON CONFLICT (key_id) DO UPDATE SET scopes = excluded.scopes, expires_at = excluded.expires_at,
             revoked = excluded.revoked, hash = coalesce($3, api_key_lookup.hash)",
    )
    .bind(key.key_id)
    .bind(tenant)
    .bind(key.hash.as_ref().map(|hash| hash.as_slice()))
    .bind(&key.scopes)
    .bind(key.expires_at)
    .bind(key.revoked)
    .execute(conn)
    .await
    .map(|_| ())
}
