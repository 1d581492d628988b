//! Writers: in a closed loop, each with one append at a time, or at a fixed rate, whatever the store does.

use std::sync::Arc;
use std::time::{Duration, Instant};

/// What a store must be able to do. Whatever it acknowledges is committed.
pub trait Store: Send + Sync + 'static {
    /// Appends the first event of a new stream. `n` is another one for each call.
    fn append(&self, n: u64) -> impl Future<Output = Result<(), String>> + Send;
    /// Loads one of the prepared streams, decides and appends an event, and tries again whenever somebody else was first.
    fn change(&self, stream: usize, n: u64) -> impl Future<Output = Result<(), String>> + Send;
}

/// How many streams are hot.
pub const HOT_STREAMS: usize = 1_000;

/// What is appended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// The first event of a new stream.
    New,
    /// One more event of a stream, any of [`HOT_STREAMS`].
    Hot,
}

/// How long.
#[derive(Clone, Copy, Debug)]
pub struct Timing {
    /// Before anything is counted.
    pub warm_up: Duration,
    /// For what counts.
    pub measured: Duration,
}

/// What came of it.
#[derive(Default)]
pub struct Measured {
    /// How many appends were acknowledged, those of the warm-up among them: so many must be found.
    pub acknowledged: u64,
    /// Of each append that was acknowledged while it counted, in microseconds.
    pub latencies: Vec<u32>,
    /// How long that was.
    pub measured: Duration,
}

/// `n` of a writer's own.
fn numbers(writer: usize) -> impl Iterator<Item = u64> {
    ((writer as u64 + 1) << 40)..
}

/// A stream for an append, by SplitMix64: uniform, and the same in each run.
fn any_stream(n: u64) -> usize {
    let mut z = n.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    ((z ^ (z >> 31)) % HOT_STREAMS as u64) as usize
}

async fn one<S: Store>(store: &S, kind: Kind, n: u64) -> Result<(), String> {
    match kind {
        Kind::New => store.append(n).await,
        Kind::Hot => store.change(any_stream(n), n).await,
    }
}

/// Makes the streams that shall be hot: the stream of that number is made by `append(number)`.
pub async fn prepare_streams<S: Store>(store: &Arc<S>) -> u64 {
    for some in (0..HOT_STREAMS as u64).collect::<Vec<_>>().chunks(50) {
        let appends = some.iter().map(|n| store.append(*n));
        for done in futures::future::join_all(appends).await {
            done.expect("a stream");
        }
    }
    HOT_STREAMS as u64
}

/// So many writers, each with one append at a time.
pub async fn closed<S: Store>(store: &Arc<S>, kind: Kind, writers: usize, timing: Timing) -> Measured {
    let warm = Instant::now() + timing.warm_up;
    let end = warm + timing.measured;
    let writers: Vec<_> = (0..writers)
        .map(|writer| {
            let store = store.clone();
            tokio::spawn(async move {
                let (mut acknowledged, mut latencies) = (0, Vec::new());
                for n in numbers(writer) {
                    let begun = Instant::now();
                    if begun >= end {
                        break;
                    }
                    one(&*store, kind, n).await.expect("an append");
                    let done = Instant::now();
                    acknowledged += 1;
                    if done >= warm && done < end {
                        latencies.push(micros(done - begun));
                    }
                }
                (acknowledged, latencies)
            })
        })
        .collect();
    let mut all = Measured { measured: timing.measured, ..Measured::default() };
    for writer in writers {
        let (acknowledged, latencies) = writer.await.expect("a writer that ends");
        all.acknowledged += acknowledged;
        all.latencies.extend(latencies);
    }
    all
}

pub fn micros(time: Duration) -> u32 {
    time.as_micros().try_into().unwrap_or(u32::MAX)
}
