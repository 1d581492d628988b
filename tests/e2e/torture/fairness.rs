//! One tenant imports as fast as it can: what that costs another. Timed, so it is part of the long form alone.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use futures::StreamExt;
use futures::future::join_all;
use futures::stream::FuturesUnordered;
use serde_json::json;
use tokio::time::Instant;

use super::Run;
use super::fleet::Fleet;
use crate::client::Client;
use crate::house::Lodging;

/// How many commands a second the other sends, and for how long.
const RATE: u32 = 50;
const FOR: Duration = Duration::from_secs(20);
/// How many items a batch has of which the importer has one under way at each process.
const IMPORT: usize = 1_000;
/// How much longer the other's slowest hundredth may take.
const AT_MOST: f64 = 3.0;

pub(super) async fn an_import_slows_others_little(run: &Run) {
    let fleet = Fleet::start(run, Lodging::private(Default::default()).await, &["serve", "serve"]).await;
    let [here, there] = [0, 1].map(|index| fleet.clients().swap_remove(index));
    let importer = fleet.lodging().tenant().await;
    // Connections, plans and caches are made first.
    commands(&here, Duration::from_secs(3)).await;
    let alone = commands(&here, FOR).await;
    let (over, imported) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let clients = [&here, &there].map(|client| client.elsewhere(&importer.secret));
    // The importer is another program: what its answers cost it to read is nothing that the other waits for.
    let imports = std::thread::spawn({
        let (over, imported) = (over.clone(), imported.clone());
        move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(join_all(clients.iter().map(|client| import(client, &over, &imported))));
        }
    });
    let beside = commands(&here, FOR).await;
    over.store(true, Ordering::SeqCst);
    tokio::task::spawn_blocking(move || imports.join().unwrap()).await.unwrap();
    let ratio = beside.as_secs_f64() / alone.as_secs_f64();
    let told = json!({
        "alone_ms": alone.as_secs_f64() * 1_000.0, "beside_ms": beside.as_secs_f64() * 1_000.0, "ratio": ratio,
        "imported": imported.load(Ordering::SeqCst),
    });
    eprintln!("p99 beside an import: {told}");
    run.journal.note("p99", told);
    run.count("imported beside the others", imported.load(Ordering::SeqCst));
    fleet.leave(run).await;
    assert!(ratio <= AT_MOST, "the slowest hundredth takes {ratio:.1} times as long beside an import");
}

/// Sends commands at that rate, however long each takes; the 99th percentile of how long, counted from when each was due.
async fn commands(client: &Client, lasting: Duration) -> Duration {
    let (begun, every) = (Instant::now(), Duration::from_secs(1) / RATE);
    let mut under_way = FuturesUnordered::new();
    let mut took = Vec::new();
    for number in 0..(lasting.as_millis() / every.as_millis()) as u32 {
        let due = begun + every * number;
        while let Ok(Some(time)) = tokio::time::timeout_at(due, next(&mut under_way)).await {
            took.push(time);
        }
        tokio::time::sleep_until(due).await;
        under_way.push(async move {
            client.post("/customers", &json!({ "name": "Ada" })).expect(201).await;
            due.elapsed()
        });
    }
    took.extend(under_way.collect::<Vec<_>>().await);
    took.sort_unstable();
    took[took.len() * 99 / 100]
}

/// The next to end; never, while there is none.
async fn next<F: Future<Output = Duration>>(under_way: &mut FuturesUnordered<F>) -> Option<Duration> {
    match under_way.next().await {
        Some(time) => Some(time),
        None => std::future::pending().await,
    }
}

/// Imports at a process until told to stop.
async fn import(client: &Client, over: &AtomicBool, imported: &AtomicUsize) {
    let items: Vec<_> = (0..IMPORT).map(|_| json!({ "name": "Ada", "country": "GB" })).collect();
    let body = json!({ "items": items });
    while !over.load(Ordering::SeqCst) {
        let batch = client.post("/customers/batch", &body).expect(200).await;
        assert!(batch.data().iter().all(|item| item["status"] == 201));
        imported.fetch_add(IMPORT, Ordering::SeqCst);
    }
}
