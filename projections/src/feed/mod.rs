//! How events get from the log to the projectors.
//!
//! The log is the truth, the feed only brings it nearer: a projector that misses something reads the log. So a feed may
//! lose, repeat and delay as it likes; only within a slot it must not turn the order round unnoticed, which is what the
//! position of the event before, in every message, is for.

pub(crate) mod cloud_event;
mod evidence;
pub mod kafka;
pub(crate) mod log;
#[cfg(test)]
mod model;
pub mod relay;
pub(crate) mod rules;
mod topic;

pub use cloud_event::{CONTENT_TYPE, HEARTBEAT};
pub use topic::MAX_BATCH;

use std::sync::Arc;

use eventstore::{HighWater, Incarnations};

/// What a feed brings to every projector of the process at once.
pub(crate) type Delivery = Arc<[Message]>;

/// One thing that a feed brings. What the log has lost may come, too: an event counts only if its incarnation owns its
/// position, a heartbeat only in the newest one.
pub(crate) enum Message {
    /// An event.
    Event {
        /// The life of the log that it was published in.
        incarnation: i64,
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
        /// The life of the log that the relay was in.
        incarnation: i64,
        /// Some slots, each with the position of its last event.
        lasts: Vec<(u8, i64)>,
        /// The position up to which this holds.
        covered: i64,
    },
}

impl Message {
    /// Whether it is about the log that has these lives.
    pub(crate) fn counts(&self, incarnations: &Incarnations) -> bool {
        match self {
            Self::Event { incarnation, position, .. } => incarnations.owner(*position) == *incarnation,
            Self::Beat { incarnation, .. } => incarnations.newest().id == *incarnation,
        }
    }

    /// How far the log had come when it was sent, at least.
    pub(crate) fn place(&self) -> HighWater {
        match self {
            Self::Event { incarnation, position, .. } | Self::Beat { incarnation, covered: position, .. } => {
                HighWater { incarnation: *incarnation, position: *position }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use eventstore::Incarnation;

    use super::*;

    #[test]
    fn what_was_lost_does_not_count() {
        let lives = [(1, 1), (2, 91), (4, 95)].map(|(id, first_position)| Incarnation { id, first_position });
        let lives = Incarnations::new(lives.to_vec());
        let event = |incarnation, position| Message::Event { incarnation, slot: 0, position, previous: 0, event: None };
        let beat = |incarnation, covered| Message::Beat { incarnation, lasts: Vec::new(), covered };
        let counting = [event(1, 90), event(2, 91), event(2, 94), event(4, 95), beat(4, 97), beat(4, 20)];
        assert!(counting.iter().all(|message| message.counts(&lives)));
        let lost = [
            event(1, 91),
            event(1, 95),
            event(2, 90),
            event(2, 95),
            event(3, 92),
            event(5, 96),
            beat(2, 97),
            beat(5, 97),
        ];
        assert!(lost.iter().all(|message| !message.counts(&lives)));
    }
}
