//! The events that a projector has in hand.

use std::time::Duration;

use tokio::time::Instant;

use crate::feed::log::{Slotted, size};

/// The most events of a batch: beyond that, more rows a statement make it no faster.
pub(crate) const BATCH: usize = 2_000;
/// The most bytes of events in hand.
const BATCH_BYTES: usize = 8 * 1024 * 1024;
/// How many events a second are much: while so many come, batches are fewer and fuller, which leaves more of the machine to
/// requests.
const MUCH: f64 = 3_000.0;
/// The least time between two batches from Kafka, and while much comes.
const PACE: (Duration, Duration) = (Duration::from_millis(5), Duration::from_millis(20));
/// How long events that concern no row of the projector may wait for others before their checkpoint is written, and while
/// much comes.
const LAZY: (Duration, Duration) = (Duration::from_millis(20), Duration::from_millis(100));

/// The events in hand, in order.
#[derive(Default)]
pub(crate) struct Pending {
    events: Vec<Slotted>,
    bytes: usize,
    /// Whether any of them concerns a row.
    urgent: bool,
    since: Option<Instant>,
    /// When the batch before was taken, and whether much came then.
    before: Option<(Instant, bool)>,
}

impl Pending {
    /// Takes one more, which concerns a row or does not.
    pub(crate) fn push(&mut self, slotted: Slotted, urgent: bool) {
        self.urgent |= urgent;
        self.bytes += size(&slotted.event);
        self.since.get_or_insert_with(Instant::now);
        self.events.push(slotted);
    }

    /// Gives all of them away; the next ones are not due at once.
    pub(crate) fn take(&mut self) -> Vec<Slotted> {
        let (taken, now) = (std::mem::take(self), Instant::now());
        let much = taken.before.is_some_and(|(at, _)| taken.events.len() as f64 > MUCH * (now - at).as_secs_f64());
        self.before = Some((now, much));
        taken.events
    }

    /// Whether any of them concerns a row.
    pub(crate) fn is_urgent(&self) -> bool {
        self.urgent
    }

    /// Whether they fill a batch.
    pub(crate) fn is_full(&self) -> bool {
        self.events.len() >= BATCH || self.bytes >= BATCH_BYTES
    }

    /// When they must be committed, if there are any.
    pub(crate) fn due(&self) -> Option<Instant> {
        let since = self.since?;
        let of =
            |(little, much): (Duration, Duration)| if self.before.is_some_and(|(_, was)| was) { much } else { little };
        let due = if self.urgent { since } else { since + of(LAZY) };
        Some(self.before.map_or(due, |(at, _)| due.max(at + of(PACE))))
    }
}
