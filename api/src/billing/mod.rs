//! Plans and subscriptions.

mod plan;
mod subscription;

use crate::operation::Operation;

/// The operations of the context.
pub fn operations() -> Vec<Operation> {
    [plan::operations(), subscription::operations()].into_iter().flatten().collect()
}
