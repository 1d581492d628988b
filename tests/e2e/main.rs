//! The end-to-end suite: real PostgreSQL, real Kafka, real HTTP. One house for all tests, a tenant for each.
//!
//! A test waits for a state, never for a time, and leaves nothing behind. `./dev test` sets the environment.

mod architecture;
mod cqrs;
mod house;
mod log;

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

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    let trials: Vec<Trial> = [architecture::tests(), cqrs::tests(), log::tests()].into_iter().flatten().collect();
    let conclusion = libtest_mimic::run(&arguments, trials);
    House::close();
    conclusion.exit_code()
}
