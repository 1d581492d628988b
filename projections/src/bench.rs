//! How fast the read side is, by hand: `cargo test -p projections --release -- --ignored --nocapture bench`.

use std::sync::Arc;
use std::time::{Duration, Instant};

use chrono::TimeDelta;
use domain::commerce::Order;
use eventstore::new_id;
use tokio::task::JoinSet;
use uuid::Uuid;

use crate::analytics::sales::ANALYTICS_SALES;
use crate::analytics::{Interval, Range};
use crate::test_support::{House, at, created, money, placed};
use crate::{AuditFilter, DOCUMENTS, Relay, documents};

const CUSTOMERS: usize = 23_570;
const ORDERS: usize = 69_659;

/// As many customers and orders as CDNOW has, in batches of a thousand; the last sequence.
async fn import(house: &Arc<House>, tenant: Uuid) -> i64 {
    let customers: Vec<Uuid> = (0..CUSTOMERS).map(|_| new_id()).collect();
    let mut streams: Vec<_> = customers.iter().map(|id| created(*id, "US")).collect();
    streams.extend((0..ORDERS).map(|n| {
        let customer = customers[if n < CUSTOMERS { n } else { n * n % CUSTOMERS }];
        let day = TimeDelta::days((n % 90 + if n < CUSTOMERS { 0 } else { n * 7 % 455 }) as i64);
        placed(new_id(), customer, at("1997-01-01T00:00:00Z") + day, money((n % 5000) as i64, "USD"))
    }));
    let mut last = 0;
    let mut streams = streams.into_iter();
    loop {
        // As the importer does it: some commands at a time, each an append of its own.
        let mut running = JoinSet::new();
        for stream in streams.by_ref().take(1_000) {
            let house = house.clone();
            running.spawn(async move { house.append(tenant, vec![stream]).await });
        }
        if running.is_empty() {
            return last;
        }
        last = running.join_all().await.into_iter().max().unwrap().max(last);
    }
}

async fn all_seen(house: &House, tenant: Uuid, sequence: i64) {
    for projector in DOCUMENTS.iter().map(|kind| kind.name).chain(["audit_entries", ANALYTICS_SALES]) {
        house.seen(projector, tenant, sequence).await;
    }
}

async fn queries(house: &House, tenant: Uuid) {
    let range = Range { from: None, to: None, interval: Interval::Month, time_zone: "Europe/Berlin".into() };
    for _ in 0..3 {
        let began = Instant::now();
        let cohorts = house.reads.cohorts(tenant, &range, at("1998-07-01T00:00:00Z")).await.unwrap();
        println!("cohorts {:?} ({})", began.elapsed(), cohorts.cohorts.len());
        let began = Instant::now();
        house.reads.revenue(tenant, &range, at("1998-07-01T00:00:00Z")).await.unwrap();
        println!("revenue {:?}", began.elapsed());
        let began = Instant::now();
        house.reads.kpis(tenant, at("1998-07-01T00:00:00Z")).await.unwrap();
        println!("kpis {:?}", began.elapsed());
        let began = Instant::now();
        house.reads.list(tenant, documents::of::<Order>(), &[("status", "placed")], None, 100).await.unwrap();
        println!("list {:?}", began.elapsed());
        let began = Instant::now();
        let filter = AuditFilter { action: Some("customer.".into()), ..AuditFilter::default() };
        house.reads.audit(tenant, &filter, None, 100).await.unwrap();
        println!("audit {:?}", began.elapsed());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement, run by the command in docs/performance.md"]
async fn bench() {
    measure(false).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement, run by the command in docs/performance.md"]
async fn bench_kafka() {
    measure(true).await;
}

async fn measure(kafka: bool) {
    let Some(house) = House::open().await else { return };
    let house = Arc::new(house);
    let tenant = new_id();
    let began = Instant::now();
    let last = import(&house, tenant).await;
    println!("append alone: {last} events in {:?}", began.elapsed());

    let began = Instant::now();
    let (relay, projections) = match kafka.then(|| house.through_kafka()).flatten() {
        Some((relay, projections)) => (Some(relay), projections),
        None => (None, house.project()),
    };
    all_seen(&house, tenant, last).await;
    let took = began.elapsed();
    println!("catching up: {took:?}, {:.0} events/s", last as f64 / took.as_secs_f64());
    while let Some(relay) = &relay
        && relay.status().position < last
    {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    println!("relay at the end after {:?}", began.elapsed());
    queries(&house, tenant).await;

    let reads = house.reads.clone().hearing(&projections);
    let mut took: Vec<Duration> = Vec::new();
    for n in 0..300 {
        let order = placed(new_id(), new_id(), at("1998-01-01T00:00:00Z"), money(n, "USD"));
        let sequence = house.append(tenant, vec![order]).await;
        let began = Instant::now();
        reads.wait("commerce_orders", tenant, 1, sequence, Duration::from_secs(5)).await.unwrap();
        took.push(began.elapsed());
    }
    took.sort();
    println!("live: seen after {:?} (median), {:?} (p99)", took[150], took[297]);

    let other = new_id();
    let began = Instant::now();
    let last = import(&house, other).await;
    drop(reads);
    println!("append beside the projectors: {:?}", began.elapsed());
    let behind = Instant::now();
    all_seen(&house, other, last).await;
    println!("all seen {:?} after the last append", behind.elapsed());
    let memory = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    println!(
        "{:?}",
        memory.lines().filter(|line| line.starts_with("VmHWM") || line.starts_with("VmRSS")).collect::<Vec<_>>()
    );
    println!("{:?} {:?}", projections.status(), relay.as_ref().map(Relay::status));
    house.stop.cancel();
    projections.stopped().await;
    drop(projections);
    if let Some(relay) = relay {
        relay.stopped().await;
    }
    Arc::into_inner(house).unwrap().close().await;
}
