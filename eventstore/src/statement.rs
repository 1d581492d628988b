//! The one statement that commits a batch. The head's row is locked first, by the first part; every other part reads
//! from it, so that positions, tenants' sequences and versions are given in commit order.

use std::collections::HashMap;

use chrono::{DateTime, Utc};
use sqlx::{PgConnection, Row};
use uuid::Uuid;

use crate::append::{Append, Committed, StreamAppend};
use crate::event::NewEvent;

/// What every batch needs: the head's lock, the tenants' sequences, the events.
macro_rules! base {
    ($when:literal) => {
        concat!(
            r"
WITH head AS (
    UPDATE log_head SET position = position + $1, at = greatest(at, clock_timestamp())
    WHERE epoch = $2 AND position >= $3",
            $when,
            r"
    RETURNING position - $1 AS base, at
), tenants AS (
    INSERT INTO tenant_heads (tenant_id, sequence)
    SELECT t.tenant_id, t.events FROM head, UNNEST($4::uuid[], $5::int8[]) AS t (tenant_id, events)
    ON CONFLICT (tenant_id) DO UPDATE SET sequence = tenant_heads.sequence + excluded.sequence
    RETURNING tenant_id, sequence
), appended AS (
    INSERT INTO events (position, tenant_id, sequence, stream_id, stream_type, version, event_id, event_type,
        schema_version, subjects, actor, occurred_at, recorded_at, payload, metadata, salt)
    SELECT head.base + e.ordinal, e.tenant_id, tenants.sequence - e.behind, e.stream_id, e.stream_type, e.version,
        e.event_id, e.event_type, e.schema_version, e.subjects::uuid[], e.actor, e.occurred_at, head.at, e.payload,
        e.metadata, e.salt
    FROM head,
        UNNEST($6::uuid[], $7::int8[], $8::uuid[], $9::text[], $10::int8[], $11::uuid[], $12::text[], $13::int4[],
            $14::text[], $15::text[], $16::timestamptz[], $17::text[], $18::text[], $19::bytea[]) WITH ORDINALITY
        AS e (tenant_id, behind, stream_id, stream_type, version, event_id, event_type, schema_version, subjects,
            actor, occurred_at, payload, metadata, salt, ordinal)
        JOIN tenants ON tenants.tenant_id = e.tenant_id
)"
        )
    };
}

/// Where the batch came to stand.
macro_rules! places {
    () => {
        "
SELECT head.base, head.at, tenants.tenant_id, tenants.sequence FROM head LEFT JOIN tenants ON true"
    };
}

/// A batch of events and nothing beside: parts that do nothing would cost as much again.
const APPEND_EVENTS: &str = concat!(base!(""), places!());

/// One event: without arrays it takes half as long.
const APPEND_ONE: &str = r"
WITH head AS (
    UPDATE log_head SET position = position + 1, at = greatest(at, clock_timestamp()) WHERE epoch = $1 AND position >= $2
    RETURNING position, at
), tenant AS (
    INSERT INTO tenant_heads (tenant_id, sequence) SELECT $3, 1 FROM head
    ON CONFLICT (tenant_id) DO UPDATE SET sequence = tenant_heads.sequence + 1
    RETURNING sequence
), appended AS (
    INSERT INTO events (position, tenant_id, sequence, stream_id, stream_type, version, event_id, event_type,
        schema_version, subjects, actor, occurred_at, recorded_at, payload, metadata, salt)
    SELECT head.position, $3, tenant.sequence, $4, $5, $6, $7, $8, $9, $10, $11, $12, head.at, $13, $14, $15
    FROM head, tenant
)
SELECT head.position, tenant.sequence, head.at FROM head, tenant";

