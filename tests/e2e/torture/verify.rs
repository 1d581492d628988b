//! What must be true of a log and of its read models, whatever was done to them.

use std::collections::BTreeMap;

use eventstore::Role;
use futures::StreamExt;
use serde_json::Value;
use sqlx::{AssertSqlSafe, Connection, PgConnection};

use crate::client::Client;
use crate::house::Lodging;

/// Each must find nothing.
const PROMISES: &[(&str, &str)] = &[
    (
        "positions are dense up to the head",
        "SELECT count(*), max(position) FROM events HAVING count(*) <> coalesce(max(position), 0)
             OR coalesce(max(position), 0) <> (SELECT position FROM log_head) OR min(position) <> 1",
    ),
    (
        "sequences are dense up to the tenant's head",
        "SELECT tenant_id FROM events FULL JOIN tenant_heads AS head USING (tenant_id) GROUP BY tenant_id, head.sequence
         HAVING count(*) <> max(events.sequence) OR max(events.sequence) IS DISTINCT FROM head.sequence
             OR min(events.sequence) <> 1",
    ),
    (
        "versions are dense",
        "SELECT stream_id FROM events GROUP BY tenant_id, stream_id HAVING count(*) <> max(version) OR min(version) <> 1",
    ),
    (
        "sequences, versions and times go with positions",
        "SELECT position FROM (SELECT position, recorded_at, lag(recorded_at) OVER (ORDER BY position) AS before,
             sequence, lag(sequence) OVER (PARTITION BY tenant_id ORDER BY position) AS sequence_before,
             version, lag(version) OVER (PARTITION BY tenant_id, stream_id ORDER BY position) AS version_before
         FROM events) AS each
         WHERE recorded_at < before OR sequence <= sequence_before OR version <= version_before",
    ),
    ("an event is stored once", "SELECT event_id FROM events GROUP BY event_id HAVING count(*) > 1"),
    (
        "a key has one answer",
        "SELECT key, item FROM idempotency_keys GROUP BY tenant_id, key, item HAVING count(*) > 1",
    ),
    (
        "a key's answer is in the log",
        "SELECT stream_id, version FROM idempotency_keys AS k WHERE version > 0 AND NOT EXISTS (SELECT FROM events AS e
             WHERE e.tenant_id = k.tenant_id AND e.stream_id = k.stream_id AND e.version = k.version)",
    ),
    (
        "a name's holder is in the log",
        "SELECT stream_id FROM unique_claims AS c WHERE NOT EXISTS (SELECT FROM events AS e
             WHERE e.tenant_id = c.tenant_id AND e.stream_id = c.stream_id)",
    ),
];

/// Looks whether the log keeps its promises.
pub(crate) async fn verify_log(lodging: &Lodging) {
    let mut conn = PgConnection::connect_with(&lodging.dsn.options(Role::Writer).unwrap()).await.unwrap();
    for (promise, query) in PROMISES {
        let found = sqlx::query(AssertSqlSafe(*query)).fetch_all(&mut conn).await.unwrap();
        assert!(found.is_empty(), "not so: {promise} ({} exceptions)", found.len());
    }
    conn.close().await.unwrap();
}

/// All that a list shows, by id, once it has seen the log's end; each as the fold of its own stream shows it.
pub(crate) async fn folded(client: &Client, path: &str, head: usize) -> BTreeMap<String, Value> {
    let mut shown = BTreeMap::new();
    let mut page = format!("{path}?limit=100");
    loop {
        let answer = client.get(&page).header("annals-min-sequence", head.to_string()).expect(200).await;
        for row in answer.data() {
            let again = shown.insert(row["id"].as_str().unwrap().to_owned(), row.clone());
            assert!(again.is_none(), "{row} is listed twice");
        }
        let Some(cursor) = answer.body["next_cursor"].as_str() else { break };
        page = format!("{path}?limit=100&cursor={cursor}");
    }
    let folds = shown.iter().map(|(id, row)| async move {
        let fold = client.get(&format!("{path}/{id}")).expect(200).await;
        assert_eq!(&fold.body, row, "the read model is the fold");
    });
    futures::stream::iter(folds).buffer_unordered(16).collect::<Vec<()>>().await;
    shown
}
