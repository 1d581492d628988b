//! States of streams, as of their last known commit, and the newest that is on its way. A state is a hint: what appends
//! is checked by its version, and what refuses or changes nothing confirms the version first.
//!
//! Architecture Invariant: what is not committed is decided upon and never answered.

use std::any::Any;
use std::collections::HashSet;
use std::io::Write;
use std::sync::{Arc, Mutex as SyncMutex, PoisonError};

use domain::Aggregate;
use eventstore::{Loaded, Pending, same_incarnation};
use moka::sync::Cache;
use tokio::sync::Mutex;
use uuid::Uuid;

/// How many bytes the remembered streams may take, as they are weighed.
const BYTES: u64 = 64 * 1024 * 1024;
/// What a stream takes beside its state: its place here, its locks.
const PLACE: usize = 400;

/// A state is weighed again once at least so many bytes were appended to its stream.
const WEIGHED_AGAIN: usize = 4 * 1024;

/// Commands on one stream are decided one after the other; nobody holds this while waiting for a commit.
pub(crate) type Place<A> = Arc<Mutex<Stream<A>>>;

/// What this process knows of one stream.
#[derive(Debug)]
pub(crate) struct Stream<A> {
    /// The epoch under which the states were true: in another incarnation of the log they may never have been.
    epoch: i64,
    committed: Option<Arc<Loaded<A>>>,
    /// The state after the newest append, which is on its way. Its sequence is not known yet.
    tip: Option<(Arc<Loaded<A>>, Pending)>,
    /// How many bytes were appended since the state was weighed, and what it weighed.
    grown: usize,
    weighed: usize,
}

impl<A> Default for Stream<A> {
    fn default() -> Self {
        Self { epoch: 0, committed: None, tip: None, grown: 0, weighed: 0 }
    }
}

impl<A: Aggregate> Stream<A> {
    /// Forgets what was true in another incarnation than that of the epoch.
    pub(crate) fn at(&mut self, epoch: i64) -> &mut Self {
        if !same_incarnation(self.epoch, epoch) {
            (self.committed, self.tip) = (None, None);
        }
        self.epoch = epoch;
        self
    }

    /// The newest state on its way, if one is.
    pub(crate) fn tip(&mut self) -> Option<(Arc<Loaded<A>>, Pending)> {
        self.settle();
        self.tip.clone()
    }

    /// The last state that is known to be committed.
    pub(crate) fn committed(&mut self) -> Option<Arc<Loaded<A>>> {
        self.settle();
        self.committed.clone()
    }

    /// An append of so many bytes was handed over.
    pub(crate) fn advance(&mut self, after: Arc<Loaded<A>>, pending: Pending, bytes: usize) {
        self.tip = Some((after, pending));
        self.grown += bytes;
    }

    /// A state is committed.
    pub(crate) fn learn(&mut self, loaded: Arc<Loaded<A>>) {
        if self.committed.as_ref().is_none_or(|known| known.version < loaded.version) {
            self.committed = Some(loaded);
        }
    }

    /// Something was not as it seemed: the log is asked next time.
    pub(crate) fn forget(&mut self) {
        self.committed = None;
    }

    /// Takes in what has become of the newest append, if that is known.
    pub(crate) fn settle(&mut self) {
        let Some((loaded, outcome)) = self.tip.take_if(|(_, pending)| pending.settled().is_some()) else { return };
        match outcome.settled() {
            Some(Ok(committed)) => {
                let sequence = committed.sequence;
                self.learn(Arc::new(Loaded { sequence, ..(*loaded).clone() }));
            }
            _ => self.forget(),
        }
    }

    /// What the state weighs, where that may be much more than when it was weighed last: weighing costs as much as
    /// writing the state down.
    fn weigh(&mut self) -> Option<u32> {
        let loaded = self.committed.as_ref()?;
        if self.weighed > 0 && self.grown < self.weighed.max(WEIGHED_AGAIN) {
            return None;
        }
        let mut text = Counted(0);
        // As text it is about half of what it takes in memory.
        let _ = serde_json::to_writer(&mut text, &loaded.state);
        self.weighed = PLACE + size_of::<Loaded<A>>() + text.0 * 2;
        self.grown = 0;
        u32::try_from(self.weighed).ok()
    }
}

/// Counts what is written to it.
struct Counted(usize);