/// A batch with all that may be stored with events.
///
/// A day's table refuses the keys of that day, so yesterday's is looked at too; a key that stands there has no day, and no
/// table takes it. What this snapshot is too old to see there was begun before midnight and has ended two minutes later:
/// until then all go the slow way, which looks under the lock. What time it is, Postgres alone knows: a process may have
/// hung since it looked the key up.
const APPEND_ALL: &str = concat!(
    base!(" AND ($47 OR (greatest(at, clock_timestamp()) AT TIME ZONE 'UTC')::time >= '00:02')"),
    r", keyed AS (
    INSERT INTO idempotency_keys (day, tenant_id, key, item, fingerprint, status, stream_type, stream_id, version, sequence)
    SELECT CASE WHEN $47 OR ((head.at AT TIME ZONE 'UTC')::time >= '00:02' AND NOT EXISTS (
            SELECT FROM idempotency_keys y WHERE y.tenant_id = k.tenant_id AND y.key = k.key AND y.item = k.item
                AND y.day = (head.at AT TIME ZONE 'UTC')::date - 1))
        THEN (head.at AT TIME ZONE 'UTC')::date END, k.tenant_id, k.key, k.item, k.fingerprint, k.status, k.stream_type,
        k.stream_id, k.version, coalesce(k.sequence, tenants.sequence - k.behind)
    FROM head,
        UNNEST($20::uuid[], $21::bytea[], $22::int4[], $23::bytea[], $24::int2[], $25::text[], $26::uuid[], $27::int8[],
            $28::int8[], $29::int8[])
        AS k (tenant_id, key, item, fingerprint, status, stream_type, stream_id, version, sequence, behind)
        LEFT JOIN tenants ON tenants.tenant_id = k.tenant_id
), claimed AS (
    INSERT INTO unique_claims (tenant_id, kind, key, stream_id)
    SELECT c.* FROM head, UNNEST($30::uuid[], $31::text[], $32::bytea[], $33::uuid[]) AS c (tenant_id, kind, key, stream_id)
), named AS (
    INSERT INTO subjects (tenant_id, subject, ring, slot)
    SELECT s.* FROM head, UNNEST($34::uuid[], $35::uuid[], $36::uuid[], $37::int2[]) AS s (tenant_id, subject, ring, slot)
), sent AS (
    INSERT INTO process_commands (tenant_id, command_id)
    SELECT p.* FROM head, UNNEST($38::uuid[], $39::uuid[]) AS p (tenant_id, command_id)
), woken AS (
    INSERT INTO process_work AS known (tenant_id, stream_id, stream_type, due_at, claimed_by)
    SELECT w.* FROM head, UNNEST($40::uuid[], $41::uuid[], $42::text[], $43::timestamptz[], $44::uuid[])
        AS w (tenant_id, stream_id, stream_type, due_at, holder)
    ON CONFLICT (tenant_id, stream_id) DO UPDATE SET due_at = excluded.due_at, claimed_by = excluded.claimed_by,
        claimed_until = CASE WHEN known.claimed_by = excluded.claimed_by THEN known.claimed_until END
), rested AS (
    DELETE FROM process_work w USING head, UNNEST($45::uuid[], $46::uuid[]) AS r (tenant_id, stream_id)
    WHERE w.tenant_id = r.tenant_id AND w.stream_id = r.stream_id
)",
    places!()
);

/// The columns of a batch, as the statement wants them.
#[derive(Default)]
struct Columns {
    tenants: HashMap<Uuid, i64>,
    tenant_id: Vec<Uuid>,
    behind: Vec<i64>,
    stream_id: Vec<Uuid>,
    stream_type: Vec<&'static str>,
    version: Vec<i64>,
    event_id: Vec<Uuid>,
    event_type: Vec<&'static str>,
    schema_version: Vec<i32>,
    subjects: Vec<Option<String>>,
    occurred_at: Vec<DateTime<Utc>>,
}

#[derive(Default)]
struct Keyed {
    tenant_id: Vec<Uuid>,
    key: Vec<Vec<u8>>,
    item: Vec<i32>,
    fingerprint: Vec<Vec<u8>>,
    status: Vec<i16>,
    stream_type: Vec<String>,
    stream_id: Vec<Uuid>,
    version: Vec<i64>,
    sequence: Vec<Option<i64>>,
    behind: Vec<i64>,
}

/// Where the last event of an append stands in its batch: counted from the batch's end, in the house and in the tenant.
struct Place {
    behind_house: i64,
    behind_tenant: i64,
}

/// Commits a batch in one statement, where the log has that epoch and has come at least to that position. `None`: it has
/// not, or the day is too young for keys that were not `looked_up` under the head's lock; nothing was written.
pub(crate) async fn append(
    conn: &mut PgConnection,
    (epoch, known): (i64, i64),
    looked_up: bool,
    batch: &[&Append],
) -> Result<Option<Vec<Committed>>, sqlx::Error> {
    let bare = batch.iter().all(|append| append.has_events_alone());
    if bare
        && let [append] = batch
        && let [stream] = append.streams.as_slice()
        && let [event] = stream.events.as_slice()
    {
        return Ok(append_one(conn, (epoch, known), append.tenant, stream, event)
            .await?
            .map(|committed| vec![committed]));
    }
    let events = || batch.iter().flat_map(|a| a.streams.iter()).flat_map(|s| s.events.iter());
    let (columns, places) = columns(batch);
    let total = columns.version.len() as i64;
    let (tenants, counts): (Vec<Uuid>, Vec<i64>) = columns.tenants.iter().unzip();
    let query = sqlx::query(if bare { APPEND_EVENTS } else { APPEND_ALL })
        .bind(total)
        .bind(epoch)
        .bind(known)
        .bind(tenants)
        .bind(counts)
        .bind(&columns.tenant_id)
        .bind(&columns.behind)
        .bind(&columns.stream_id)
        .bind(&columns.stream_type)
        .bind(&columns.version)
        .bind(&columns.event_id)
        .bind(&columns.event_type)
        .bind(&columns.schema_version)
        .bind(&columns.subjects)
        .bind(events().map(|e| e.actor.as_str()).collect::<Vec<_>>())
        .bind(&columns.occurred_at)
        .bind(events().map(|e| e.payload.as_str()).collect::<Vec<_>>())
        .bind(events().map(|e| e.metadata.as_str()).collect::<Vec<_>>())
        .bind(events().map(|e| e.salt.as_slice()).collect::<Vec<_>>());
    let looked_up = looked_up || batch.iter().all(|append| append.idempotency.is_none());
    let query = if bare { query } else { beside(query, batch, &places).bind(looked_up) };
    let rows = query.fetch_all(conn).await?;
    results(batch, &places, total, &rows)
}

