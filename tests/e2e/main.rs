//! The end-to-end suite: real PostgreSQL, real Kafka, real HTTP. One house for all tests, a tenant for each.
//!
//! A test waits for a state, never for a time, and leaves nothing behind. `./dev test` sets the environment.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that panics has failed")]

mod agents;
mod analytics;
mod architecture;
mod audit;
mod backup;
mod bad_input;
mod billing;
mod broker;
mod canaries;
mod client;
mod clock;
mod cqrs;
mod customers;
mod egress;
mod facts;
mod hosts;
mod house;
mod idempotency;
mod incarnations;
mod kafka;
mod listener;
mod live;
mod lodging;
mod log;
mod notes;
mod operations;
mod orders;
mod privacy;
mod processes;
mod provider;
mod random;
mod replay;
mod replays;
mod reports;
mod restored;
mod schemas;
mod server;
mod time_travel;
mod topic;
mod torture;
mod verify;
mod waiting;

use std::process::ExitCode;

use house::House;
use libtest_mimic::{Arguments, Trial};

/// Declares a module's tests: a test that is not named here is dead code, which the lints refuse.
#[macro_export]
macro_rules! tests {
    ($($name:ident),* $(,)?) => {
        pub(crate) fn tests() -> Vec<libtest_mimic::Trial> {
            vec![$($crate::house::trial(concat!(module_path!(), "::", stringify!($name)), |house| Box::pin($name(house)))),*]
        }
    };
}

/// Tests wait more than they compute, so more of them run than there are cores.
const THREADS: usize = 8;

fn main() -> ExitCode {
    if let Some(code) = torture::long() {
        return code;
    }
    let mut arguments = Arguments::from_args();
    arguments.test_threads.get_or_insert(THREADS);
    let trials: Vec<Trial> = [
        architecture::tests(),
        processes::tests(),
        hosts::tests(),
        incarnations::tests(),
        kafka::tests(),
        egress::tests(),
        log::tests(),
        cqrs::tests(),
        customers::tests(),
        operations::tests(),
        orders::tests(),
        notes::tests(),
        billing::tests(),
        agents::tests(),
        clock::tests(),
        idempotency::tests(),
        bad_input::tests(),
        privacy::tests(),
        analytics::tests(),
        audit::tests(),
        live::tests(),
        torture::tests(),
        schemas::tests(),
        verify::tests(),
        replay::tests(),
        time_travel::tests(),
        replays::tests(),
        reports::tests(),
        waiting::tests(),
    ]
    .into_iter()
    .flatten()
    .collect();
    let conclusion = libtest_mimic::run(&arguments, trials);
    House::close(conclusion.has_failed());
    conclusion.exit_code()
}
