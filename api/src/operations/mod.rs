//! `/admin`: what those who run the house see of it and do to it. Their keys have scopes of their own, which the command
//! line alone gives.

mod processes;
mod projections;
mod steps;

use crate::operation::Operation;

pub use processes::{ProcessId, ProcessKind, show, waiting};
pub use projections::shown_parked;

/// The operations of the context.
pub fn operations() -> Vec<Operation> {
    [projections::operations(), processes::operations()].into_iter().flatten().collect()
}