async fn append_one(
    conn: &mut PgConnection,
    (epoch, known): (i64, i64),
    tenant: Uuid,
    stream: &StreamAppend,
    event: &NewEvent,
) -> Result<Option<Committed>, sqlx::Error> {
    let row = sqlx::query(APPEND_ONE)
        .bind(epoch)
        .bind(known)
        .bind(tenant)
        .bind(stream.stream_id)
        .bind(stream.stream_type)
        .bind(stream.expected_version + 1)
        .bind(event.event_id)
        .bind(event.event_type)
        .bind(event.schema_version)
        .bind((!event.subjects.is_empty()).then_some(&event.subjects))
        .bind(&event.actor)
        .bind(event.occurred_at)
        .bind(&event.payload)
        .bind(&event.metadata)
        .bind(event.salt.as_slice())
        .fetch_optional(conn)
        .await?;
    row.map(|row| Ok(Committed { position: row.try_get(0)?, sequence: row.try_get(1)?, recorded_at: row.try_get(2)? }))
        .transpose()
}

type PgQuery<'q> = sqlx::query::Query<'q, sqlx::Postgres, sqlx::postgres::PgArguments>;

/// Binds what is stored with the events.
fn beside<'q>(query: PgQuery<'q>, batch: &[&Append], places: &[Place]) -> PgQuery<'q> {
    let keyed = keyed(batch, places);
    let each = |of: fn(&Append) -> usize| -> Vec<Uuid> {
        batch.iter().flat_map(|a| std::iter::repeat_n(a.tenant, of(a))).collect()
    };
    let claims = || batch.iter().flat_map(|a| a.claims.iter());
    // Two appends of a batch may name the same person for the first time, under the same slot.
    let mut slots: Vec<_> = batch.iter().flat_map(|a| a.subjects.iter().map(|s| (a.tenant, s))).collect();
    slots.sort_unstable_by_key(|(tenant, slot)| (*tenant, slot.subject, slot.ring, slot.slot));
    slots.dedup();
    let sent = || batch.iter().filter_map(|a| a.process_command.map(|id| (a.tenant, id)));
    let work = work(batch);
    let (woken, rested): (Vec<_>, Vec<_>) = work.into_iter().partition(|row| row.due_at.is_some());
    query
        .bind(keyed.tenant_id)
        .bind(keyed.key)
        .bind(keyed.item)
        .bind(keyed.fingerprint)
        .bind(keyed.status)
        .bind(keyed.stream_type)
        .bind(keyed.stream_id)
        .bind(keyed.version)
        .bind(keyed.sequence)
        .bind(keyed.behind)
        .bind(each(|a| a.claims.len()))
        .bind(claims().map(|c| c.kind.clone()).collect::<Vec<_>>())
        .bind(claims().map(|c| c.key.to_vec()).collect::<Vec<_>>())
        .bind(claims().map(|c| c.stream_id).collect::<Vec<_>>())
        .bind(slots.iter().map(|(tenant, _)| *tenant).collect::<Vec<_>>())
        .bind(slots.iter().map(|(_, slot)| slot.subject).collect::<Vec<_>>())
        .bind(slots.iter().map(|(_, slot)| slot.ring).collect::<Vec<_>>())
        .bind(slots.iter().map(|(_, slot)| slot.slot).collect::<Vec<_>>())
        .bind(sent().map(|s| s.0).collect::<Vec<_>>())
        .bind(sent().map(|s| s.1).collect::<Vec<_>>())
        .bind(woken.iter().map(|w| w.tenant).collect::<Vec<_>>())
        .bind(woken.iter().map(|w| w.stream_id).collect::<Vec<_>>())
        .bind(woken.iter().map(|w| w.stream_type).collect::<Vec<_>>())
        .bind(woken.iter().map(|w| w.due_at).collect::<Vec<_>>())
        .bind(woken.iter().map(|w| w.holder).collect::<Vec<_>>())
        .bind(rested.iter().map(|r| r.tenant).collect::<Vec<_>>())
        .bind(rested.iter().map(|r| r.stream_id).collect::<Vec<_>>())
}

