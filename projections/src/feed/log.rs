//! Reading the log for several projectors at once: they mostly want the same stretch of it at the same time.
//!
//! What is committed never changes, so a stretch that one has read serves the others too, in the same incarnation.

use std::collections::VecDeque;
use std::sync::Arc;

use eventstore::{EventStore, RecordedEvent, StoreError};
use futures::TryStreamExt;
use tokio::sync::Mutex;

/// How many positions a stretch has.
const STRETCH: i64 = 256;
/// Whoever is so many positions behind is alone there, and reads ranges of its own: others would only wait for it.
const FAR: i64 = 10_000;
const RANGE: i64 = 2_000;
const RANGE_BYTES: usize = 8 * 1024 * 1024;
/// The most bytes of events that are kept for the next one to ask.
const KEPT_BYTES: usize = 16 * 1024 * 1024;

/// An event and its slot, which costs a hash to know.
#[derive(Clone, Debug)]
pub(crate) struct Slotted {
    /// 0 to 63.
    pub(crate) slot: u8,
    /// The event.
    pub(crate) event: Arc<RecordedEvent>,
}

impl Slotted {
    pub(crate) fn new(event: RecordedEvent) -> Self {
        Self { slot: event.slot(), event: Arc::new(event) }
    }
}

/// Reads the log; clones share what was read.
#[derive(Clone)]
pub(crate) struct LogReader {
    store: EventStore,
    recent: Arc<Mutex<Recent>>,
}

#[derive(Default)]
struct Recent {
    /// The least recently used in front.
    stretches: VecDeque<Stretch>,
    bytes: usize,
    /// In which life of the log they were read.
    incarnation: i64,
}

/// The events of the positions after `base`, from the first on, as many as are known.
struct Stretch {
    base: i64,
    events: Vec<Slotted>,
    bytes: usize,
}

impl LogReader {
    pub(crate) fn new(store: EventStore) -> Self {
        Self { store, recent: Arc::default() }
    }

    /// Events after a position and not after `end`, in order: as many as lie in one stretch, or in one range where that is
    /// far away. None where the log does not go on.
    pub(crate) async fn read(&self, after: i64, end: i64) -> Result<Vec<Slotted>, StoreError> {
        if end - after > FAR {
            return self.read_apart(after).await;
        }
        let base = after - after.rem_euclid(STRETCH);
        let end = end.min(base + STRETCH);
        // One reads while the others wait: most of them want just that.
        let mut recent = self.recent.lock().await;
        let incarnation = self.store.tail().incarnation();
        if recent.incarnation != incarnation {
            *recent = Recent { incarnation, ..Recent::default() };
        }
        let mut stretch = recent.take(base);
        let known = base + stretch.events.len() as i64;
        if known < end {
            for event in self.store.read_log(known, end - known).await? {
                stretch.bytes += size(&event);
                stretch.events.push(Slotted::new(event));
            }
        }
        let wanted = stretch.events.iter().skip(usize::try_from(after - base).unwrap_or(0));
        let wanted = wanted.take_while(|slotted| slotted.event.position <= end).cloned().collect();
        recent.put(stretch);
        Ok(wanted)
    }
}

impl LogReader {
    /// As much of one range as is good to have in memory.
    async fn read_apart(&self, after: i64) -> Result<Vec<Slotted>, StoreError> {
        let mut chunks = std::pin::pin!(self.store.log_as(after, after + RANGE, Slotted::new));
        let (mut read, mut bytes) = (Vec::new(), 0);
        while bytes < RANGE_BYTES
            && let Some(chunk) = chunks.try_next().await?
        {
            bytes += chunk.iter().map(|slotted| size(&slotted.event)).sum::<usize>();
            read.extend(chunk);
        }
        Ok(read)
    }
}

impl Recent {
    fn take(&mut self, base: i64) -> Stretch {
        match self.stretches.iter().position(|stretch| stretch.base == base) {
            Some(place) => {
                let stretch = self.stretches.remove(place);
                stretch.inspect(|stretch| self.bytes -= stretch.bytes)
            }
            None => None,
        }
        .unwrap_or(Stretch { base, events: Vec::new(), bytes: 0 })
    }

    fn put(&mut self, stretch: Stretch) {
        self.bytes += stretch.bytes;
        self.stretches.push_back(stretch);
        while self.bytes > KEPT_BYTES && self.stretches.len() > 1 {
            if let Some(oldest) = self.stretches.pop_front() {
                self.bytes -= oldest.bytes;
            }
        }
    }
}

/// About what an event takes in memory.
pub(crate) fn size(event: &RecordedEvent) -> usize {
    400 + event.payload.as_ref().map_or(0, String::len) + event.metadata.as_ref().map_or(0, String::len)
}
