//! How events get from the log to the projectors.

pub mod kafka;
pub mod relay;
