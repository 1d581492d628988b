//! What stands beside the events: heads, incarnations, and tables whose rows belong to streams.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use futures::TryStreamExt;
use sqlx::{AssertSqlSafe, Row};
use uuid::Uuid;

use super::{Pools, Report, Summary, Violation};
use crate::incarnation::life;
use crate::store::StoreError;

/// How many tenants are looked at together.
const TENANTS: i64 = 2_000;
/// How many pages of a table are looked at together.
const PAGES: i64 = 1_000;

/// The lives of the log: their ids rise, and so do the positions where they begin. Gives how many there were.
pub(super) async fn incarnations(pools: &Pools, report: &mut Report<'_>) -> Result<i64, StoreError> {
    let rows: Vec<(i64, i64)> =
        sqlx::query_as("SELECT id, first_position FROM log_incarnations ORDER BY id").fetch_all(&pools.reading).await?;
    if rows.first() != Some(&(1, 1)) {
        report.log("the first incarnation of the log is not 1, from position 1 on".to_owned());
    }
    for pair in rows.windows(2) {
        if let [(before, from), (id, first)] = pair
            && first < from
        {
            report.log(format!("incarnation {id} begins at position {first}, before incarnation {before}, at {from}"));
        }
    }
    // One statement: an incarnation may begin meanwhile.
    let (head, epoch, newest): (i64, i64, i64) =
        sqlx::query_as("SELECT position, epoch, (SELECT max(id) FROM log_incarnations) FROM log_head")
            .fetch_one(&pools.reading)
            .await?;
    if life(epoch) != newest {
        report.log(format!("log_head has an epoch of incarnation {}, and the newest is {newest}", life(epoch)));
    }
    if let Some((id, first)) = rows.last().filter(|(_, first)| *first > head + 1) {
        report.log(format!("incarnation {id} begins at position {first}, beyond the head {head}"));
    }
    Ok(rows.len() as i64)
}

/// The head is the last event, and no cursor is beyond it. One statement sees both as they are at one moment.
pub(super) async fn head(pools: &Pools, walked: &Summary, report: &mut Report<'_>) -> Result<(), StoreError> {
    let row = sqlx::query(
        "SELECT h.position, coalesce((SELECT max(position) FROM events), 0), h.at,
            (SELECT recorded_at FROM events ORDER BY position DESC LIMIT 1),
            coalesce((SELECT min(position) FROM events), 1)
         FROM log_head h",
    )
    .fetch_one(&pools.reading)
    .await?;
    let (position, last, first): (i64, i64, i64) = (row.try_get(0)?, row.try_get(1)?, row.try_get(4)?);
    if position != last {
        report.log(format!("log_head stands at {position}, the last event at {last}"));
    }
    if first < 1 {
        report.log(format!("there is an event at position {first}"));
    }
    // Before the first event it is at minus infinity, which is no time of ours.
    if let Some(recorded_at) = row.try_get::<Option<DateTime<Utc>>, _>(3)? {
        let at: DateTime<Utc> = row.try_get(2)?;
        if at < recorded_at {
            report.log(format!("log_head is of {at}, and the last event was recorded at {recorded_at}"));
        }
    }
    if position < walked.head {
        report.log(format!("log_head went back from {} to {position} meanwhile", walked.head));
    }
    for cursor in ["relay_cursor", "process_cursor"] {
        let pool = if cursor == "relay_cursor" { &pools.reading } else { &pools.writing };
        let beyond = format!("SELECT max(position) FROM {cursor}");
        let beyond: Option<i64> = sqlx::query_scalar(AssertSqlSafe(beyond)).fetch_one(pool).await?;
        let head: i64 = sqlx::query_scalar("SELECT position FROM log_head").fetch_one(pool).await?;
        if let Some(beyond) = beyond.filter(|beyond| *beyond > head) {
            report.log(format!("{cursor} stands at {beyond}, beyond the head {head}"));
        }
    }
    Ok(())
}

/// A tenant's head is its last sequence. Gives how many tenants there are.
pub(super) async fn tenants(pools: &Pools, report: &mut Report<'_>) -> Result<i64, StoreError> {
    let (mut after, mut count) = (Uuid::nil(), 0);
    loop {
        let heads: Vec<(Uuid, i64, i64)> = sqlx::query_as(
            "SELECT h.tenant_id, h.sequence, coalesce((SELECT e.sequence FROM events e WHERE e.tenant_id = h.tenant_id
                ORDER BY e.sequence DESC LIMIT 1), 0)
             FROM tenant_heads h WHERE h.tenant_id > $1 ORDER BY h.tenant_id LIMIT $2",
        )
        .bind(after)
        .bind(TENANTS)
        .fetch_all(&pools.reading)
        .await?;
        for (tenant, head, last) in heads.iter().filter(|(_, head, last)| head != last) {
            let what = format!("its head stands at sequence {head}, its last event at {last}");
            report.found(Violation { position: None, tenant: Some(*tenant), sequence: Some(*head), what });
        }
        count += heads.len() as i64;
        match heads.last() {
            Some((last, ..)) => after = *last,
            None => return Ok(count),
        }
    }
}