impl Write for Counted {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0 += bytes.len();
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// A [`Place`] of whatever kind, and what it weighs.
#[derive(Clone)]
struct Entry {
    place: Arc<dyn Any + Send + Sync>,
    bytes: u32,
}

/// The streams that this process knows.
#[derive(Clone)]
pub(crate) struct StreamCache {
    entries: Cache<(Uuid, Uuid), Entry>,
}

impl StreamCache {
    pub(crate) fn new() -> Self {
        Self::of_bytes(BYTES)
    }

    fn of_bytes(bytes: u64) -> Self {
        let entries = Cache::builder().max_capacity(bytes).weigher(|_, entry: &Entry| entry.bytes).build();
        Self { entries }
    }

    /// The place of a stream. After an eviction two commands may hold two places; then one of them conflicts.
    pub(crate) fn place<A: Aggregate>(&self, tenant: Uuid, stream: Uuid) -> Place<A> {
        let empty = || Entry { place: Arc::new(Mutex::new(Stream::<A>::default())), bytes: PLACE as u32 };
        let entry = self.entries.get_with((tenant, stream), empty);
        // A stream of another kind has that id: the log will say so.
        entry.place.downcast().unwrap_or_default()
    }

    /// The place of a stream that is remembered.
    pub(crate) fn known<A: Aggregate>(&self, tenant: Uuid, stream: Uuid) -> Option<Place<A>> {
        self.entries.get(&(tenant, stream)).and_then(|entry| entry.place.downcast().ok())
    }

    /// Notes what a stream weighs now, where it has grown.
    pub(crate) fn weigh<A: Aggregate>(&self, tenant: Uuid, stream: Uuid, place: &Place<A>, known: &mut Stream<A>) {
        let Some(bytes) = known.weigh() else { return };
        let entry = Entry { place: place.clone(), bytes };
        self.entries.insert((tenant, stream), entry);
        metrics::gauge!("annals_stream_cache_bytes").set(self.entries.weighted_size() as f64);
    }
}

/// Counts how often a stream's state was in memory.
pub(crate) fn count(hit: bool) {
    metrics::counter!("annals_stream_cache_total", "hit" => if hit { "yes" } else { "no" }).increment(1);
}

/// The keyed requests that this process is carrying out.
#[derive(Clone, Default)]
pub(crate) struct InFlight {
    keys: Arc<SyncMutex<HashSet<Key>>>,
}

/// Tenant, hash of the caller's key, item.
type Key = (Uuid, [u8; 32], i32);

/// A keyed request that is being carried out, until this is dropped.
pub(crate) struct Flight {
    keys: InFlight,
    key: Key,
}

impl InFlight {
    /// `None` where a request with the same key is being carried out.
    pub(crate) fn begin(&self, key: Key) -> Option<Flight> {
        let began = self.keys.lock().unwrap_or_else(PoisonError::into_inner).insert(key);
        began.then(|| Flight { keys: self.clone(), key })
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        self.keys.keys.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.key);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that panics has failed")]
mod tests {
    use domain::billing::Plan;

    use super::*;

    fn loaded(version: i64) -> Arc<Loaded<Plan>> {
        Arc::new(Loaded { version, ..Loaded::default() })
    }

    #[test]
    fn a_stream_is_weighed_when_it_is_learnt_and_again_once_much_was_appended() {
        let mut stream = Stream::<Plan>::default();
        assert_eq!(stream.weigh(), None, "nothing is known of it");
        stream.learn(loaded(1));
        let weight = stream.weigh().unwrap();
        assert!(weight as usize > PLACE);
        stream.learn(loaded(2));
        assert_eq!(stream.weigh(), None, "it has hardly grown");
        stream.grown = WEIGHED_AGAIN;
        assert_eq!(stream.weigh(), Some(weight));
        assert_eq!(stream.weigh(), None);
    }

    #[test]
    fn what_is_only_read_counts_too() {
        let cache = StreamCache::of_bytes(BYTES);
        let (tenant, stream) = (Uuid::from_u128(1), Uuid::from_u128(2));
        let place = cache.place::<Plan>(tenant, stream);
        let mut known = place.try_lock().unwrap();
        known.learn(loaded(1));
        cache.weigh(tenant, stream, &place, &mut known);
        cache.entries.run_pending_tasks();
        assert!(cache.entries.weighted_size() > PLACE as u64, "{}", cache.entries.weighted_size());
    }
}
