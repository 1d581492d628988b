//! The feed's own decisions, driven at random through everything that Kafka, relays, projectors and the log's server may
//! do wrong: zombie relays, sends that are lost, cut and expired partitions, topics made anew, projectors that are killed
//! or wake up late, a log that is restored, alone or with its read models. Whatever happens, a projector applies each
//! slot's events in order, once and without a gap, and in the end all of them. With one rule left out it does not.
//!
//! What decides is the product's: `Course`, `rules`, `Checkpoints`, `Incarnations`. What is acted here is I/O: the
//! log, Kafka, and a transaction that compares the checkpoints and writes rows.

mod actors;
mod world;

use std::sync::atomic::{AtomicU64, Ordering};

use actors::Without;
use world::World;

/// How many steps a history has.
const STEPS: usize = 400;
/// How many histories are drawn, unless `FEED_RUNS` says so.
const RUNS: u64 = 10_000;

/// Whether one history ends well.
fn holds(seed: u64, without: Without) -> bool {
    let mut world = World::new(seed, without);
    for _ in 0..STEPS {
        world.step();
        if std::mem::take(&mut world.changed)
            && without != Without::Incarnations
            && !world.view.is_right(&world.log, false)
        {
            return false;
        }
    }
    world.settle();
    world.view.is_right(&world.log, true)
}

/// The first of these histories that does not end well.
fn first_broken(seeds: u64, without: Without) -> Option<u64> {
    let (next, broken) = (AtomicU64::new(1), AtomicU64::new(u64::MAX));
    let work = || {
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed > seeds || seed > broken.load(Ordering::Relaxed) {
                return;
            }
            if !holds(seed, without) {
                broken.fetch_min(seed, Ordering::Relaxed);
            }
        }
    };
    let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    std::thread::scope(|scope| (0..threads).for_each(|_| drop(scope.spawn(work))));
    Some(broken.into_inner()).filter(|seed| *seed != u64::MAX)
}

#[test]
fn whatever_goes_wrong_events_are_applied_in_order_once_and_all() {
    let runs = std::env::var("FEED_RUNS").ok().map_or(RUNS, |text| text.parse().unwrap());
    assert_eq!(first_broken(runs, Without::Nothing), None, "the history of this seed ends badly");
}

#[test]
fn without_any_one_of_the_rules_it_goes_wrong() {
    for without in [Without::Gaps, Without::Duplicates, Without::Heartbeats, Without::Incarnations] {
        assert!(first_broken(200, without).is_some(), "{without:?} could be left out");
    }
}
