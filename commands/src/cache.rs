//! States of streams, as of their last known commit. A state is a hint: what appends is checked by its version, and what
//! refuses or changes nothing confirms the version first.

use std::any::Any;
use std::collections::HashSet;
use std::sync::{Arc, Mutex as SyncMutex, PoisonError};

use domain::Aggregate;
use eventstore::{Loaded, same_incarnation};
use moka::sync::Cache;
use tokio::sync::Mutex;
use uuid::Uuid;

/// How many streams are remembered; one takes about two kilobytes.
const STREAMS: u64 = 20_000;

type Slot = Arc<Mutex<Option<Remembered>>>;

/// A state, and the epoch under which it was true: in another incarnation of the log it may never have been.
pub(crate) struct Remembered {
    epoch: i64,
    state: Box<dyn Any + Send + Sync>,
}

impl Remembered {
    pub(crate) fn new<A: Aggregate>(epoch: i64, state: Loaded<A>) -> Self {
        Self { epoch, state: Box::new(state) }
    }
}

/// The streams that this process knows, each behind a lock: commands on one stream are decided one after the other.
#[derive(Clone)]
pub(crate) struct StreamCache {
    slots: Cache<(Uuid, Uuid), Slot>,
}

impl StreamCache {
    pub(crate) fn new() -> Self {
        Self { slots: Cache::new(STREAMS) }
    }

    /// The place of a stream's state. After an eviction two commands may hold two places; then one of them conflicts.
    pub(crate) fn slot(&self, tenant: Uuid, stream: Uuid) -> Slot {
        self.slots.get_with((tenant, stream), Slot::default)
    }

    pub(crate) fn known(&self, tenant: Uuid, stream: Uuid) -> Option<Slot> {
        let slot = self.slots.get(&(tenant, stream));
        metrics::counter!("annals_stream_cache_total", "hit" => if slot.is_some() { "yes" } else { "no" }).increment(1);
        slot
    }
}

/// The state in a slot, if it is of that kind and of the incarnation of that epoch.
pub(crate) fn state<A: Aggregate>(slot: &Option<Remembered>, epoch: i64) -> Option<Loaded<A>> {
    let known = slot.as_ref().filter(|known| same_incarnation(known.epoch, epoch));
    known.and_then(|known| known.state.downcast_ref::<Loaded<A>>()).cloned()
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
