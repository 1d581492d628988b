//! A process that is stopped in the middle of a transaction, with the log's head in its hand.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use eventstore::Role;
use futures::future::join_all;
use serde_json::json;
use sqlx::{Connection, PgConnection};

use super::Run;
use super::fleet::Fleet;
use super::verify::verify_log;
use crate::client::Client;
use crate::house::Lodging;

/// How long the others may have to wait.
const AT_MOST: Duration = Duration::from_secs(3);
/// How many times a process is stopped until it is found to hold the head.
const TRIES: usize = 2_000;

pub(super) async fn a_process_that_is_stopped_in_a_transaction_holds_nobody_up(run: &Run) {
    let fleet = Fleet::start(run, Lodging::new().await, &["serve", "serve"]).await;
    let [first, second] = [0, 1].map(|index| fleet.clients().swap_remove(index));
    let over = AtomicBool::new(false);
    let movers = (0..6).map(|number| give_new_addresses(&first, number, &over));
    let stops = async {
        let (mut random, mut longest) = (run.random(1), Duration::ZERO);
        let mut watcher =
            PgConnection::connect_with(&fleet.lodging().dsn.options(Role::Writer).unwrap()).await.unwrap();
        for stop in 0..run.times(3, 20) {
            stop_in_transaction(&fleet, &mut watcher, random.between(5, 40) as u64).await;
            let writes = (0..8).map(|number| write(&second, stop * 8 + number));
            let waited = join_all(writes).await.into_iter().max().unwrap();
            fleet.signal(0, "CONT");
            run.journal.note("stopped", json!({ "stop": stop, "others_waited_ms": waited.as_millis() as u64 }));
            run.count("stops in a transaction", 1);
            longest = longest.max(waited);
            if run.is_over() {
                break;
            }
        }
        over.store(true, Ordering::SeqCst);
        assert!(longest < AT_MOST, "the others waited {longest:?}");
        watcher.close().await.unwrap();
    };
    futures::join!(join_all(movers), stops);
    verify_log(fleet.lodging()).await;
    fleet.leave(run).await;
}

/// Gives a customer one address after the other: each gives a name up, which is done in a transaction of several
/// statements that holds the head.
async fn give_new_addresses(client: &Client, number: usize, over: &AtomicBool) {
    let customer = client.post("/customers", &json!({})).expect(201).await;
    let path = format!("/customers/{}", customer.id());
    for change in 0.. {
        let address = json!({ "email": format!("{number}-{change}@example.com") });
        client.patch(&path, &address).expect(200).await;
        if over.load(Ordering::SeqCst) {
            return;
        }
    }
}

/// Stops the first process when it holds the head within a transaction; until then lets it go on again.
async fn stop_in_transaction(fleet: &Fleet, watcher: &mut PgConnection, pause: u64) {
    for _ in 0..TRIES {
        tokio::time::sleep(Duration::from_millis(pause)).await;
        fleet.signal(0, "STOP");
        // What the server is doing for it ends; then it waits for its next statement.
        tokio::time::sleep(Duration::from_millis(10)).await;
        let holding: i64 = sqlx::query_scalar(
            "SELECT count(*) FROM pg_stat_activity a JOIN pg_locks l ON l.pid = a.pid
             WHERE a.datname = current_database() AND a.state = 'idle in transaction'
                 AND l.relation = 'log_head'::regclass AND l.mode IN ('RowShareLock', 'RowExclusiveLock')",
        )
        .fetch_one(&mut *watcher)
        .await
        .unwrap();
        if holding > 0 {
            return;
        }
        fleet.signal(0, "CONT");
    }
    panic!("the process never held the head when it was stopped");
}

async fn write(client: &Client, number: usize) -> Duration {
    let begun = Instant::now();
    client.post("/customers", &json!({ "external_id": format!("c-{number}") })).expect(201).await;
    begun.elapsed()
}
