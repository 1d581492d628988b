//! Agents, and the runs that they are given.

mod agent;
mod figures;
mod run;

use crate::operation::Operation;

/// The operations of the context.
pub fn operations() -> Vec<Operation> {
    [agent::operations(), figures::operations(), run::operations()].into_iter().flatten().collect()
}