/// A table whose rows belong to streams.
struct Beside {
    table: &'static str,
    /// What of a row is told.
    names: &'static str,
    /// What must be there.
    wanted: &'static str,
    /// What is told where it is not.
    what: &'static str,
}

const STREAM: &str =
    "SELECT FROM events e WHERE e.tenant_id = t.tenant_id AND e.stream_id = t.stream_id AND e.version = 1";

const TABLES: [Beside; 8] = [
    Beside {
        table: "idempotency_keys",
        names: "t.stream_id",
        // A command that changed nothing was answered with what the stream was.
        wanted: "SELECT 1 WHERE t.version = 0 UNION ALL SELECT 1 FROM events e JOIN tenant_heads h USING (tenant_id)
            WHERE e.tenant_id = t.tenant_id AND e.stream_id = t.stream_id AND e.version = t.version
            AND e.stream_type = t.stream_type AND t.sequence <= h.sequence",
        what: "answers with a version of a stream that is not in the log",
    },
    Beside {
        table: "idempotency_keys",
        names: "t.stream_id",
        wanted: "SELECT 1 WHERE NOT EXISTS (SELECT FROM idempotency_keys y WHERE y.tenant_id = t.tenant_id
            AND y.key = t.key AND y.item = t.item AND y.day = t.day - 1)",
        what: "answers under a key that was answered the day before",
    },
    Beside {
        table: "unique_claims",
        names: "t.stream_id",
        wanted: STREAM,
        what: "belongs to a stream that is not in the log",
    },
    Beside {
        table: "process_work",
        names: "t.stream_id",
        wanted: "SELECT FROM events e WHERE e.tenant_id = t.tenant_id AND e.stream_id = t.stream_id AND e.version = 1
            AND e.stream_type = t.stream_type",
        what: "is of a stream that is not in the log",
    },
    Beside {
        table: "subjects",
        names: "t.subject",
        wanted: "SELECT FROM events e WHERE e.tenant_id = t.tenant_id AND e.stream_id = t.subject AND e.version = 1",
        what: "is of somebody who is no stream in the log",
    },
    Beside {
        table: "api_key_lookup",
        names: "t.key_id",
        wanted: "SELECT FROM events e WHERE e.tenant_id = t.tenant_id AND e.stream_id = t.key_id AND e.version = 1",
        what: "is of a key that is not in the log",
    },
    Beside {
        table: "process_commands",
        names: "t.command_id",
        wanted: "SELECT FROM tenant_heads h WHERE h.tenant_id = t.tenant_id",
        what: "is of a tenant that is not in the log",
    },
    Beside {
        table: "tenant_clocks",
        names: "t.tenant_id",
        wanted: "SELECT FROM tenant_heads h WHERE h.tenant_id = t.tenant_id",
        what: "is of a tenant that is not in the log",
    },
];

/// Looks at every table, some pages at a time, in the order that they lie on the disk. Gives how many rows there were.
pub(super) async fn tables(pools: &Pools, report: &mut Report<'_>) -> Result<BTreeMap<&'static str, i64>, StoreError> {
    let mut counts = BTreeMap::new();
    for beside in &TABLES {
        let pages: i64 = sqlx::query_scalar(
            "SELECT coalesce(max(pg_relation_size(relid)), 0) / current_setting('block_size')::bigint + 1
             FROM pg_partition_tree($1::regclass) WHERE isleaf",
        )
        .bind(beside.table)
        .fetch_one(&pools.writing)
        .await?;
        let mut count = 0;
        for begin in (0..pages).step_by(PAGES as usize) {
            count += pages_of(beside, begin, pools, report).await?;
        }
        counts.insert(beside.table, count);
    }
    Ok(counts)
}

async fn pages_of(beside: &Beside, begin: i64, pools: &Pools, report: &mut Report<'_>) -> Result<i64, StoreError> {
    let Beside { table, names, wanted, what } = beside;
    let end = begin + PAGES;
    let sql = format!(
        "SELECT t.tenant_id, {names}, NOT EXISTS ({wanted}) FROM {table} t
         WHERE t.ctid >= '({begin},0)'::tid AND t.ctid < '({end},0)'::tid"
    );
    let mut rows = sqlx::query(AssertSqlSafe(sql)).fetch(&pools.writing);
    let mut count = 0;
    while let Some(row) = rows.try_next().await? {
        count += 1;
        if row.try_get(2)? {
            let (tenant, name): (Uuid, Uuid) = (row.try_get(0)?, row.try_get(1)?);
            let what = format!("a row of {table} ({name}) {what}");
            report.found(Violation { position: None, tenant: Some(tenant), sequence: None, what });
        }
    }
    Ok(count)
}
