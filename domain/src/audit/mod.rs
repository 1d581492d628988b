//! What is done with the history itself.

mod replay;

pub use replay::{Replay, ReplayCommand, ReplayError, ReplayEvent, ReplayFormat, ReplayStatus, Requested};
