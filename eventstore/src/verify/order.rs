//! Positions, sequences and versions are dense and in commit order; nothing is about a person after their tombstone.
//!
//! An event is compared with the one before it: in the log, in its tenant, in its stream. What was seen not long ago is
//! in memory, a bounded number of tenants and streams; the others are looked up by their index.

use std::collections::HashMap;
use std::hash::Hash;

use chrono::{DateTime, Utc};
use uuid::Uuid;

use super::body::violation;
use super::{Pools, Report};
use crate::event::RecordedEvent;
use crate::store::StoreError;

/// How many tenants, and how many streams, are remembered at least; at most twice as many are.
const REMEMBERED: usize = 100_000;

/// Where the walk has come to.
#[derive(Default)]
pub(super) struct Order {
    position: i64,
    recorded_at: Option<DateTime<Utc>>,
    /// The last sequence of tenants.
    tenants: Recent<Uuid, i64>,
    /// The last version of streams, and their type by its place among the names.
    streams: Recent<(Uuid, Uuid), (i64, Option<usize>)>,
}

/// Events whose predecessors must be looked up.
#[derive(Default)]
struct Unknown<'a> {
    in_tenant: Vec<&'a RecordedEvent>,
    in_stream: Vec<&'a RecordedEvent>,
}

impl Order {
    pub(super) async fn follow(
        &mut self,
        events: &[RecordedEvent],
        pools: &Pools,
        report: &mut Report<'_>,
    ) -> Result<(), StoreError> {
        let mut unknown = Unknown::default();
        for event in events {
            self.in_log(event, report);
            self.in_tenant(event, &mut unknown, report);
            self.in_stream(event, &mut unknown, report);
        }
        without_a_head(events, pools, report).await?;
        before_in_tenant(&unknown.in_tenant, pools, report).await?;
        before_in_stream(&unknown.in_stream, pools, report).await?;
        after_a_tombstone(events, pools, report).await
    }

    /// At the end of the walk.
    pub(super) fn end(&self, head: i64, report: &mut Report<'_>) {
        if self.position < head {
            report.log(format!("the events at positions {} to {head} are missing", self.position + 1));
        }
    }

    fn in_log(&mut self, event: &RecordedEvent, report: &mut Report<'_>) {
        if event.position != self.position + 1 {
            let missing =
                format!("the events at positions {} to {} are missing", self.position + 1, event.position - 1);
            report.log(missing);
        }
        if let Some(before) = self.recorded_at.filter(|before| *before > event.recorded_at) {
            let what = format!("it was recorded at {}, the one before it at {before}", event.recorded_at);
            report.found(violation(event, what));
        }
        (self.position, self.recorded_at) = (event.position, Some(event.recorded_at));
    }

    fn in_tenant<'a>(&mut self, event: &'a RecordedEvent, unknown: &mut Unknown<'a>, report: &mut Report<'_>) {
        match self.tenants.get(&event.tenant_id) {
            Some(before) if event.sequence != before + 1 => {
                report.found(violation(event, format!("its sequence follows on {before} in its tenant")));
            }
            Some(_) => {}
            None if event.sequence == 1 => {}
            None => unknown.in_tenant.push(event),
        }
        self.tenants.put(event.tenant_id, event.sequence);
    }

    fn in_stream<'a>(&mut self, event: &'a RecordedEvent, unknown: &mut Unknown<'a>, report: &mut Report<'_>) {
        let kind = domain::names::STREAM_TYPES.iter().position(|kind| kind.name == event.stream_type);
        let key = (event.tenant_id, event.stream_id);
        match self.streams.get(&key) {
            Some((before, _)) if event.version != before + 1 => {
                let what = format!("its version {} follows on {before} in stream {}", event.version, event.stream_id);
                report.found(violation(event, what));
            }
            Some((_, before)) if kind != before => {
                report.found(violation(event, format!("stream {} had another type before", event.stream_id)));
            }
            Some(_) => {}
            None if event.version == 1 => {}
            None => unknown.in_stream.push(event),
        }
        self.streams.put(key, (event.version, kind));
    }
}

/// What was put last, a bounded number: when the young are enough, the old are forgotten.
struct Recent<K, V> {
    young: HashMap<K, V>,
    old: HashMap<K, V>,
}

impl<K, V> Default for Recent<K, V> {
    fn default() -> Self {
        Self { young: HashMap::new(), old: HashMap::new() }
    }
}

impl<K: Eq + Hash, V: Copy> Recent<K, V> {
    fn get(&self, key: &K) -> Option<V> {
        self.young.get(key).or_else(|| self.old.get(key)).copied()
    }

