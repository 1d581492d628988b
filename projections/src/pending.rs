//! The events that a projector has in hand.

use std::time::Duration;

use tokio::time::Instant;

use crate::feed::log::{Slotted, size};

/// The most events of a batch: beyond that, more rows a statement make it no faster.
pub(crate) const BATCH: usize = 2_000;
/// The most bytes of events in hand.
const BATCH_BYTES: usize = 8 * 1024 * 1024;
/// How many events a second are much: while so many come and nobody waits for them, batches are fewer and fuller, which
/// leaves more of the machine to requests.
const MUCH: f64 = 500.0;
/// The least time between two batches from Kafka, and while much comes.
const PACE: (Duration, Duration) = (Duration::from_millis(5), Duration::from_millis(20));
/// How long events that concern no row of the projector may wait for others before their checkpoint is written, and while
/// much comes; whoever waits for them need not wait longer than for others.
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

    /// When they must be committed, if there are any; sooner while somebody waits.
    pub(crate) fn due(&self, awaited: bool) -> Option<Instant> {
        let since = self.since?;
        let (pace, lazy) = match self.before {
            _ if awaited => (PACE.0, Duration::ZERO),
            Some((_, true)) => (PACE.1, LAZY.1),
            _ => (PACE.0, LAZY.0),
        };
        let due = if self.urgent { since } else { since + lazy };
        Some(self.before.map_or(due, |(at, _)| due.max(at + pace)))
    }
}

#[cfg(test)]
mod tests {
    use domain::commerce::CustomerEvent;
    use domain::names;
    use uuid::Uuid;

    use super::*;
    use crate::test_support::{Place, at, recorded};

    fn event(sequence: i64) -> Slotted {
        let place = Place { tenant: Uuid::nil(), sequence, stream: Uuid::nil(), version: sequence };
        let erased = CustomerEvent::Erased {};
        Slotted { slot: 0, event: recorded(place, names::CUSTOMER.name, &erased, at("2026-01-01T00:00:00Z")) }
    }

    #[test]
    fn whoever_waits_gets_it_first_and_much_comes_together() {
        let now = Instant::now();
        let pending = |urgent, before: Option<bool>| {
            let mut pending = Pending { before: before.map(|much| (now, much)), ..Pending::default() };
            pending.push(event(1), urgent);
            pending.since = Some(now);
            pending
        };
        let due = |urgent, before| [false, true].map(|awaited| pending(urgent, before).due(awaited).map(|at| at - now));
        assert_eq!(Pending::default().due(true), None, "there is nothing");
        assert_eq!(due(true, None), [Some(Duration::ZERO); 2], "the first one comes at once");
        assert_eq!(due(false, None), [Some(LAZY.0), Some(Duration::ZERO)]);
        assert_eq!(due(true, Some(false)), [Some(PACE.0); 2]);
        assert_eq!(due(true, Some(true)), [Some(PACE.1), Some(PACE.0)]);
        assert_eq!(due(false, Some(true)), [Some(LAZY.1), Some(PACE.0)]);
    }

    #[test]
    fn much_is_many_events_a_second() {
        for (count, much) in [(MUCH as i64 - 1, false), (20 * MUCH as i64, true)] {
            let mut pending =
                Pending { before: Some((Instant::now() - Duration::from_secs(1), !much)), ..Pending::default() };
            (1..=count).for_each(|n| pending.push(event(n), true));
            pending.take();
            assert_eq!(pending.before.unwrap().1, much, "{count} in a second");
        }
    }
}
