//! What the vault remembers: open rings, and which slot a person has.
//!
//! Architecture Invariant: nothing read before a [`Caches::forget`] is trusted or kept after it. Each entry carries the
//! life of the cache it was read in, and the reader had its life before it began to read.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use eventstore::{SubjectRow, SubjectSlot};
use moka::policy::EvictionPolicy;
use moka::sync::Cache;
use uuid::Uuid;

use super::files::KeyStoreError;
use super::ring::Ring;

/// About 40 MB at most.
const SUBJECTS: u64 = 200_000;
/// 24 KB each.
const RINGS: usize = 1024;

/// Where a person's keys are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Subject {
    /// In this slot; `stored` once the log knows it too.
    Slot { ring: Uuid, slot: u8, stored: bool },
    /// Nowhere yet.
    Unnamed,
    /// Nowhere: the person was erased.
    Erased,
}

impl Subject {
    /// What the log says.
    pub(super) fn of_row(row: Option<&SubjectRow>) -> Result<Self, KeyStoreError> {
        match row.map(|row| (row.erased, row.ring, row.slot)) {
            Some((true, ..)) => Ok(Self::Erased),
            Some((false, Some(ring), Some(slot))) => {
                let slot = u8::try_from(slot).map_err(|_| KeyStoreError::NoSuchSlot(slot))?;
                Ok(Self::Slot { ring, slot, stored: true })
            }
            Some((false, ..)) | None => Ok(Self::Unnamed),
        }
    }

    /// Whether this is what the log says, and no other process can have made it untrue without raising the epoch.
    pub(super) fn is_settled(self) -> bool {
        matches!(self, Self::Slot { stored: true, .. } | Self::Erased)
    }
}

pub(super) struct Caches {
    seen: Mutex<Seen>,
    rings: Rings,
    subjects: Cache<(Uuid, Uuid), (u64, Subject)>,
}

/// The epoch that the cache's present life belongs to.
struct Seen {
    epoch: i64,
    life: u64,
}

impl Caches {
    pub(super) fn new(epoch: i64) -> Self {
        // The newest stay: one that waits for its first append must not be turned away, as the default policy might.
        let subjects = Cache::builder().max_capacity(SUBJECTS).eviction_policy(EvictionPolicy::lru()).build();
        Self { seen: Mutex::new(Seen { epoch, life: 0 }), rings: Rings::new(RINGS), subjects }
    }

    /// The present life. An epoch that this cache has not seen means that somebody was erased, so it begins another.
    pub(super) fn life(&self, epoch: i64) -> u64 {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if seen.epoch != epoch {
            seen.epoch = epoch;
            self.end(&mut seen);
        }
        seen.life
    }

    /// Drops every ring, its keys wiped, and trusts no slot any longer.
    pub(super) fn forget(&self) {
        self.end(&mut self.seen.lock().unwrap_or_else(PoisonError::into_inner));
    }

    fn end(&self, seen: &mut Seen) {
        seen.life += 1;
        self.rings.clear(seen.life);
    }

    pub(super) fn subject(&self, tenant: Uuid, subject: Uuid, life: u64) -> Option<Subject> {
        self.subjects.get(&(tenant, subject)).filter(|(of, _)| *of == life).map(|(_, subject)| subject)
    }

    pub(super) fn remember(&self, tenant: Uuid, subject: Uuid, life: u64, found: Subject) {
        self.subjects.insert((tenant, subject), (life, found));
    }

    /// Forgets one person's slot: another process was first, and the log knows which slot it is.
    pub(super) fn mistaken(&self, tenant: Uuid, subject: Uuid) {
        self.subjects.invalidate(&(tenant, subject));
    }

    /// The log has this slot now. It is trusted no longer than when it was given out: a tombstone may have followed.
    pub(super) fn stored(&self, tenant: Uuid, confirmed: &SubjectSlot) {
        let key = (tenant, confirmed.subject);
        if let Some((life, Subject::Slot { ring, slot, stored: false })) = self.subjects.get(&key)
            && ring == confirmed.ring
            && i16::from(slot) == confirmed.slot
        {
            self.subjects.insert(key, (life, Subject::Slot { ring, slot, stored: true }));
        }
    }

    pub(super) fn ring(&self, id: Uuid) -> Option<Arc<Ring>> {
        self.rings.get(id)
    }

    pub(super) fn keep_ring(&self, life: u64, ring: Arc<Ring>) {
        self.rings.put(life, ring);
    }
}

/// The rings held open, least recently used ones dropped first. Not moka, which frees what it drops some time later:
/// a forgotten key must be gone from memory when `forget` returns.
struct Rings {
    held: RwLock<Held>,
    clock: AtomicU64,
    capacity: usize,
}

struct Held {
    life: u64,
    rings: HashMap<Uuid, (Arc<Ring>, AtomicU64)>,
}

impl Rings {
    fn new(capacity: usize) -> Self {
        let held = Held { life: 0, rings: HashMap::new() };
        Self { held: RwLock::new(held), clock: AtomicU64::new(0), capacity }
    }

    fn get(&self, id: Uuid) -> Option<Arc<Ring>> {
        let held = self.held.read().unwrap_or_else(PoisonError::into_inner);
        let (ring, used) = held.rings.get(&id)?;
        used.store(self.clock.fetch_add(1, Ordering::Relaxed), Ordering::Relaxed);
        Some(ring.clone())
    }

