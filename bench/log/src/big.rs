//! A log of many events: whether an append to it costs more than one to an empty log, and how fast all of it is read
//! again, each event as its domain type.

use std::time::{Duration, Instant};

use cqrs_es::persist::PersistedEventRepository;
use domain::billing::PlanEvent;
use eventstore::{EventStore, Fact};
use futures::TryStreamExt;
use postgres_es::PostgresEventRepository;
use sqlx::Executor;
use sqlx::postgres::PgConnection;

use crate::annals::{self, Annals};
use crate::fill;
use crate::load::{self, Kind, Timing, prepare_streams};
use crate::peer;
use crate::report::{BASE, Figures, Group};
use crate::server::Server;

/// How many writers append to it.
const WRITERS: usize = 64;

/// What of it is measured.
#[derive(Clone, Copy)]
pub struct Wanted {
    pub append: bool,
    pub replay: bool,
}

/// Makes a log of so many events, measures what is wanted, and drops it; then the same with the peer's table.
pub async fn measure(server: &Server, wanted: Wanted, events: u64, repeats: usize, timing: Timing) -> Vec<Group> {
    let mut groups = Vec::new();
    let log = server.new_log().await;
    eprintln!("    {:.0} s to fill a log of {events} events", fill::log(server, &log, events).await.as_secs_f64());
    if wanted.append {
        groups.extend(append(server, &log, events, repeats, timing).await);
    }
    let mut replay = Group::new("replay, typed", format!("{events} events"), BASE, [ANNALS, BASE].into_iter());
    let mut copy = Group::new("replay, typed", format!("{events} events"), BINARY, [ANNALS, BINARY, TEXT].into_iter());
    if wanted.replay {
        for _ in 0..repeats {
            let figures = replay_annals(server, &log).await;
            replay.add(ANNALS, figures);
            copy.take(ANNALS, figures);
            copy.add(BINARY, copy_out(server, &log, "COPY events TO STDOUT (FORMAT binary)").await);
            copy.add(TEXT, copy_out(server, &log, "COPY events TO STDOUT").await);
        }
    }
    // Both do not fit into memory together.
    server.drop(&log).await;
    server.checkpoint().await;
    if wanted.replay {
        let table = server.new_database(peer::SCHEMA).await;
        let filled = fill::peer(server, &table, events).await;
        eprintln!("    {:.0} s to fill the same for postgres-es", filled.as_secs_f64());
        for _ in 0..repeats {
            replay.add(BASE, replay_peer(server, &table, events).await);
        }
        server.drop(&table).await;
        server.checkpoint().await;
        for group in [replay, copy] {
            group.print();
            groups.push(group);
        }
    }
    groups
}

const ANNALS: &str = "annals";
const BINARY: &str = "COPY out, binary";
const TEXT: &str = "COPY out, text";
const EMPTY: &str = "annals, empty log";

async fn append(server: &Server, log: &str, events: u64, repeats: usize, timing: Timing) -> Vec<Group> {
    let full = format!("annals, {events}");
    let mut groups = Vec::new();
    let mut known = events;
    for (kind, case) in [(Kind::New, "new streams at size"), (Kind::Hot, "hot streams at size")] {
        let names = [EMPTY, &full].into_iter();
        let mut group = Group::new(case, format!("{WRITERS} writers"), EMPTY, names);
        for _ in 0..repeats {
            let empty = server.new_log().await;
            group.add(EMPTY, append_once(server, &empty, kind, &mut 0, timing).await);
            server.drop(&empty).await;
            group.add(&full, append_once(server, log, kind, &mut known, timing).await);
        }
        group.print();
        groups.push(group);
    }
    groups
}

async fn append_once(server: &Server, log: &str, kind: Kind, known: &mut u64, timing: Timing) -> Figures {
    let annals = Annals::open(server, log, false).await;
    let prepared = if kind == Kind::Hot { prepare_streams(&annals).await } else { 0 };
    server.checkpoint().await;
    let measured = load::closed(&annals, kind, WRITERS, timing).await;
    annals.close().await;
    let acknowledged = measured.acknowledged + prepared;
    annals::check(server, log, *known, acknowledged).await;
    *known += acknowledged;
    Figures::from(measured)
}

fn rate(events: u64, time: Duration) -> Figures {
    Figures { per_second: events as f64 / time.as_secs_f64(), latency: None }
}

async fn replay_annals(server: &Server, log: &str) -> Figures {
    let annals = Annals::open(server, log, false).await;
    let begun = Instant::now();
    let read = read_typed(&annals.store).await;
    let time = begun.elapsed();
    assert_eq!(read, annals.store.tail().position() as u64, "events of the log");
    annals.close().await;
    rate(read, time)
}

/// Reads the whole log, each event as its domain type; gives how many.
async fn read_typed(store: &EventStore) -> u64 {
    let mut read = 0;
    let typed = |fact: Fact<'_>| fact.decode::<PlanEvent>().expect("an event that can be read");
    let mut events = std::pin::pin!(store.facts(0, store.tail().position(), typed));
    while let Some(plans) = events.try_next().await.expect("a range") {
        for plan in plans {
            std::hint::black_box(plan.expect("a body"));
            read += 1;
        }
    }
    read
}

async fn replay_peer(server: &Server, table: &str, events: u64) -> Figures {
    let pool = server.pool(table, 1, true);
    let repository = PostgresEventRepository::new(pool.clone());
    let begun = Instant::now();
    let mut stream = repository.stream_all_events::<peer::Plan>().await.expect("a stream");
    let mut read = 0;
    while let Some(event) = stream.next::<peer::Plan>(&[]).await {
        std::hint::black_box(event.expect("an event that can be read").payload);
        read += 1;
    }
    let time = begun.elapsed();
    assert_eq!(read, events, "events of postgres-es");
    pool.close().await;
    rate(read, time)
}

/// All columns, drained and thrown away.
async fn copy_out(server: &Server, log: &str, copy: &str) -> Figures {
    let mut connection: PgConnection = server.connection(log).await;
    let [events] = server.numbers(log, "SELECT count(*) FROM events").await[..] else { unreachable!("one number") };
    let begun = Instant::now();
    let mut rows = connection.copy_out_raw(copy).await.expect("a copy");
    let mut bytes = 0;
    while let Some(some) = rows.try_next().await.expect("a row") {
        bytes += some.len();
    }
    let time = begun.elapsed();
    drop(rows);
    connection.execute("SELECT 1").await.expect("a connection that is whole");
    assert!(bytes as i64 > events * 300, "{bytes} bytes of {events} events");
    rate(events as u64, time)
}
