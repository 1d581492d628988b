//! What the slow way looks up, one statement a kind of fact and none where nobody asks for it.

use std::collections::{HashMap, HashSet};

use sqlx::{AssertSqlSafe, PgConnection, Row};
use uuid::Uuid;

use crate::append::{Append, Committed, SubjectSlot};
use crate::identity::{FRESH, RECORD, bytes32, record};
use crate::slow::{Facts, Keyed};

/// Looks up what the appends ask for.
pub(crate) async fn look_up(conn: &mut PgConnection, appends: &[&Append]) -> Result<Facts, sqlx::Error> {
    let mut facts = Facts { versions: versions(conn, appends).await?, ..Facts::default() };
    facts.earlier = earlier(conn, appends, &facts).await?;
    facts.erased = erased(conn, appends).await?;
    facts.keys = keys(conn, appends).await?;
    facts.commands = commands(conn, appends).await?;
    facts.slots = slots(conn, appends).await?;
    facts.claims = claims(conn, appends).await?;
    Ok(facts)
}

/// Each with its tenant, as columns of two arrays.
fn columns<'a, T, I: IntoIterator<Item = T>>(
    appends: &'a [&'a Append],
    of: impl Fn(&'a Append) -> I + 'a,
) -> (Vec<Uuid>, Vec<T>) {
    appends.iter().flat_map(|append| of(append).into_iter().map(|item| (append.tenant, item))).unzip()
}

async fn versions(conn: &mut PgConnection, appends: &[&Append]) -> Result<HashMap<(Uuid, Uuid), i64>, sqlx::Error> {
    let (tenants, streams) = columns(appends, |append| append.streams.iter().map(|stream| stream.stream_id));
    if streams.is_empty() {
        return Ok(HashMap::new());
    }
    let rows = sqlx::query(
        "SELECT w.tenant_id, w.stream_id, coalesce((SELECT max(e.version) FROM events e
             WHERE e.tenant_id = w.tenant_id AND e.stream_id = w.stream_id), 0)
         FROM unnest($1::uuid[], $2::uuid[]) AS w (tenant_id, stream_id)",
    );
    let rows = rows.bind(tenants).bind(streams).fetch_all(conn).await?;
    rows.iter().map(|row| Ok(((row.try_get(0)?, row.try_get(1)?), row.try_get(2)?))).collect()
}

/// Appends whose streams have moved may have been committed by an attempt whose answer got lost: their last events are
/// then where they were to be.
async fn earlier(
    conn: &mut PgConnection,
    appends: &[&Append],
    facts: &Facts,
) -> Result<HashMap<Uuid, Committed>, sqlx::Error> {
    let (mut tenants, mut streams, mut versions) = (Vec::new(), Vec::new(), Vec::new());
    for append in appends {
        let Some(last) = append.streams.iter().rev().find(|stream| !stream.events.is_empty()) else { continue };
        let known = facts.versions.get(&(append.tenant, last.stream_id)).copied().unwrap_or_default();
        let version = last.expected_version + last.events.len() as i64;
        if known >= version {
            tenants.push(append.tenant);
            streams.push(last.stream_id);
            versions.push(version);
        }
    }
    if versions.is_empty() {
        return Ok(HashMap::new());
    }
    let rows = sqlx::query(
        "SELECT e.event_id, e.position, e.sequence, e.recorded_at
         FROM unnest($1::uuid[], $2::uuid[], $3::int8[]) AS w (tenant_id, stream_id, version)
         CROSS JOIN LATERAL (SELECT * FROM events WHERE tenant_id = w.tenant_id AND stream_id = w.stream_id
             AND version = w.version LIMIT 1) e",
    );
    let rows = rows.bind(tenants).bind(streams).bind(versions).fetch_all(conn).await?;
    let committed = |row: &sqlx::postgres::PgRow| {
        let at = Committed { position: row.try_get(1)?, sequence: row.try_get(2)?, recorded_at: row.try_get(3)? };
        Ok((row.try_get(0)?, at))
    };
    rows.iter().map(committed).collect()
}

async fn erased(conn: &mut PgConnection, appends: &[&Append]) -> Result<HashSet<(Uuid, Uuid)>, sqlx::Error> {
    let (tenants, subjects) = columns(appends, |append| append.about.iter().copied());
    if subjects.is_empty() {
        return Ok(HashSet::new());
    }
    let rows = sqlx::query_as(
        "SELECT w.tenant_id, w.subject FROM unnest($1::uuid[], $2::uuid[]) AS w (tenant_id, subject)
         WHERE EXISTS (SELECT FROM subjects s WHERE s.tenant_id = w.tenant_id AND s.subject = w.subject
             AND s.erased_at IS NOT NULL)",
    );
    Ok(rows.bind(tenants).bind(subjects).fetch_all(conn).await?.into_iter().collect())
}

