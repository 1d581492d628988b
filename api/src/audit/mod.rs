//! What happened: the events themselves, their types, the trail of who did what, and what it made of resources.

mod diff;
mod events;
mod live;
mod streams;
mod trail;

pub use events::{ShownEvent, shown_data, shown_event};
pub use streams::Streams;

use crate::operation::Operation;

/// The operations of the context.
pub fn operations() -> Vec<Operation> {
    [trail::operations(), events::operations(), vec![live::operation(), diff::operation()]]
        .into_iter()
        .flatten()
        .collect()
}
