//! The keys at hand: which slot each person has, the open rings, and the slots still to be given out. Asks the log
//! nothing; the vault brings what the log says.

use std::collections::HashMap;
use std::sync::Arc;

use domain::RetentionClass;
use eventstore::SubjectRow;
use moka::sync::Cache;
use serde_json::Value;
use tokio::sync::{Mutex, Semaphore};
use uuid::Uuid;

use super::VaultError;
use super::cache::{Caches, Subject};
use super::files::KeyStoreError;
use super::keystore::{KeyStore, nonce};
use super::ring::Ring;
use super::seal::{self, Address, Envelope, SealError};
use super::walk::{self, OpenPlace};

/// Tenants whose current ring is remembered; for one beyond these the rest of a ring's slots stays unused.
const TENANTS: u64 = 10_000;
/// Rings read at one time, so that a cold cache does not fill the pool of blocking threads.
const READS: usize = 4;
/// Values opened before others have their turn: the answer to a batch holds a thousand, which take a core for longer than
/// a command takes in all.
const OPENED_AT_A_TIME: usize = 16;

pub(super) struct Keys {
    files: Arc<KeyStore>,
    pub(super) caches: Caches,
    current: Cache<Uuid, Arc<Mutex<Option<Current>>>>,
    reads: Semaphore,
}

/// The ring that this process gives out a tenant's slots of. After a restart it begins another, so that no slot is
/// ever given out twice and none needs a file of its own.
struct Current {
    ring: Uuid,
    next: Option<u8>,
}

/// All that is needed to seal or open values about some people, without waiting for anything.
pub(super) struct Resolved {
    /// In the order of their ids.
    subjects: Vec<(Uuid, Subject)>,
    rings: HashMap<Uuid, Arc<Ring>>,
}

/// A person's key of one class.
enum Found<'a> {
    Key(&'a [u8; 32]),
    Erased,
    /// The ring is there, and the key was taken out of it.
    Destroyed,
    Missing,
}

/// A key that should be there is not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct MissingKey {
    pub subject: Uuid,
    pub class: RetentionClass,
    /// Whether it was destroyed, as an erasure does, rather than lost with its ring.
    pub destroyed: bool,
}

impl Keys {
    pub(super) fn new(files: Arc<KeyStore>, epoch: i64) -> Self {
        let current = Cache::new(TENANTS);
        Self { files, caches: Caches::new(epoch), current, reads: Semaphore::new(READS) }
    }

    /// What the log says about a person, remembered from now on.
    pub(super) fn note(
        &self,
        tenant: Uuid,
        subject: Uuid,
        row: Option<&SubjectRow>,
        life: u64,
    ) -> Result<Subject, KeyStoreError> {
        let found = Subject::of_row(row)?;
        // While the log was asked, another caller may have given the person a slot.
        let known = self.caches.subject(tenant, subject, life).filter(|_| found == Subject::Unnamed);
        if known.is_none() {
            self.caches.remember(tenant, subject, life, found);
        }
        Ok(known.unwrap_or(found))
    }

    /// The next free slot, for a person who has none yet.
    pub(super) async fn allot(&self, tenant: Uuid, subject: Uuid, life: u64) -> Result<Subject, VaultError> {
        let current = self.current.get_with(tenant, Arc::default);
        let mut current = current.lock().await;
        // Another caller may have named the same person meanwhile.
        if let Some(known) = self.caches.subject(tenant, subject, life).filter(|known| *known != Subject::Unnamed) {
            return Ok(known);
        }
        let (ring, slot) = match current.as_ref().and_then(|current| Some((current.ring, current.next?))) {
            Some(free) => free,
            None => {
                let ring = self.blocking(move |files| files.create_ring(tenant)).await?;
                let first = (ring.id(), 0);
                self.caches.keep_ring(life, Arc::new(ring));
                first
            }
        };
        *current = Some(Current { ring, next: slot.checked_add(1) });
        let pending = Subject::Slot { ring, slot, stored: false };
        self.caches.remember(tenant, subject, life, pending);
        Ok(pending)
    }

    /// Opens the rings of these people, who come in the order of their ids. A ring that is not there at all leaves their keys missing.
    pub(super) async fn resolve(
        &self,
        tenant: Uuid,
        subjects: Vec<(Uuid, Subject)>,
        life: u64,
    ) -> Result<Resolved, VaultError> {
        let mut resolved = Resolved { subjects, rings: HashMap::new() };
        let mut unread = resolved.take_from(&self.caches);
        if !unread.is_empty() {
            let _turn = self.reads.acquire().await;
            // Whoever had the turn before may have read the same rings.
            unread = resolved.take_from(&self.caches);
            let read = self.blocking(move |files| {
                let rings = unread.into_iter().map(|id| match files.ring(tenant, id) {
                    Err(KeyStoreError::Missing(_)) => Ok(None),
                    read => read.map(Some),
                });
                rings.collect::<Result<Vec<_>, _>>()
            });
            for ring in read.await?.into_iter().flatten().map(Arc::new) {
                metrics::counter!("annals_vault_rings_read_total").increment(1);
                self.caches.keep_ring(life, ring.clone());
                resolved.rings.insert(ring.id(), ring);
            }
        }
        Ok(resolved)
    }