async fn keys(
    conn: &mut PgConnection,
    appends: &[&Append],
) -> Result<HashMap<(Uuid, ([u8; 32], i32)), Keyed>, sqlx::Error> {
    let (tenants, records) = columns(appends, |append| append.idempotency.iter());
    if records.is_empty() {
        return Ok(HashMap::new());
    }
    // One look into the index of each day for each key.
    let rows = sqlx::query(AssertSqlSafe(format!(
        "SELECT found.*, w.tenant_id FROM unnest($1::uuid[], $2::bytea[], $3::int4[]) AS w (tenant_id, key, item)
         CROSS JOIN LATERAL ({RECORD} WHERE tenant_id = w.tenant_id AND key = w.key AND item = w.item AND {FRESH} LIMIT 1)
             found"
    )));
    let rows = rows
        .bind(tenants)
        .bind(records.iter().map(|record| record.key.as_slice()).collect::<Vec<_>>())
        .bind(records.iter().map(|record| record.item).collect::<Vec<_>>())
        .fetch_all(conn)
        .await?;
    let keyed = |row: &sqlx::postgres::PgRow| {
        let found = record(row)?;
        Ok(((row.try_get("tenant_id")?, (bytes32(row, 0)?, found.item)), Keyed::Before(found)))
    };
    rows.iter().map(keyed).collect()
}

async fn commands(conn: &mut PgConnection, appends: &[&Append]) -> Result<HashSet<(Uuid, Uuid)>, sqlx::Error> {
    let (tenants, commands) = columns(appends, |append| append.process_command);
    if commands.is_empty() {
        return Ok(HashSet::new());
    }
    let rows = sqlx::query_as(
        "SELECT w.tenant_id, w.command_id FROM unnest($1::uuid[], $2::uuid[]) AS w (tenant_id, command_id)
         WHERE EXISTS (SELECT FROM process_commands p WHERE p.tenant_id = w.tenant_id AND p.command_id = w.command_id)",
    );
    Ok(rows.bind(tenants).bind(commands).fetch_all(conn).await?.into_iter().collect())
}

async fn slots(
    conn: &mut PgConnection,
    appends: &[&Append],
) -> Result<HashMap<(Uuid, Uuid), SubjectSlot>, sqlx::Error> {
    let (tenants, subjects) = columns(appends, |append| append.subjects.iter().map(|slot| slot.subject));
    if subjects.is_empty() {
        return Ok(HashMap::new());
    }
    let rows = sqlx::query(
        "SELECT w.tenant_id, w.subject, s.ring, s.slot FROM unnest($1::uuid[], $2::uuid[]) AS w (tenant_id, subject)
         CROSS JOIN LATERAL (SELECT ring, slot FROM subjects WHERE tenant_id = w.tenant_id AND subject = w.subject
             AND ring IS NOT NULL LIMIT 1) s",
    );
    let rows = rows.bind(tenants).bind(subjects).fetch_all(conn).await?;
    let slot = |row: &sqlx::postgres::PgRow| {
        let subject = row.try_get(1)?;
        Ok(((row.try_get(0)?, subject), SubjectSlot { subject, ring: row.try_get(2)?, slot: row.try_get(3)? }))
    };
    rows.iter().map(slot).collect()
}

async fn claims(
    conn: &mut PgConnection,
    appends: &[&Append],
) -> Result<HashMap<(Uuid, (String, [u8; 32])), Uuid>, sqlx::Error> {
    let (tenants, claims) = columns(appends, |append| append.claims.iter());
    if claims.is_empty() {
        return Ok(HashMap::new());
    }
    let rows = sqlx::query(
        "SELECT w.tenant_id, w.kind, w.key, c.stream_id
         FROM unnest($1::uuid[], $2::text[], $3::bytea[]) AS w (tenant_id, kind, key)
         CROSS JOIN LATERAL (SELECT stream_id FROM unique_claims WHERE tenant_id = w.tenant_id AND kind = w.kind
             AND key = w.key LIMIT 1) c",
    );
    let rows = rows
        .bind(tenants)
        .bind(claims.iter().map(|claim| claim.kind.as_str()).collect::<Vec<_>>())
        .bind(claims.iter().map(|claim| claim.key.as_slice()).collect::<Vec<_>>())
        .fetch_all(conn)
        .await?;
    let claim =
        |row: &sqlx::postgres::PgRow| Ok(((row.try_get(0)?, (row.try_get(1)?, bytes32(row, 2)?)), row.try_get(3)?));
    rows.iter().map(claim).collect()
}
