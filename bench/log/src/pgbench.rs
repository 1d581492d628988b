//! One insert a commit, by PostgreSQL's own `pgbench`: what a table with a primary key takes when nobody batches.

use std::time::Duration;

use domain::billing::Plan;
use domain::{Aggregate, AnyId, Context, Event, TenantId};
use eventstore::new_id;

use crate::event;
use crate::load::{Measured, Timing};
use crate::server::Server;

/// Its table.
pub const SCHEMA: &str = include_str!("pgbench.sql");
/// The payload is a parameter: it crosses the wire each time, as everybody's does.
const SCRIPT: &str = "INSERT INTO events (aggregate_id, sequence, event_type, event_version, payload, metadata) \
    VALUES (gen_random_uuid(), 1, 'plan.created', 1, :payload, '{}');\n";

/// So many clients, each on a connection of its own, with a prepared statement.
pub async fn closed(server: &Server, database: &str, writers: usize, timing: Timing) -> Measured {
    let folder = tempfile::Builder::new().prefix("annals-bench-").tempdir().expect("a folder");
    let script = folder.path().join("insert.sql");
    std::fs::write(&script, SCRIPT).expect("a script");
    // Its time begins before its connections are there.
    let seconds = (timing.warm_up + timing.measured + connecting(writers)).as_secs_f64().ceil() as u64;
    let threads = std::thread::available_parallelism().map_or(1, usize::from).min(writers);
    let output = server
        .program("pgbench", database)
        .args(["--no-vacuum", "--protocol=prepared", "--log", "--log-prefix=log"])
        .arg(format!("--define=payload={}", payload()))
        .arg(format!("--client={writers}"))
        .arg(format!("--jobs={threads}"))
        .arg(format!("--time={seconds}"))
        .arg(format!("--file={}", script.display()))
        .current_dir(folder.path())
        .output()
        .await
        .expect("pgbench");
    assert!(output.status.success(), "pgbench: {}", String::from_utf8_lossy(&output.stderr));
    measured(folder.path(), timing)
}

/// How long so many connections may take on a busy machine.
fn connecting(writers: usize) -> Duration {
    Duration::from_secs(1) + Duration::from_millis(20) * writers as u32
}

/// What its log tells: `client transaction microseconds script epoch microseconds` of each transaction.
fn measured(folder: &std::path::Path, timing: Timing) -> Measured {
    let mut done: Vec<(u64, u32)> = Vec::new();
    for file in std::fs::read_dir(folder).expect("a folder") {
        let file = file.expect("a file");
        if !file.file_name().to_string_lossy().starts_with("log.") {
            continue;
        }
        for line in std::fs::read_to_string(file.path()).expect("a log").lines() {
            let numbers: Vec<u64> = line.split(' ').map(|word| word.parse().expect("a number")).collect();
            done.push((numbers[4] * 1_000_000 + numbers[5], numbers[2] as u32));
        }
    }
    let begun = done.iter().map(|(end, latency)| end - u64::from(*latency)).min();
    let begun = begun.expect("pgbench took too long to connect");
    let from = begun + timing.warm_up.as_micros() as u64;
    let until = from + timing.measured.as_micros() as u64;
    let ended = done.iter().map(|(end, _)| *end).max().unwrap_or_default();
    assert!(ended + 100_000 > until, "pgbench took too long to connect");
    let latencies = done.iter().filter(|(end, _)| (from..until).contains(end)).map(|(_, latency)| *latency).collect();
    Measured { acknowledged: done.len() as u64, latencies, measured: Duration::from_micros(until - from) }
}

fn payload() -> String {
    let ctx = Context::new(TenantId::default(), AnyId::new("key", new_id()), commands::clock::now());
    let events = Plan::default().decide(event::create(1), &ctx).expect("a plan");
    events[0].payload().expect("a payload")
}

/// Fails unless its table has just these many rows.
pub async fn check(server: &Server, database: &str, acknowledged: u64) {
    let found = server.numbers(database, "SELECT count(*) FROM events").await;
    assert_eq!(found, [acknowledged as i64], "what the table has is not what pgbench has counted");
}
