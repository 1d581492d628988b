//! The one statement that commits a batch. The head's row is locked first, by the first part; every other part reads
//! from it, so that positions, tenants' sequences and versions are given in commit order.

use std::collections::HashMap;

use chrono::{DateTime, Utc};
use sqlx::{PgConnection, Row};
use uuid::Uuid;

use crate::append::{Append, Committed};

const APPEND: &str = r"
WITH head AS (
    UPDATE log_head SET position = position + $1, at = greatest(at, clock_timestamp()) WHERE epoch = $2
    RETURNING position - $1 AS base, at
), tenants AS (
    INSERT INTO tenant_heads (tenant_id, sequence)
    SELECT t.tenant_id, t.events FROM head, UNNEST($3::uuid[], $4::int8[]) AS t (tenant_id, events) ORDER BY 1
    ON CONFLICT (tenant_id) DO UPDATE SET sequence = tenant_heads.sequence + excluded.sequence
    RETURNING tenant_id, sequence
), appended AS (
    INSERT INTO events (position, tenant_id, sequence, stream_id, stream_type, version, event_id, event_type,
        schema_version, subjects, actor, occurred_at, recorded_at, payload, metadata, salt)
    SELECT head.base + e.ordinal, e.tenant_id, tenants.sequence - e.behind, e.stream_id, e.stream_type, e.version,
        e.event_id, e.event_type, e.schema_version, e.subjects::uuid[], e.actor, e.occurred_at, head.at, e.payload,
        e.metadata, e.salt
    FROM head,
        UNNEST($5::uuid[], $6::int8[], $7::uuid[], $8::text[], $9::int8[], $10::uuid[], $11::text[], $12::int4[],
            $13::text[], $14::text[], $15::timestamptz[], $16::text[], $17::text[], $18::bytea[]) WITH ORDINALITY
        AS e (tenant_id, behind, stream_id, stream_type, version, event_id, event_type, schema_version, subjects,
            actor, occurred_at, payload, metadata, salt, ordinal)
        JOIN tenants ON tenants.tenant_id = e.tenant_id
), keyed AS (
    INSERT INTO idempotency_keys (day, tenant_id, key, item, fingerprint, status, stream_type, stream_id, version, sequence)
    SELECT (head.at AT TIME ZONE 'UTC')::date, k.tenant_id, k.key, k.item, k.fingerprint, k.status, k.stream_type,
        k.stream_id, k.version, coalesce(k.sequence, tenants.sequence - k.behind)
    FROM head,
        UNNEST($19::uuid[], $20::bytea[], $21::int4[], $22::bytea[], $23::int2[], $24::text[], $25::uuid[], $26::int8[],
            $27::int8[], $28::int8[])
        AS k (tenant_id, key, item, fingerprint, status, stream_type, stream_id, version, sequence, behind)
        LEFT JOIN tenants ON tenants.tenant_id = k.tenant_id
), claimed AS (
    INSERT INTO unique_claims (tenant_id, kind, key, stream_id)
    SELECT c.* FROM head, UNNEST($29::uuid[], $30::text[], $31::bytea[], $32::uuid[]) AS c (tenant_id, kind, key, stream_id)
), named AS (
    INSERT INTO subjects (tenant_id, subject, ring, slot)
    SELECT s.* FROM head, UNNEST($33::uuid[], $34::uuid[], $35::uuid[], $36::int2[]) AS s (tenant_id, subject, ring, slot)
), sent AS (
    INSERT INTO process_commands (tenant_id, command_id)
    SELECT p.* FROM head, UNNEST($37::uuid[], $38::uuid[]) AS p (tenant_id, command_id)
), woken AS (
    INSERT INTO process_work AS known (tenant_id, stream_id, stream_type, due_at, claimed_by)
    SELECT w.* FROM head, UNNEST($39::uuid[], $40::uuid[], $41::text[], $42::timestamptz[], $43::uuid[])
        AS w (tenant_id, stream_id, stream_type, due_at, holder)
    ON CONFLICT (tenant_id, stream_id) DO UPDATE SET due_at = excluded.due_at, claimed_by = excluded.claimed_by,
        claimed_until = CASE WHEN known.claimed_by = excluded.claimed_by THEN known.claimed_until END
), rested AS (
    DELETE FROM process_work w USING head, UNNEST($44::uuid[], $45::uuid[]) AS r (tenant_id, stream_id)
    WHERE w.tenant_id = r.tenant_id AND w.stream_id = r.stream_id
)
SELECT head.base, head.at, tenants.tenant_id, tenants.sequence FROM head LEFT JOIN tenants ON true
";

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
    salt: Vec<Vec<u8>>,
}