    fn put(&mut self, key: K, value: V) {
        if self.young.len() >= REMEMBERED {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(key, value);
    }
}

fn column<T>(events: &[&RecordedEvent], of: impl Fn(&RecordedEvent) -> T) -> Vec<T> {
    events.iter().map(|event| of(event)).collect()
}

/// By induction: where each event has the one before it in its tenant, and that one stands before it in the log, the
/// sequences are dense and in order.
async fn before_in_tenant(events: &[&RecordedEvent], pools: &Pools, report: &mut Report<'_>) -> Result<(), StoreError> {
    if events.is_empty() {
        return Ok(());
    }
    let wrong: Vec<i64> = sqlx::query_scalar(
        "SELECT w.ordinal FROM unnest($1::uuid[], $2::int8[], $3::int8[]) WITH ORDINALITY
            AS w (tenant_id, sequence, position, ordinal)
         LEFT JOIN LATERAL (SELECT e.position FROM events e WHERE e.tenant_id = w.tenant_id
            AND e.sequence = w.sequence - 1 LIMIT 1) before ON true
         WHERE before.position IS NULL OR before.position >= w.position",
    )
    .bind(column(events, |event| event.tenant_id))
    .bind(column(events, |event| event.sequence))
    .bind(column(events, |event| event.position))
    .fetch_all(&pools.reading)
    .await?;
    for event in named(events, &wrong) {
        report.found(violation(event, "the sequence before its own is not before it in the log".to_owned()));
    }
    Ok(())
}

/// A tenant has a head from its first event on.
async fn without_a_head(events: &[RecordedEvent], pools: &Pools, report: &mut Report<'_>) -> Result<(), StoreError> {
    let first: Vec<_> = events.iter().filter(|event| event.sequence == 1).collect();
    if first.is_empty() {
        return Ok(());
    }
    let wrong: Vec<i64> = sqlx::query_scalar(
        "SELECT w.ordinal FROM unnest($1::uuid[]) WITH ORDINALITY AS w (tenant_id, ordinal)
         WHERE NOT EXISTS (SELECT FROM tenant_heads h WHERE h.tenant_id = w.tenant_id)",
    )
    .bind(column(&first, |event| event.tenant_id))
    .fetch_all(&pools.reading)
    .await?;
    for event in named(&first, &wrong) {
        report.found(violation(event, "its tenant has no head".to_owned()));
    }
    Ok(())
}

/// The same within a stream, which is of one type.
async fn before_in_stream(events: &[&RecordedEvent], pools: &Pools, report: &mut Report<'_>) -> Result<(), StoreError> {
    if events.is_empty() {
        return Ok(());
    }
    let wrong: Vec<i64> = sqlx::query_scalar(
        "SELECT w.ordinal FROM unnest($1::uuid[], $2::uuid[], $3::int8[], $4::int8[], $5::text[]) WITH ORDINALITY
            AS w (tenant_id, stream_id, version, position, stream_type, ordinal)
         LEFT JOIN LATERAL (SELECT e.position, e.stream_type FROM events e WHERE e.tenant_id = w.tenant_id
            AND e.stream_id = w.stream_id AND e.version = w.version - 1 LIMIT 1) before ON true
         WHERE before.position IS NULL OR before.position >= w.position OR before.stream_type <> w.stream_type",
    )
    .bind(column(events, |event| event.tenant_id))
    .bind(column(events, |event| event.stream_id))
    .bind(column(events, |event| event.version))
    .bind(column(events, |event| event.position))
    .bind(column(events, |event| event.stream_type.clone()))
    .fetch_all(&pools.reading)
    .await?;
    for event in named(events, &wrong) {
        let (version, stream) = (event.version, event.stream_id);
        let what = format!(
            "the version before {version} of stream {stream} is not before it in the log, or is of another type"
        );
        report.found(violation(event, what));
    }
    Ok(())
}

/// What is about an erased person stands before the beginning of the erasure.
async fn after_a_tombstone(events: &[RecordedEvent], pools: &Pools, report: &mut Report<'_>) -> Result<(), StoreError> {
    let about = events.iter().flat_map(|event| event.subjects.iter().flatten().map(move |subject| (event, *subject)));
    let (events, subjects): (Vec<_>, Vec<_>) = about.unzip();
    if events.is_empty() {
        return Ok(());
    }
    let wrong: Vec<i64> = sqlx::query_scalar(
        "SELECT w.ordinal FROM unnest($1::uuid[], $2::uuid[], $3::int8[], $4::timestamptz[]) WITH ORDINALITY
            AS w (tenant_id, subject, position, recorded_at, ordinal)
         JOIN LATERAL (SELECT s.erased_at FROM subjects s WHERE s.tenant_id = w.tenant_id AND s.subject = w.subject
            AND s.erased_at IS NOT NULL LIMIT 1) tombstone ON w.recorded_at >= tombstone.erased_at
         WHERE w.position > coalesce((SELECT min(e.position) FROM events e WHERE e.tenant_id = w.tenant_id
            AND e.stream_id = w.subject AND e.recorded_at >= tombstone.erased_at), 0)",
    )
    .bind(column(&events, |event| event.tenant_id))
    .bind(subjects)
    .bind(column(&events, |event| event.position))
    .bind(column(&events, |event| event.recorded_at))
    .fetch_all(&pools.writing)
    .await?;
    for event in named(&events, &wrong) {
        report.found(violation(event, "it is about a person who was erased before".to_owned()));
    }
    Ok(())
}

fn named<'a>(events: &'a [&RecordedEvent], ordinals: &'a [i64]) -> impl Iterator<Item = &'a RecordedEvent> {
    ordinals.iter().filter_map(|ordinal| events.get(usize::try_from(ordinal - 1).ok()?).copied())
}
