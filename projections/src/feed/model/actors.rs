//! Who acts in the model: the log, relays, read models, projectors; and chance.

use std::collections::VecDeque;
use std::sync::Arc;

use chrono::{DateTime, Utc};
use eventstore::{Incarnation, Incarnations, RecordedEvent, RelayCursor};
use uuid::Uuid;

use crate::checkpoint::{COUNT, Checkpoints};
use crate::feed::log::Slotted;
use crate::feed::rules::Course;

/// The slots that have events, and the partitions that they are spread over.
pub(super) const BUSY: usize = 4;
pub(super) const PARTITIONS: i32 = 2;

/// A rule that is left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Without {
    Nothing,
    /// The position of the event before is not looked at.
    Gaps,
    /// What was applied before is applied again.
    Duplicates,
    /// No heartbeat is sent.
    Heartbeats,
    /// The lives of the log are one to everybody.
    Incarnations,
}

/// A small generator: the same seed draws the same history.
pub(super) struct Draw(pub(super) u64);

impl Draw {
    pub(super) fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % limit.max(1) as u64).unwrap()
    }

    pub(super) fn once_in(&mut self, times: usize) -> bool {
        self.below(times) == 0
    }
}

/// The log in Postgres.
#[derive(Clone)]
pub(super) struct Log {
    pub(super) events: Vec<Slotted>,
    pub(super) lives: Vec<Incarnation>,
    /// No number of a life is given twice.
    pub(super) highest: i64,
    pub(super) now: DateTime<Utc>,
}

impl Log {
    pub(super) fn append(&mut self, draw: &mut Draw) {
        let event = RecordedEvent {
            position: self.end() + 1,
            event_id: Uuid::from_u64_pair(draw.0, self.end().unsigned_abs()),
            tenant_id: Uuid::nil(),
            sequence: 0,
            stream_id: Uuid::nil(),
            stream_type: String::new(),
            version: 0,
            event_type: String::new(),
            schema_version: 1,
            subjects: None,
            actor: String::new(),
            occurred_at: self.now,
            recorded_at: self.now,
            payload: None,
            metadata: None,
        };
        let slot = u8::try_from(draw.below(BUSY)).unwrap();
        self.events.push(Slotted { slot, event: Arc::new(event) });
    }

    pub(super) fn end(&self) -> i64 {
        i64::try_from(self.events.len()).unwrap()
    }

    pub(super) fn incarnations(&self) -> Incarnations {
        Incarnations::new(self.lives.clone())
    }

    /// The cursor of a relay that has come to that position.
    pub(super) fn cursor(&self, position: i64) -> RelayCursor {
        let mut cursor = RelayCursor { position, ..RelayCursor::default() };
        for slotted in self.events.iter().take_while(|slotted| slotted.event.position <= position) {
            cursor.slots[usize::from(slotted.slot)] = slotted.event.position;
        }
        cursor
    }

    /// Ends behind that position from here on, in another life.
    pub(super) fn restore(&mut self, end: i64, draw: &mut Draw) {
        self.events.truncate(usize::try_from(end).unwrap());
        // A life that began later is not known any more.
        let later = i64::from(draw.once_in(2));
        self.lives.retain(|life| life.first_position <= end + later);
        self.highest += 1;
        self.lives.push(Incarnation { id: self.highest, first_position: end + 1 });
    }
}

/// A relay in its term.
pub(super) struct Relay {
    pub(super) course: Course,
    /// What a relay still holds of a log that was restored since.
    pub(super) memory: Option<Vec<Slotted>>,
    /// Slot and position, and whether Kafka has taken it; no event of a heartbeat.
    pub(super) in_flight: VecDeque<(Option<(u8, i64)>, bool)>,
}

/// The rows of one projector and its checkpoints, in one database.
#[derive(Clone)]
pub(super) struct View {
    pub(super) incarnation: i64,
    pub(super) positions: [i64; COUNT],
    pub(super) rows: [Vec<Arc<RecordedEvent>>; BUSY],
}

/// A copy of the databases.
pub(super) struct Backup {
    pub(super) log: Log,
    /// How far the relay had come.
    pub(super) cursor: i64,
    pub(super) view: View,
}

impl View {
    /// Whether the rows are what the log says: the beginning of each slot, or in the end all of it.
    pub(super) fn is_right(&self, log: &Log, whole: bool) -> bool {
        // Nobody is shown rows of another life than the log's.
        if self.incarnation != log.incarnations().newest().id && !whole {
            return true;
        }
        self.rows.iter().zip(0u8..).all(|(rows, slot)| {
            let mut events = log.events.iter().filter(|of| of.slot == slot).map(|of| of.event.event_id);
            rows.iter().all(|row| events.next() == Some(row.event_id)) && !(whole && events.next().is_some())
        })
    }
}

/// A projector of one process.
pub(super) struct Projector {
    pub(super) checkpoints: Checkpoints,
    pub(super) incarnations: Incarnations,
    pub(super) partitions: Vec<i32>,
    pub(super) offsets: [usize; PARTITIONS as usize],
    pub(super) pending: Vec<Slotted>,
    /// Whether its session has ended, for whatever reason.
    pub(super) over: bool,
}
