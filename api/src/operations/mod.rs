//! `/admin`: what those who run the house see of it and do to it, whatever the tenant. Their keys have scopes of their
//! own, which the command line alone gives.

mod projections;

use crate::operation::Operation;

pub use projections::shown_parked;

/// The operations of the context.
pub fn operations() -> Vec<Operation> {
    projections::operations()
}
