//! What happened: the events themselves, their types, the trail of who did what, what it made of resources, and replays as files.

mod diff;
mod events;
mod live;
mod replay_files;
mod replays;
mod streams;
mod trail;

pub use events::{ShownEvent, shown_data, shown_event};
pub use streams::{LIVE, REPLAYS, Streams};

use crate::operation::Operation;

/// The operations of the context.
pub fn operations() -> Vec<Operation> {
    [trail::operations(), events::operations(), vec![live::operation(), diff::operation()], replays::operations()]
        .into_iter()
        .flatten()
        .collect()
}
