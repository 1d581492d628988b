//! Notes about customers.

mod note;

use crate::operation::Operation;

/// The operations of the context.
pub fn operations() -> Vec<Operation> {
    note::operations()
}