#[derive(Default)]
struct Keyed<'a> {
    tenant_id: Vec<Uuid>,
    key: Vec<&'a [u8]>,
    item: Vec<i32>,
    fingerprint: Vec<&'a [u8]>,
    status: Vec<i16>,
    stream_type: Vec<&'a str>,
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

/// Commits a batch in one statement. `None`: the log's epoch is another one, and nothing was written.
pub(crate) async fn append(
    conn: &mut PgConnection,
    epoch: i64,
    batch: &[&Append],
) -> Result<Option<Vec<Committed>>, sqlx::Error> {
    let events = || batch.iter().flat_map(|a| a.streams.iter()).flat_map(|s| s.events.iter());
    let (columns, places) = columns(batch);
    let keyed = keyed(batch, &places);
    let total = columns.version.len() as i64;
    let (tenants, counts): (Vec<Uuid>, Vec<i64>) = columns.tenants.iter().unzip();
    let each = |of: fn(&Append) -> usize| -> Vec<Uuid> {
        batch.iter().flat_map(|a| std::iter::repeat_n(a.tenant, of(a))).collect()
    };
    let claims = || batch.iter().flat_map(|a| a.claims.iter());
    let slots = || batch.iter().flat_map(|a| a.subjects.iter());
    let sent = || batch.iter().filter_map(|a| a.process_command.map(|id| (a.tenant, id)));
    let work = || batch.iter().filter_map(|a| Some((a.tenant, a.streams.first()?, a.work?)));
    let woken = || work().filter_map(|(tenant, stream, row)| Some((tenant, stream, row.due_at?, row.holder)));
    let rested = || work().filter(|(_, _, row)| row.due_at.is_none());
    let rows = sqlx::query(APPEND)
        .bind(total)
        .bind(epoch)
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
        .bind(&columns.salt)
        .bind(&keyed.tenant_id)
        .bind(&keyed.key)
        .bind(&keyed.item)
        .bind(&keyed.fingerprint)
        .bind(&keyed.status)
        .bind(&keyed.stream_type)
        .bind(&keyed.stream_id)
        .bind(&keyed.version)
        .bind(&keyed.sequence)
        .bind(&keyed.behind)
        .bind(each(|a| a.claims.len()))
        .bind(claims().map(|c| c.kind.as_str()).collect::<Vec<_>>())
        .bind(claims().map(|c| c.key.as_slice()).collect::<Vec<_>>())
        .bind(claims().map(|c| c.stream_id).collect::<Vec<_>>())
        .bind(each(|a| a.subjects.len()))
        .bind(slots().map(|s| s.subject).collect::<Vec<_>>())
        .bind(slots().map(|s| s.ring).collect::<Vec<_>>())
        .bind(slots().map(|s| s.slot).collect::<Vec<_>>())
        .bind(sent().map(|s| s.0).collect::<Vec<_>>())
        .bind(sent().map(|s| s.1).collect::<Vec<_>>())
        .bind(woken().map(|w| w.0).collect::<Vec<_>>())
        .bind(woken().map(|w| w.1.stream_id).collect::<Vec<_>>())
        .bind(woken().map(|w| w.1.stream_type).collect::<Vec<_>>())
        .bind(woken().map(|w| w.2).collect::<Vec<_>>())
        .bind(woken().map(|w| w.3).collect::<Vec<_>>())
        .bind(rested().map(|r| r.0).collect::<Vec<_>>())
        .bind(rested().map(|r| r.1.stream_id).collect::<Vec<_>>())
        .fetch_all(conn)
        .await?;
    results(batch, &places, total, &rows)
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
                columns.salt.push(event.salt.to_vec());
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

fn keyed<'a>(batch: &[&'a Append], places: &[Place]) -> Keyed<'a> {
    let mut keyed = Keyed::default();
    for (append, place) in batch.iter().zip(places) {
        let Some(record) = &append.idempotency else { continue };
        keyed.tenant_id.push(append.tenant);
        keyed.key.push(&record.key);
        keyed.item.push(record.item);
        keyed.fingerprint.push(&record.fingerprint);
        keyed.status.push(record.status);
        keyed.stream_type.push(&record.stream_type);
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
