//! `annals verify-log`: walks a log and checks every promise that it makes. It only reads, in ranges, so it may run beside
//! a house that goes on, on a standby or on a restored backup, and takes as much memory for ten million events as for ten
//! thousand.

mod beside;
mod body;
mod guards;
mod ids;
mod order;
mod types;

use std::collections::BTreeMap;
use std::sync::Arc;

use chrono::{DateTime, Utc};
use futures::{StreamExt, TryStreamExt};
use serde::Serialize;
use sha2::{Digest, Sha256};
use sqlx::postgres::PgPool;
use uuid::Uuid;

use crate::event::RecordedEvent;
use crate::pools::{Role, WriteDsn};
use crate::ranges;
use crate::store::StoreError;
pub use types::event_types;

use body::{Bodies, Checked};
use ids::EventIds;
use order::Order;

/// How many ranges of bodies are checked at a time.
const CHECKERS: usize = 4;
/// Every look for a neighbour goes by an index, whatever the planner believes of the whole table.
const BY_INDEX: [(&str, &str); 4] =
    [("statement_timeout", "120s"), ("enable_seqscan", "off"), ("enable_hashjoin", "off"), ("enable_mergejoin", "off")];

/// A promise that the log does not keep.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Where, if it is about one event.
    pub position: Option<i64>,
    /// Whose, if it is about one tenant.
    pub tenant: Option<Uuid>,
    /// The tenant's sequence, if it is about one event.
    pub sequence: Option<i64>,
    /// What is wrong. Never shows a payload.
    pub what: String,
}

/// What a verification tells on its way.
#[derive(Clone, Debug)]
pub enum Told {
    /// So many events are to be walked over.
    Events(i64),
    /// Everything up to this position was looked at.
    Passed(i64),
    /// Something is wrong.
    Found(Violation),
}

/// How many events of a type and version there are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct TypeCount {
    /// `noun.past_tense`.
    #[serde(rename = "type")]
    pub event_type: String,
    /// Version of the payload's schema.
    pub schema_version: i32,
    /// How many.
    pub count: i64,
}

/// What a log was found to be.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Summary {
    /// The last position that was walked over: the head when the walk began.
    pub head: i64,
    /// How many events there are up to it.
    pub events: i64,
    /// How many tenants they belong to.
    pub tenants: i64,
    /// How many streams they make.
    pub streams: i64,
    /// How many of them have no body any more.
    pub redacted: i64,
    /// When the first was recorded.
    pub first_recorded_at: Option<DateTime<Utc>>,
    /// When the last was recorded.
    pub last_recorded_at: Option<DateTime<Utc>>,
    /// How many lives the log has had.
    pub incarnations: i64,
    /// SHA-256 over the leaf hashes (header and body) of all events in order, in hexadecimal digits: two logs with the
    /// same events have the same.
    pub digest: String,
    /// How many there are of each kind.
    pub types: Vec<TypeCount>,
    /// How many rows that belong to streams were looked at, by table.
    pub beside: BTreeMap<&'static str, i64>,
    /// How many promises are not kept.
    pub violations: i64,
}

/// Where what is found goes.
struct Report<'a> {
    tell: &'a mut (dyn FnMut(Told) + Send),
    violations: i64,
}

impl Report<'_> {
    fn found(&mut self, violation: Violation) {
        self.violations += 1;
        (self.tell)(Told::Found(violation));
    }

    /// About the log as a whole.
    fn log(&mut self, what: String) {
        self.found(Violation { position: None, tenant: None, sequence: None, what });
    }
}

/// The two logins that see what is to be checked.
struct Pools {
    /// Of `annals_reader`.
    reading: PgPool,
    /// Of `annals_writer`, for what is written beside the events.
    writing: PgPool,
}

