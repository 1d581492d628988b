//! Customers and what they buy.

mod customer;
mod order;

use crate::operation::Operation;

/// The operations of the context.
pub fn operations() -> Vec<Operation> {
    [customer::operations(), order::operations()].into_iter().flatten().collect()
}
