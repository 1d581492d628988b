//! Many events at once, made inside the server, as if they had been appended: sixteen tenants take turns, a stream has
//! ten events, positions, sequences, versions and heads are dense.

use std::time::{Duration, Instant};

use domain::billing::{Plan, PlanCommand};
use domain::{Aggregate, AnyId, Context, Event, TenantId};
use eventstore::new_id;

use crate::annals::{self, TENANTS};
use crate::event;
use crate::server::Server;

/// Events of a stream.
const VERSIONS: u64 = 10;
/// The part of a name that is another one for each event.
const NUMBER: &str = "00000000000000000000";

/// `p`: the position; `t`: which tenant; `s`: the sequence; `k`: which stream of the tenant; `v`: the version.
fn numbers(events: u64) -> String {
    format!(
        "generate_series(1, {events}::bigint) AS p,
         LATERAL (SELECT (p - 1) % {TENANTS} AS t, (p - 1) / {TENANTS} + 1 AS s) AS tenant,
         LATERAL (SELECT (s - 1) / {VERSIONS} AS k, (s - 1) % {VERSIONS} + 1 AS v) AS stream,
         LATERAL (SELECT lpad(to_hex(k), 8, '0') || '-0000-7000-8000-' || lpad(to_hex(t), 12, '0') AS stream_id,
             CASE v WHEN 1 THEN 'plan.created' ELSE 'plan.renamed' END AS event_type,
             replace(CASE v WHEN 1 THEN '{created}' ELSE '{renamed}' END, '{NUMBER}', lpad(p::text, 20, '0')) AS payload
         ) AS event",
        created = payload(&Plan::default(), event::create(0)),
        renamed = payload(&created(), event::rename(0)),
    )
}

fn context() -> Context {
    Context::new(TenantId::default(), AnyId::new("key", new_id()), commands::clock::now())
}

fn created() -> Plan {
    let mut plan = Plan::default();
    let events = plan.decide(event::create(1), &context()).expect("a plan");
    events.into_iter().for_each(|event| plan.apply(event));
    plan
}

fn payload(plan: &Plan, command: PlanCommand) -> String {
    let events = plan.decide(command, &context()).expect("an event");
    events[0].payload().expect("a payload")
}

/// Fills a log of ours; gives how long it took.
pub async fn log(server: &Server, log: &str, events: u64) -> Duration {
    let begun = Instant::now();
    let tenant = annals::tenant(0);
    let first_tenant = domain::TypedId::uuid(&tenant).to_string();
    let tenant_id = format!("('{}' || lpad(to_hex(t), 12, '0'))::uuid", &first_tenant[..24]);
    let fill = format!(
        "INSERT INTO events (position, tenant_id, sequence, stream_id, stream_type, version, event_id, event_type,
             schema_version, actor, occurred_at, recorded_at, payload, metadata, salt)
         SELECT p, {tenant_id}, s, stream_id::uuid, '{stream_type}', v,
             (lpad(to_hex(p), 8, '0') || '-0000-7000-8000-000000000000')::uuid, event_type, 1, '{actor}', at, at, payload,
             '{{\"command\":\"billing.plan.create\"}}', uuid_send(md5(p::text)::uuid)
         FROM {numbers}, LATERAL (SELECT timestamptz '2026-01-01Z' + p * interval '10 microseconds' AS at) AS time;
         UPDATE log_head SET position = {events}, at = (SELECT recorded_at FROM events WHERE position = {events});
         INSERT INTO tenant_heads (tenant_id, sequence) SELECT tenant_id, max(sequence) FROM events GROUP BY tenant_id;",
        stream_type = Plan::STREAM.name,
        actor = context().actor,
        numbers = numbers(events),
    );
    server.run(log, &fill).await;
    settle(server, log).await;
    annals::check(server, log, 0, events).await;
    begun.elapsed()
}

/// Fills the table of postgres-es with the same streams; gives how long it took.
pub async fn peer(server: &Server, table: &str, events: u64) -> Duration {
    let begun = Instant::now();
    let fill = format!(
        "INSERT INTO events (aggregate_type, aggregate_id, sequence, event_type, event_version, payload, metadata)
         SELECT 'billing.plan', stream_id, v, event_type, '1', payload::json, '{{}}' FROM {}",
        numbers(events)
    );
    server.run(table, &fill).await;
    settle(server, table).await;
    begun.elapsed()
}

/// As a table is that has grown over weeks: its statistics are there, and no reader has to tidy up.
async fn settle(server: &Server, database: &str) {
    server.run(database, "VACUUM (FREEZE, ANALYZE) events").await;
    server.checkpoint().await;
}
