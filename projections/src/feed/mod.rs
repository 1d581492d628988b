//! How events get from the log to the projectors.
//!
//! The log is the truth, the feed only brings it nearer: a projector that misses something reads the log. So a feed may
//! lose, repeat and delay as it likes; only within a slot it must not turn the order round unnoticed, which is what the
//! position of the event before, in every message, is for.

pub(crate) mod cloud_event;
pub mod kafka;
pub(crate) mod log;
pub mod relay;

use std::sync::Arc;

/// What a feed brings to every projector of the process at once.
pub(crate) type Delivery = Arc<[Message]>;

/// One thing that a feed brings.
pub(crate) enum Message {
    /// An event.
    Event {
        /// Its slot.
        slot: u8,
        /// Its position.
        position: i64,
        /// The position of the event before it in its slot; 0 for none.
        previous: i64,
        /// The event; none where it was too large for the way and must be read from the log.
        event: Option<log::Slotted>,
    },
    /// How far the relay has come, so that a projector hears of what it missed at the end.
    Beat {
        /// Some slots, each with the position of its last event.
        lasts: Vec<(u8, i64)>,
        /// The position up to which this holds.
        covered: i64,
    },
}