    /// A ring read in an earlier life may hold keys that were destroyed since: it is not kept.
    fn put(&self, life: u64, ring: Arc<Ring>) {
        let mut held = self.held.write().unwrap_or_else(PoisonError::into_inner);
        if held.life != life {
            return;
        }
        if held.rings.len() >= self.capacity && !held.rings.contains_key(&ring.id()) {
            let oldest = held.rings.iter().min_by_key(|(_, (_, used))| used.load(Ordering::Relaxed)).map(|(id, _)| *id);
            if let Some(oldest) = oldest {
                held.rings.remove(&oldest);
            }
        }
        let now = self.clock.fetch_add(1, Ordering::Relaxed);
        held.rings.insert(ring.id(), (ring, AtomicU64::new(now)));
    }

    fn clear(&self, life: u64) {
        let mut held = self.held.write().unwrap_or_else(PoisonError::into_inner);
        held.life = life;
        held.rings.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TENANT: Uuid = Uuid::from_u128(1);
    const PERSON: Uuid = Uuid::from_u128(2);

    fn ring(id: u128) -> Arc<Ring> {
        Arc::new(Ring::generate(Uuid::from_u128(id), TENANT, |_| Ok::<_, ()>(())).unwrap())
    }

    #[test]
    fn nothing_read_in_an_earlier_life_is_trusted() {
        let caches = Caches::new(5);
        let slot = Subject::Slot { ring: Uuid::from_u128(9), slot: 3, stored: true };
        let before = caches.life(5);
        caches.remember(TENANT, PERSON, before, slot);
        caches.keep_ring(before, ring(9));
        assert_eq!(caches.subject(TENANT, PERSON, caches.life(5)), Some(slot));
        assert_eq!(caches.subject(Uuid::from_u128(8), PERSON, before), None, "another tenant's");

        let after = caches.life(6);
        assert_eq!(caches.subject(TENANT, PERSON, after), None);
        assert!(caches.ring(Uuid::from_u128(9)).is_none());
        // Both were being read while the epoch rose.
        caches.remember(TENANT, PERSON, before, slot);
        caches.keep_ring(before, ring(9));
        assert_eq!(caches.subject(TENANT, PERSON, after), None);
        assert!(caches.ring(Uuid::from_u128(9)).is_none());

        caches.keep_ring(after, ring(9));
        caches.forget();
        assert!(caches.ring(Uuid::from_u128(9)).is_none(), "the same epoch");
        assert_ne!(caches.life(6), after);
    }

    #[test]
    fn a_forgotten_ring_is_freed_at_once() {
        let caches = Caches::new(0);
        let ring = ring(9);
        let watch = Arc::downgrade(&ring);
        caches.keep_ring(caches.life(0), ring);
        assert!(watch.upgrade().is_some());
        caches.forget();
        assert!(watch.upgrade().is_none());
    }

    #[test]
    fn the_least_recently_used_ring_goes_first() {
        let rings = Rings::new(2);
        rings.put(0, ring(1));
        rings.put(0, ring(2));
        rings.get(Uuid::from_u128(1)).unwrap();
        rings.put(0, ring(2));
        rings.get(Uuid::from_u128(1)).unwrap();
        rings.put(0, ring(3));
        assert!(rings.get(Uuid::from_u128(2)).is_none());
        assert!(rings.get(Uuid::from_u128(1)).is_some() && rings.get(Uuid::from_u128(3)).is_some());
    }

    #[test]
    fn a_slot_is_stored_once_its_append_says_so() {
        let caches = Caches::new(0);
        let life = caches.life(0);
        let id = Uuid::from_u128(9);
        let pending = Subject::Slot { ring: id, slot: 3, stored: false };
        let confirmed = |slot| SubjectSlot { subject: PERSON, ring: id, slot };
        caches.remember(TENANT, PERSON, life, pending);
        caches.stored(TENANT, &confirmed(4));
        assert_eq!(caches.subject(TENANT, PERSON, life), Some(pending), "not this slot");
        caches.stored(Uuid::from_u128(8), &confirmed(3));
        assert_eq!(caches.subject(TENANT, PERSON, life), Some(pending), "not this tenant");
        caches.stored(TENANT, &confirmed(3));
        assert_eq!(caches.subject(TENANT, PERSON, life), Some(Subject::Slot { ring: id, slot: 3, stored: true }));
        caches.mistaken(TENANT, PERSON);
        assert_eq!(caches.subject(TENANT, PERSON, life), None);
    }

    #[test]
    fn a_row_of_the_log_says_where_the_keys_are() {
        let row = |ring, slot, erased| Subject::of_row(Some(&SubjectRow { ring, slot, erased }));
        let id = Uuid::from_u128(9);
        let ring = Some(id);
        assert_eq!(row(ring, Some(255), false).unwrap(), Subject::Slot { ring: id, slot: 255, stored: true });
        assert_eq!(row(ring, Some(255), true).unwrap(), Subject::Erased);
        assert_eq!(row(None, None, true).unwrap(), Subject::Erased);
        assert_eq!(row(None, None, false).unwrap(), Subject::Unnamed);
        assert_eq!(Subject::of_row(None).unwrap(), Subject::Unnamed);
        assert!(matches!(row(ring, Some(256), false), Err(KeyStoreError::NoSuchSlot(256))));
        assert!(row(ring, Some(-1), false).is_err());
    }
}