/// A row of what is due, as the last append to its stream says.
struct Work {
    tenant: Uuid,
    stream_id: Uuid,
    stream_type: &'static str,
    due_at: Option<DateTime<Utc>>,
    holder: Option<Uuid>,
}

/// One row a stream: of several appends to one stream the last counts.
fn work(batch: &[&Append]) -> Vec<Work> {
    let mut rows = HashMap::new();
    for append in batch {
        let (Some(row), Some(stream)) = (append.work, append.streams.first()) else { continue };
        let (tenant, stream_id, stream_type) = (append.tenant, stream.stream_id, stream.stream_type);
        let row = Work { tenant, stream_id, stream_type, due_at: row.due_at, holder: row.holder };
        rows.insert((tenant, stream_id), row);
    }
    rows.into_values().collect()
}

fn columns(batch: &[&Append]) -> (Columns, Vec<Place>) {
    let mut columns = Columns::default();
    for append in batch {
        for stream in &append.streams {
            for (index, event) in stream.events.iter().enumerate() {
                let count = columns.tenants.entry(append.tenant).or_default();
                *count += 1;
                columns.behind.push(*count); // its number in the tenant's part, turned round below
                columns.tenant_id.push(append.tenant);
                columns.stream_id.push(stream.stream_id);
                columns.stream_type.push(stream.stream_type);
                columns.version.push(stream.expected_version + 1 + index as i64);
                columns.event_id.push(event.event_id);
                columns.event_type.push(event.event_type);
                columns.schema_version.push(event.schema_version);
                columns.subjects.push(array_literal(&event.subjects));
                columns.occurred_at.push(event.occurred_at);
            }
        }
    }
    for (behind, tenant) in columns.behind.iter_mut().zip(&columns.tenant_id) {
        *behind = columns.tenants.get(tenant).copied().unwrap_or_default() - *behind;
    }
    let places = places(batch, &columns);
    (columns, places)
}

fn places(batch: &[&Append], columns: &Columns) -> Vec<Place> {
    let total = columns.version.len();
    let mut taken = 0;
    let mut places = Vec::with_capacity(batch.len());
    for append in batch {
        taken += append.event_count();
        let behind_tenant = taken.checked_sub(1).and_then(|last| columns.behind.get(last)).copied().unwrap_or_default();
        places.push(Place { behind_house: (total - taken) as i64, behind_tenant });
    }
    places
}

/// UNNEST knows no ragged arrays, so the subjects of an event go as the text of an array.
fn array_literal(subjects: &[Uuid]) -> Option<String> {
    if subjects.is_empty() {
        return None;
    }
    let items: Vec<_> = subjects.iter().map(Uuid::to_string).collect();
    Some(format!("{{{}}}", items.join(",")))
}

fn keyed(batch: &[&Append], places: &[Place]) -> Keyed {
    let mut keyed = Keyed::default();
    for (append, place) in batch.iter().zip(places) {
        let Some(record) = &append.idempotency else { continue };
        keyed.tenant_id.push(append.tenant);
        keyed.key.push(record.key.to_vec());
        keyed.item.push(record.item);
        keyed.fingerprint.push(record.fingerprint.to_vec());
        keyed.status.push(record.status);
        keyed.stream_type.push(record.stream_type.clone());
        keyed.stream_id.push(record.stream_id);
        keyed.version.push(record.version);
        keyed.sequence.push((append.event_count() == 0).then_some(record.sequence));
        keyed.behind.push(place.behind_tenant);
    }
    keyed
}

fn results(
    batch: &[&Append],
    places: &[Place],
    total: i64,
    rows: &[sqlx::postgres::PgRow],
) -> Result<Option<Vec<Committed>>, sqlx::Error> {
    let Some(first) = rows.first() else { return Ok(None) };
    let (base, recorded_at): (i64, DateTime<Utc>) = (first.try_get(0)?, first.try_get(1)?);
    let mut heads = HashMap::with_capacity(rows.len());
    for row in rows {
        if let (Some(tenant), Some(sequence)) = (row.try_get::<Option<Uuid>, _>(2)?, row.try_get::<Option<i64>, _>(3)?)
        {
            heads.insert(tenant, sequence);
        }
    }
    let committed = batch.iter().zip(places).map(|(append, place)| {
        let sequence = match (append.event_count(), &append.idempotency) {
            (0, Some(record)) => record.sequence,
            _ => heads.get(&append.tenant).copied().unwrap_or_default() - place.behind_tenant,
        };
        Committed { position: base + total - place.behind_house, sequence, recorded_at }
    });
    Ok(Some(committed.collect()))
}
