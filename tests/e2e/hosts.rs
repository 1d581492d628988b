//! Hosts that work on what is due: who takes over from whom, and what that costs.

use std::collections::HashMap;
use std::time::Duration;

use eventstore::Role;
use serde_json::json;
use sqlx::{Connection, PgConnection};

use crate::agents::agent;
use crate::house::{House, Lodging, Tenant};
use crate::processes::{Running, ready};
use crate::provider::Provider;
use crate::tests;

tests![
    a_stopped_host_is_taken_over_and_answers_nothing_afterwards,
    a_host_that_ends_leaves_its_calls_to_others,
    looking_for_what_is_due_reads_nothing_else,
];

pub(crate) fn host(lodging: &Lodging) -> Running {
    Running::start(lodging, "work", &[("ANNALS_LISTEN", &lodging.free_address()), ("ANNALS_KAFKA_BROKERS", "")])
}

/// A lodging with an API and nobody yet who works.
pub(crate) async fn served() -> (Lodging, Running, Tenant) {
    let lodging = Lodging::new().await;
    let serve = Running::start(&lodging, "serve", &[("ANNALS_KAFKA_BROKERS", "")]);
    let tenant = lodging.tenant().await;
    ready(&tenant).await;
    (lodging, serve, tenant)
}

async fn a_stopped_host_is_taken_over_and_answers_nothing_afterwards(_: &House) {
    let (lodging, serve, tenant) = served().await;
    let provider = Provider::start().await;
    let slow = agent(&tenant, &provider.agent("wait/1500")).await;
    let first = host(&lodging);
    let taken = tenant.post(&format!("/agents/{}/execute", slow.id()), &json!({"input": {}})).expect(202).await;
    provider.until_called(1).await;
    first.signal("STOP");
    let second = host(&lodging);
    provider.until_called(2).await;
    let done = tenant.until(&format!("/runs/{}", taken.id()), |run| run["status"] == "succeeded").await;
    first.signal("CONT");
    let key = format!("{}:1", taken.id());
    assert_eq!(provider.keys(), HashMap::from([(key, 2)]), "the same attempt, repeated");
    // The host that woke up is at work again: it does the next run, alone.
    assert_eq!(second.end().await, 0);
    let next = tenant.post(&format!("/agents/{}/execute", slow.id()), &json!({"input": {}})).expect(202).await;
    tenant.until(&format!("/runs/{}", next.id()), |run| run["status"] == "succeeded").await;
    let again = tenant.get(&format!("/runs/{}", taken.id())).expect(200).await;
    assert_eq!(again.body, done.body, "it was answered once");
    assert_eq!(first.end().await, 0);
    assert_eq!(serve.end().await, 0);
    lodging.leave().await;
}

async fn a_host_that_ends_leaves_its_calls_to_others(_: &House) {
    let (lodging, serve, tenant) = served().await;
    let provider = Provider::start().await;
    let mut body = provider.agent("hang");
    body["timeout_seconds"] = json!(60);
    let hanging = agent(&tenant, &body).await;
    let first = host(&lodging);
    let taken = tenant.post(&format!("/agents/{}/execute", hanging.id()), &json!({"input": {}})).expect(202).await;
    provider.until_called(1).await;
    assert_eq!(first.end().await, 0, "it does not wait for a minute");
    let second = host(&lodging);
    provider.until_called(2).await;
    tenant.post(&format!("/runs/{}/cancel", taken.id()), &json!({})).expect(200).await;
    assert_eq!(second.end().await, 0);
    assert_eq!(serve.end().await, 0);
    lodging.leave().await;
}

/// How often rows of what is due were looked for, and how many were read on the way.
async fn searched(conn: &mut PgConnection) -> (i64, i64) {
    sqlx::query_as(
        "SELECT (sum(i.idx_scan) + t.seq_scan)::bigint, (sum(i.idx_tup_read) + t.seq_tup_read)::bigint
         FROM pg_stat_user_tables t JOIN pg_stat_user_indexes i USING (relid)
         WHERE t.relname = 'process_work' GROUP BY t.seq_scan, t.seq_tup_read",
    )
    .fetch_one(conn)
    .await
    .unwrap()
}

async fn looking_for_what_is_due_reads_nothing_else(_: &House) {
    let lodging = Lodging::new().await;
    let mut writer = PgConnection::connect_with(&lodging.dsn.options(Role::Writer).unwrap()).await.unwrap();
    // Timers of a tenant, and some of another whose clock is an hour ahead.
    for sql in [
        "INSERT INTO tenant_clocks (tenant_id, ahead) SELECT gen_random_uuid(), 3600000000 FROM generate_series(1, 3)",
        "INSERT INTO process_work (tenant_id, stream_id, stream_type, due_at)
         SELECT t.id, gen_random_uuid(), 'billing.subscription', now() + interval '1 day'
         FROM (SELECT gen_random_uuid() AS id) t, generate_series(1, 20000)",
        "INSERT INTO process_work (tenant_id, stream_id, stream_type, due_at)
         SELECT tenant_id, gen_random_uuid(), 'billing.subscription', now() + interval '1 day'
         FROM tenant_clocks, generate_series(1, 1000)",
    ] {
        sqlx::query(sql).execute(&mut writer).await.unwrap();
    }
    let mut owner = PgConnection::connect_with(&lodging.dsn.options(Role::Owner).unwrap()).await.unwrap();
    sqlx::raw_sql("ANALYZE process_work; ANALYZE tenant_clocks").execute(&mut owner).await.unwrap();
    let before = searched(&mut owner).await;
    let (host, good_for) = (eventstore::new_id(), Duration::from_secs(3));
    let mut after = before;
    // Postgres tells its figures about once a second.
    for _ in 0..600 {
        let claimed =
            lodging.store().claim_work("billing.subscription", "tenancy.test_clock", host, good_for, 100, &[]);
        assert!(claimed.await.unwrap().is_empty());
        lodging.store().next_due("billing.subscription").await.unwrap().unwrap();
        after = searched(&mut owner).await;
        if after.0 > before.0 + 10 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let (searches, read) = (after.0 - before.0, after.1 - before.1);
    assert!(searches > 10, "something was looked for");
    assert!(read <= searches, "{read} entries were read in {searches} searches");
    writer.close().await.unwrap();
    owner.close().await.unwrap();
    lodging.leave().await;
}
