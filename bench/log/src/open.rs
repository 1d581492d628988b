//! An open loop: appends begin at a fixed rate, whatever the store does, and their latency counts from the moment at
//! which they should have begun. A store that falls half a second behind, or refuses, does not sustain the rate.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};

use crate::annals::{self, Annals};
use crate::closed::Contender;
use crate::load::{Measured, Store, Timing, micros};
use crate::peer::{self, Peer};
use crate::report::{BASE, Figures, Group};
use crate::server::Server;

/// How far a store may fall behind before its rate counts as not sustained.
const BEHIND: Duration = Duration::from_millis(500);
/// The connections of postgres-es: as many as help it.
const WRITERS: usize = 100;

/// Every contender that can be driven so, at each rate.
pub async fn measure(
    server: &Server,
    contenders: &[Contender],
    rates: &[u64],
    repeats: usize,
    timing: Timing,
) -> Vec<Group> {
    let contenders: Vec<_> = contenders.iter().copied().filter(|one| *one != Contender::Pgbench).collect();
    let mut groups = Vec::new();
    for &rate in rates {
        let names = contenders.iter().map(|contender| contender.name());
        let mut group = Group::new("new streams, open loop", format!("{rate} a second"), BASE, names);
        for _ in 0..repeats {
            for contender in &contenders {
                match once(server, *contender, rate, timing).await {
                    Some(measured) => group.add(contender.name(), Figures::from(measured)),
                    None => group.not_sustained(contender.name()),
                }
            }
        }
        group.print();
        groups.push(group);
    }
    groups
}

async fn once(server: &Server, contender: Contender, rate: u64, timing: Timing) -> Option<Measured> {
    let (database, measured) = match contender {
        Contender::Annals | Contender::AnnalsExecutor | Contender::Pgbench => {
            let database = server.new_log().await;
            let annals = Annals::open(server, &database, contender == Contender::AnnalsExecutor).await;
            server.checkpoint().await;
            let measured = at_rate(&annals, rate, timing).await;
            annals.close().await;
            if let Some(measured) = &measured {
                annals::check(server, &database, 0, measured.acknowledged).await;
            }
            (database, measured)
        }
        Contender::PostgresEs | Contender::PostgresEsBare => {
            let database = server.new_database(peer::SCHEMA).await;
            let peer = Peer::open(server, &database, WRITERS, contender == Contender::PostgresEsBare);
            server.checkpoint().await;
            let measured = at_rate(&peer, rate, timing).await;
            peer.close().await;
            if let Some(measured) = &measured {
                peer::check(server, &database, measured.acknowledged).await;
            }
            (database, measured)
        }
    };
    server.drop(&database).await;
    measured
}

/// One append that should have begun at `due`.
struct Done {
    due: Instant,
    /// None where it was refused.
    latency: Option<Duration>,
}

async fn at_rate<S: Store>(store: &Arc<S>, rate: u64, timing: Timing) -> Option<Measured> {
    let (done, mut all_done) = unbounded_channel();
    let begin = Instant::now() + Duration::from_millis(10);
    let warm = begin + timing.warm_up;
    let end = warm + timing.measured;
    let clock = clock(store.clone(), rate, begin, end, done);
    let mut measured = Measured { measured: timing.measured, ..Measured::default() };
    let mut refused = 0;
    // Ends with the last append, for each of them holds an end of the channel.
    while let Some(one) = all_done.recv().await {
        let Some(latency) = one.latency else {
            refused += 1;
            continue;
        };
        measured.acknowledged += 1;
        if one.due >= warm {
            measured.latencies.push(micros(latency));
        }
    }
    let sustained = clock.join().expect("a clock that ends");
    (sustained && refused == 0).then_some(measured)
}

/// Begins appends when they are due; false where the store fell behind. A thread of its own: the runtime's timers have
/// milliseconds.
#[expect(clippy::disallowed_methods, reason = "a clock waits for a time")]
fn clock<S: Store>(
    store: Arc<S>,
    rate: u64,
    begin: Instant,
    end: Instant,
    done: UnboundedSender<Done>,
) -> std::thread::JoinHandle<bool> {
    let runtime = tokio::runtime::Handle::current();
    let waiting = Arc::new(AtomicU64::new(0));
    let most_waiting = (rate as f64 * BEHIND.as_secs_f64()) as u64;
    std::thread::spawn(move || {
        for n in 0.. {
            let due = begin + Duration::from_secs_f64(n as f64 / rate as f64);
            if due >= end {
                break;
            }
            std::thread::sleep(due.saturating_duration_since(Instant::now()));
            if waiting.fetch_add(1, Ordering::Relaxed) > most_waiting {
                return false;
            }
            let (store, done, waiting) = (store.clone(), done.clone(), waiting.clone());
            runtime.spawn(async move {
                let appended = store.append((1 << 40) + n).await;
                waiting.fetch_sub(1, Ordering::Relaxed);
                let latency = appended.is_ok().then(|| due.elapsed());
                // The other end goes after the last of these.
                let _ = done.send(Done { due, latency });
            });
        }
        true
    })
}
