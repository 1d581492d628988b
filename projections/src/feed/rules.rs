//! What the relay and the projectors decide, without I/O: which message follows, what a message calls for, and what
//! becomes of rows when the log went back. `feed/model` drives all of it through everything that may go wrong.

use eventstore::{HighWater, Incarnations, RelayCursor};

use super::Message;
use super::log::Slotted;
use crate::checkpoint::{Checkpoints, Step};

/// A relay's way along the log in one term: what was handed to Kafka, and what Kafka has acknowledged of it.
#[derive(Debug)]
pub(crate) struct Course {
    /// The lives of the log: the course is good for as long as these are all.
    incarnations: Incarnations,
    partitions: i32,
    /// Up to here everything was handed over.
    sent: RelayCursor,
    /// Up to here everything is acknowledged.
    acknowledged: RelayCursor,
}

/// What goes with an event on its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Envelope {
    pub(crate) partition: i32,
    /// The position of the event before it in its slot; 0 for none.
    pub(crate) previous: i64,
    pub(crate) incarnation: i64,
}

/// The heartbeat of one partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Beat {
    pub(crate) partition: i32,
    /// Its slots, each with the position of its last event.
    pub(crate) lasts: Vec<(u8, i64)>,
    /// The position up to which this holds.
    pub(crate) covered: i64,
    pub(crate) incarnation: i64,
}

impl Course {
    /// From the cursor that was stored last: what was sent after it goes once more.
    pub(crate) fn from(cursor: RelayCursor, incarnations: Incarnations, partitions: i32) -> Self {
        Self { incarnations, partitions, sent: cursor.clone(), acknowledged: cursor }
    }

    /// The next event of the log goes on its way.
    pub(crate) fn send(&mut self, slot: u8, position: i64) -> Envelope {
        let previous = self.sent.slots.get(usize::from(slot)).copied().unwrap_or(0);
        advance(&mut self.sent, slot, position);
        let incarnation = self.incarnations.owner(position);
        Envelope { partition: i32::from(slot) % self.partitions, previous, incarnation }
    }

    /// The next of those that are on their way is acknowledged. Kafka's word comes for each in the order in which they
    /// were sent; after one that failed none counts, and the course is over.
    pub(crate) fn acknowledge(&mut self, slot: u8, position: i64) {
        advance(&mut self.acknowledged, slot, position);
    }

    /// What each partition is told of its slots: what lies behind it in the partition, or was lost there.
    pub(crate) fn beats(&self) -> impl Iterator<Item = Beat> {
        (0..self.partitions).map(|partition| {
            let lasts = (0u8..).zip(self.sent.slots.iter().copied());
            let lasts = lasts.filter(|(slot, _)| i32::from(*slot) % self.partitions == partition).collect();
            Beat { partition, lasts, covered: self.sent.position, incarnation: self.newest() }
        })
    }

    /// The last position that was handed to Kafka.
    pub(crate) fn sent(&self) -> i64 {
        self.sent.position
    }

    /// Where the next term may begin.
    pub(crate) fn acknowledged(&self) -> &RelayCursor {
        &self.acknowledged
    }

    /// The life of the log that the course is in.
    pub(crate) fn newest(&self) -> i64 {
        self.incarnations.newest().id
    }
}

fn advance(cursor: &mut RelayCursor, slot: u8, position: i64) {
    cursor.position = position;
    if let Some(last) = cursor.slots.get_mut(usize::from(slot)) {
        *last = position;
    }
}

/// What a message calls for.
pub(crate) enum Reaction<'a> {
    /// Nothing: it was applied before, or is another process's.
    Pass,
    /// The event is the next of its slot.
    Take(&'a Slotted),
    /// Something is missing: the log has it, at least up to this position.
    CatchUp(i64),
}

/// What a message that [counts](Message::counts) calls for.
pub(crate) fn react<'a>(checkpoints: &Checkpoints, message: &'a Message) -> Reaction<'a> {
    match message {
        Message::Event { slot, position, previous, event, .. } => {
            match (checkpoints.step(*slot, *position, *previous), event) {
                (Step::Drop, _) => Reaction::Pass,
                (Step::Apply, Some(event)) => Reaction::Take(event),
                // Something is missing, or the message only says where to read it. The log has this event too, whatever
                // this process knows of the log's end.
                (Step::Apply, None) | (Step::CatchUp, _) => Reaction::CatchUp(*position),
            }
        }
        Message::Beat { lasts, covered, .. } => {
            let lost = |(slot, last): &(u8, i64)| checkpoints.step(*slot, *last, 0) != Step::Drop;
            if lasts.iter().any(lost) { Reaction::CatchUp(*covered) } else { Reaction::Pass }
        }
    }
}

/// Notes what a message that counts has told, once what it called for was done.
pub(crate) fn note(checkpoints: &mut Checkpoints, message: &Message) {
    let Message::Beat { lasts, covered, .. } = message else { return };
    for (slot, last) in lasts {
        // Only where nothing is missing: a stop may have ended the reading early.
        if checkpoints.covered(*slot) >= *last {
            checkpoints.cover(*slot, *covered);
        }
    }
}

/// The furthest of these places of rows, where it says that the log has gone back and nobody has noticed yet: it lies
/// beyond the log's end.
pub(crate) fn beyond(places: &[HighWater], end: HighWater) -> Option<HighWater> {
    places.iter().copied().max().filter(|place| *place > end)
}

/// Whether rows that stand at these places are made of what the log has lost.
pub(crate) fn lost(places: &[HighWater], incarnations: &Incarnations) -> bool {
    // Of a life that was lost as a whole nobody knows where it began.
    places.iter().any(|place| {
        let end = incarnations.after(place.incarnation).map(|next| next.first_position);
        !incarnations.knows(place.incarnation) || end.is_some_and(|end| end <= place.position)
    })
}
