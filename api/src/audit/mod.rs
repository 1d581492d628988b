//! What happened: the events themselves, their types, and the trail of who did what.

mod events;
mod trail;

pub use events::{ShownEvent, shown_data, shown_event};

use crate::operation::Operation;

/// The operations of the context.
pub fn operations() -> Vec<Operation> {
    [trail::operations(), events::operations()].into_iter().flatten().collect()
}