/// Walks over the log and tells what it finds; gives what the log is.
pub async fn verify(dsn: &WriteDsn, tell: &mut (dyn FnMut(Told) + Send)) -> Result<Summary, StoreError> {
    let pools =
        Pools { reading: dsn.pool(Role::Reader, 6, &BY_INDEX)?, writing: dsn.pool(Role::Writer, 2, &BY_INDEX)? };
    let mut report = Report { tell, violations: 0 };
    let verified = all(&pools, &mut report).await;
    let violations = report.violations;
    pools.reading.close().await;
    pools.writing.close().await;
    Ok(Summary { violations, ..verified? })
}

async fn all(pools: &Pools, report: &mut Report<'_>) -> Result<Summary, StoreError> {
    let head: i64 = sqlx::query_scalar("SELECT position FROM log_head").fetch_one(&pools.reading).await?;
    (report.tell)(Told::Events(head));
    guards::guards(pools, report).await?;
    let mut summary = walk(pools, head, report).await?;
    summary.incarnations = beside::incarnations(pools, report).await?;
    beside::head(pools, &summary, report).await?;
    summary.tenants = beside::tenants(pools, report).await?;
    summary.beside = beside::tables(pools, report).await?;
    Ok(summary)
}

/// From the first event to the head, range by range: bodies are checked some ranges ahead, order follows in order.
async fn walk(pools: &Pools, head: i64, report: &mut Report<'_>) -> Result<Summary, StoreError> {
    let bodies = Arc::new(Bodies::new());
    let checked = ranges::rows(pools.reading.clone(), 0, head).map_ok(move |rows| {
        let checked = tokio::task::spawn_blocking({
            let bodies = bodies.clone();
            move || bodies.check(rows)
        });
        async move { checked.await.map_err(|_| sqlx::Error::WorkerCrashed) }
    });
    let mut checked = std::pin::pin!(checked.try_buffered(CHECKERS));
    let (mut order, mut ids, mut digest) = (Order::default(), EventIds::default(), Sha256::new());
    let mut tally = Tally { summary: Summary { head, ..Summary::default() }, types: BTreeMap::new() };
    while let Some(range) = checked.next().await {
        let Checked { events, leaves, violations } = range?;
        violations.into_iter().for_each(|violation| report.found(violation));
        leaves.iter().for_each(|leaf| digest.update(leaf));
        order.follow(&events, pools, report).await?;
        for event in &events {
            ids.push(event.event_id, event.position).await?;
            tally.count(event);
        }
        if let Some(last) = events.last() {
            (report.tell)(Told::Passed(last.position));
        }
    }
    order.end(head, report);
    for (first, again) in ids.twice().await? {
        report.log(format!("the events at positions {first} and {again} have the same event_id"));
    }
    Ok(tally.end(&digest.finalize()))
}

/// Counts what is walked over.
struct Tally {
    summary: Summary,
    types: BTreeMap<String, BTreeMap<i32, i64>>,
}

impl Tally {
    fn count(&mut self, event: &RecordedEvent) {
        let summary = &mut self.summary;
        summary.events += 1;
        summary.streams += i64::from(event.version == 1);
        summary.redacted += i64::from(event.payload.is_none());
        summary.first_recorded_at.get_or_insert(event.recorded_at);
        summary.last_recorded_at = Some(event.recorded_at);
        if !self.types.contains_key(&event.event_type) {
            self.types.insert(event.event_type.clone(), BTreeMap::new());
        }
        if let Some(versions) = self.types.get_mut(&event.event_type) {
            *versions.entry(event.schema_version).or_default() += 1;
        }
    }

    fn end(self, digest: &[u8]) -> Summary {
        let mut summary = self.summary;
        summary.digest = digest.iter().map(|byte| format!("{byte:02x}")).collect();
        for (event_type, versions) in self.types {
            summary.types.extend(versions.into_iter().map(|(schema_version, count)| TypeCount {
                event_type: event_type.clone(),
                schema_version,
                count,
            }));
        }
        summary
    }
}
