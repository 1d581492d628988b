//! What seldom goes with an append, and for which the batch's statement has no part: names that are given up, tombstones,
//! keys, clocks, outcomes of commands.

use sqlx::PgConnection;
use uuid::Uuid;

use crate::append::Append;
use crate::work::TenantClock;

/// Stores what goes with the append; gives the log's epoch after it.
pub(crate) async fn store(conn: &mut PgConnection, append: &Append, mut epoch: i64) -> Result<i64, sqlx::Error> {
    if let Some(subject) = append.tombstone {
        epoch = bury(conn, append.tenant, subject).await?;
    }
    if let Some(key) = &append.api_key {
        store_api_key(conn, append.tenant, key).await?;
    }
    if let Some(clock) = append.clock {
        set_clock(conn, append.tenant, clock).await?;
    }
    if let Some(command) = append.settled_command {
        settle_command(conn, append.tenant, command).await?;
    }
    Ok(epoch)
}

/// Gives names up.
pub(crate) async fn release(conn: &mut PgConnection, append: &Append) -> Result<(), sqlx::Error> {
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
