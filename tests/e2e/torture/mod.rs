//! The house is broken on purpose: killed, stopped, starved, raced. The short form of each scenario is a test like any
//! other; the long one is `./dev torture`, which runs the same code with other numbers, round after round.
//!
//! What is done to whom, and after how many operations, follows from the seed. The journal has every intent, answer and
//! blow with its time; it is kept where a run fails.

mod erasures;
mod fairness;
mod fleet;
mod hosts;
mod journal;
mod kafka;
mod keys;
mod kills;
mod load;
mod log;
mod outages;
mod races;
mod rollouts;
mod shared;
mod stops;
mod verify;

use std::collections::BTreeMap;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::path::PathBuf;
use std::pin::Pin;
use std::process::ExitCode;
use std::sync::Mutex;
use std::time::{Duration, Instant, SystemTime};

use futures::FutureExt;
use libtest_mimic::Trial;
use serde_json::json;

use crate::random::Random;
use journal::Journal;

type Body = for<'a> fn(&'a Run) -> Pin<Box<dyn Future<Output = ()> + 'a>>;

/// One way of breaking the house.
struct Scenario {
    /// The module that it stands in.
    kind: &'static str,
    name: &'static str,
    body: Body,
    /// Whether it mounts a disk.
    needs_root: bool,
}

/// What has no short form.
const LONG: &[Scenario] = &[
    // It is timed: on a machine that runs other tests beside it, it could only fail by chance.
    Scenario {
        kind: "fairness",
        name: "an_import_slows_others_little",
        body: |run| Box::pin(fairness::an_import_slows_others_little(run)),
        needs_root: false,
    },
    // It needs another build.
    Scenario {
        kind: "rollouts",
        name: "a_newer_version_takes_over_unseen",
        body: |run| Box::pin(rollouts::a_newer_version_takes_over_unseen(run)),
        needs_root: false,
    },
];

/// Declares the scenarios; each is a test of its short form too.
macro_rules! scenarios {
    ($($module:ident::$name:ident $(($root:ident))?),* $(,)?) => {
        const SCENARIOS: &[Scenario] = &[$(Scenario {
            kind: stringify!($module),
            name: stringify!($name),
            body: |run| Box::pin($module::$name(run)),
            needs_root: !<[&str]>::is_empty(&[$(stringify!($root))?]),
        }),*];

        pub(crate) fn tests() -> Vec<Trial> {
            let mut scenarios = SCENARIOS.iter();
            vec![$({
                let name = concat!("torture::", stringify!($module), "::", stringify!($name));
                let trial = $crate::house::trial(name, |_| Box::pin(short(stringify!($name))));
                let skipped = scenarios.next().unwrap().needs_root && !crate::server::is_root();
                if skipped { trial.with_kind("needs root").with_ignored_flag(true) } else { trial }
            }),*]
        }
    };
}

scenarios![
    kills::nothing_acknowledged_is_lost_whoever_is_killed,
    stops::a_process_that_is_stopped_in_a_transaction_holds_nobody_up,
    races::of_all_callers_at_one_version_one_wins,
    races::racing_pairs_break_no_rule,
    keys::a_key_has_one_effect_whoever_is_killed,
    keys::a_key_has_one_effect_over_midnight,
    log::a_key_is_known_on_the_next_day_by_whoever_has_hung_since,
    log::nothing_is_said_of_an_erased_person,
    log::a_fault_is_told_to_whoever_makes_it_and_nobody_else,
    log::a_full_queue_says_so_and_one_tenant_cannot_fill_it_for_another,
    erasures::an_erasure_ends_what_others_write,
    outages::a_full_disk_hurts_nobody_for_ever(root),
    outages::a_server_that_takes_no_writes_is_waited_for,
    outages::a_server_that_is_gone_is_waited_for,
    outages::a_server_that_hangs_is_waited_for,
    outages::a_serialisation_failure_is_tried_again_unseen,
    kafka::whatever_kafka_loses_nothing_is_missed,
    hosts::runs_survive_hosts_that_are_killed_and_stopped,
];

/// One run of a scenario.
pub(crate) struct Run {
    pub(crate) seed: u64,
    pub(crate) journal: Journal,
    /// Until when a long run goes on; none for a short one.
    until: Option<Instant>,
    tally: Mutex<BTreeMap<&'static str, usize>>,
}

impl Run {
    fn begin(name: &str, seed: u64, until: Option<Instant>) -> Self {
        Self { seed, journal: Journal::create(folder().join(format!("{name}-{seed}"))), until, tally: Mutex::default() }
    }