    /// Runs work on the key store's files where it may block.
    pub(super) async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&KeyStore) -> Result<T, KeyStoreError> + Send + 'static,
    ) -> Result<T, VaultError> {
        let files = self.files.clone();
        let done = tokio::task::spawn_blocking(move || work(&files)).await;
        Ok(done.map_err(|_| VaultError::Interrupted)??)
    }
}

impl Resolved {
    /// Takes the rings that are open already and returns those still to be read.
    fn take_from(&mut self, caches: &Caches) -> Vec<Uuid> {
        let mut unread = Vec::new();
        for (_, known) in &self.subjects {
            let Subject::Slot { ring: id, .. } = known else { continue };
            if self.rings.contains_key(id) || unread.contains(id) {
                continue;
            }
            match caches.ring(*id) {
                Some(ring) => {
                    self.rings.insert(*id, ring);
                }
                None => unread.push(*id),
            }
        }
        unread
    }

    /// Where a person's keys are.
    pub(super) fn subject(&self, id: Uuid) -> Subject {
        let at = self.subjects.binary_search_by_key(&id, |(id, _)| *id);
        at.map_or(Subject::Unnamed, |at| self.subjects[at].1)
    }

    fn key(&self, subject: Uuid, class: RetentionClass) -> Found<'_> {
        match self.subject(subject) {
            Subject::Erased => Found::Erased,
            Subject::Slot { ring, slot, .. } => {
                let ring = self.rings.get(&ring).map(|ring| ring.key(slot, class));
                ring.map_or(Found::Missing, |key| key.map_or(Found::Destroyed, Found::Key))
            }
            Subject::Unnamed => Found::Missing,
        }
    }

    /// One of these keys that should be there and is not, a lost one before one that was destroyed.
    pub(super) fn missing(&self, needed: impl Iterator<Item = (Uuid, RetentionClass)>) -> Option<MissingKey> {
        let missing = needed.filter_map(|(subject, class)| match self.key(subject, class) {
            Found::Key(_) | Found::Erased => None,
            Found::Destroyed => Some(MissingKey { subject, class, destroyed: true }),
            Found::Missing => Some(MissingKey { subject, class, destroyed: false }),
        });
        missing.min_by_key(|missing| missing.destroyed)
    }

    /// Seals the open values of a payload. No key may be lost.
    pub(super) fn seal(
        &self,
        tenant: Uuid,
        event: Uuid,
        payload: &str,
        places: &[OpenPlace<'_>],
    ) -> Result<String, VaultError> {
        walk::replace(payload, places, |place| {
            let at = Address { tenant, subject: place.subject, event, path: &place.path };
            match self.key(place.subject, place.class) {
                Found::Key(key) => {
                    let nonce = nonce().map_err(KeyStoreError::from)?;
                    Ok(seal::seal(key, place.class, at, nonce, place.json)?)
                }
                Found::Erased | Found::Destroyed => Err(VaultError::SubjectErased(place.subject)),
                Found::Missing => Err(VaultError::KeyMissing { subject: place.subject, class: place.class }),
            }
        })
    }

    /// Puts what each envelope holds in its place, or null where its person was erased. No key may be lost.
    pub(super) async fn open(&self, tenant: Uuid, places: Vec<(&mut Value, Envelope)>) -> Result<(), VaultError> {
        for (number, (place, envelope)) in places.into_iter().enumerate() {
            if number % OPENED_AT_A_TIME == OPENED_AT_A_TIME - 1 {
                tokio::task::yield_now().await;
            }
            let (subject, class) = (envelope.address().subject, envelope.class());
            *place = match self.key(subject, class) {
                Found::Key(key) => {
                    let json = envelope.open(tenant, key)?;
                    // Without its source, which might quote the value.
                    serde_json::from_slice(&json).map_err(|_| SealError::Malformed)?
                }
                Found::Erased | Found::Destroyed => Value::Null,
                Found::Missing => return Err(VaultError::KeyMissing { subject, class }),
            };
        }
        Ok(())
    }
}

#[cfg(test)]
#[path = "keys_tests.rs"]
mod tests;