    /// Chance of its own for each part of the run that goes its own way.
    pub(crate) fn random(&self, part: u64) -> Random {
        Random::new(self.seed.wrapping_mul(1_000_003).wrapping_add(part))
    }

    /// How often something is done: fewer times in the short form.
    pub(crate) fn times(&self, short: usize, long: usize) -> usize {
        if self.until.is_some() { long } else { short }
    }

    /// Whether a long run has used its time up. The schedule does not depend on it, its length alone does.
    pub(crate) fn is_over(&self) -> bool {
        self.until.is_some_and(|until| Instant::now() > until)
    }

    /// Adds to what the verdict tells.
    pub(crate) fn count(&self, what: &'static str, by: usize) {
        *self.tally.lock().unwrap().entry(what).or_default() += by;
    }

    fn tally(&self) -> BTreeMap<&'static str, usize> {
        self.tally.lock().unwrap().clone()
    }
}

/// Where journals go: below `.dev` for `./dev torture`, below `target` for the tests.
fn folder() -> PathBuf {
    std::env::var_os("TORTURE_DIR").map_or_else(|| env!("CARGO_TARGET_TMPDIR").into(), PathBuf::from)
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{name} must be a number: {text}")))
}

/// The moment, as a seed that nobody has chosen.
fn any_seed() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_micros() as u64 % 1_000_000_000
}

async fn short(name: &'static str) {
    let scenario = SCENARIOS.iter().find(|scenario| scenario.name == name).unwrap();
    let run = Run::begin(name, number("TORTURE_SEED").unwrap_or_else(any_seed), None);
    match AssertUnwindSafe((scenario.body)(&run)).catch_unwind().await {
        Ok(()) => run.journal.remove(),
        Err(panic) => {
            let (seed, journal) = (run.seed, run.journal.keep());
            panic!(
                "{}\nseed {seed}, journal {}; again: TORTURE_SEED={seed} ./dev test -- {name}",
                words(&*panic),
                journal.display()
            );
        }
    }
}

/// The long form, where `./dev torture` asks for it.
pub(crate) fn long() -> Option<ExitCode> {
    let minutes = number("TORTURE_MINUTES")?;
    let first = number("TORTURE_SEED").unwrap_or_else(any_seed);
    let only = std::env::var("TORTURE_ONLY").unwrap_or_default();
    let all = SCENARIOS.iter().chain(LONG);
    let chosen: Vec<_> = all.filter(|scenario| scenario.kind == only || scenario.name.contains(&only)).collect();
    assert!(!chosen.is_empty(), "no scenario is called {only}");
    crate::lodging::build();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let until = Instant::now() + Duration::from_secs(60 * minutes);
    // Each has its share of the time; whoever needs less leaves it to the next rounds.
    let share = Duration::from_secs(60 * minutes) / chosen.len() as u32;
    let (mut totals, mut round) = (BTreeMap::<&str, usize>::new(), 0);
    eprintln!("torture: seed {first}, {minutes} minutes");
    while Instant::now() < until {
        for scenario in &chosen {
            if scenario.needs_root && !crate::server::is_root() {
                eprintln!("{}: skipped, for it mounts a disk: it needs root", scenario.name);
                continue;
            }
            let begun = Instant::now();
            let run = Run::begin(scenario.name, first + round, Some(until.min(begun + share)));
            let outcome = runtime.block_on(AssertUnwindSafe((scenario.body)(&run)).catch_unwind());
            let (name, seed, tally) = (scenario.name, run.seed, run.tally());
            if let Err(panic) = outcome {
                run.journal.note("verdict", json!({ "failed": words(&*panic) }));
                let journal = run.journal.keep();
                eprintln!("{name}: FAILED with seed {seed}: {}", words(&*panic));
                eprintln!("journal: {}", journal.display());
                eprintln!("again: ./dev torture --minutes {minutes} --seed {seed} --only {name}");
                return Some(ExitCode::FAILURE);
            }
            run.journal.note("verdict", json!({ "held": tally }));
            run.journal.keep();
            eprintln!("{name}: held with seed {seed} in {} s: {}", begun.elapsed().as_secs(), told(&tally));
            tally.into_iter().for_each(|(what, count)| *totals.entry(what).or_default() += count);
            if Instant::now() > until {
                break;
            }
        }
        round += 1;
    }
    eprintln!("torture: all held, seeds {first} to {}: {}", first + round - 1, told(&totals));
    Some(ExitCode::SUCCESS)
}

fn told(tally: &BTreeMap<&str, usize>) -> String {
    tally.iter().map(|(what, count)| format!("{count} {what}")).collect::<Vec<_>>().join(", ")
}

fn words(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().cloned();
    text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned())).unwrap_or_default()
}
