//! The key store: files outside Postgres, two copies, shared by all processes of a house.
//!
//! ```text
//! root-key.check               tells a wrong root key at once
//! high-water                   how far the log had come (see high_water.rs)
//! tenants/<tenant>.key         a tenant's key for claims and fingerprints (see tenant_keys.rs)
//! rings/<tenant>/<ring>.ring   a keyring (see ring.rs)
//! rings/<tenant>/lock          who rewrites a ring of this tenant holds it
//! ```
//!
//! A ring is written in five steps, by whoever creates, heals or destroys: **stage** the new bytes beside each copy and
//! read them back; **swap** them in, keeping the old file under a second name; **verify** both copies; **sweep**, that
//! is overwrite the old bytes and remove them. A process killed between any two leaves files from which the next one
//! goes on: what counts is the highest generation that reads, and old bytes go only once that is whole in both copies.
//! Losing both copies loses the personal data for good.

use std::path::{Path, PathBuf};

use domain::RetentionClass;
use eventstore::chain;
use subtle::ConstantTimeEq;
use uuid::Uuid;

use super::files::{self, KeyStoreError, beside};
use super::ring::{FILE_BYTES, Ring};
use super::root::RootKey;

const CHECK: &[u8; 22] = b"annals root key check\x01";
const NEW: &str = ".new";
const OLD: &str = ".old";

/// The files of one house. Every method blocks.
#[derive(Debug)]
pub struct KeyStore {
    pub(super) root: RootKey,
    pub(super) dirs: [PathBuf; 2],
}

/// What one of the two copies of a file turned out to be.
pub(super) enum Replica<T> {
    Whole(T),
    Missing,
    Damaged,
    /// The system can't read it now: the other copy may serve, but must not be written over this one.
    Refused(KeyStoreError),
}

impl<T> Replica<T> {
    /// Reads a copy.
    pub(super) fn read(
        path: &Path,
        limit: usize,
        decode: impl FnOnce(&[u8]) -> Result<Option<T>, KeyStoreError>,
    ) -> Result<Self, KeyStoreError> {
        match files::read(path, limit) {
            Ok(Some(bytes)) => Ok(decode(&bytes)?.map_or(Self::Damaged, Self::Whole)),
            Ok(None) => Ok(Self::Missing),
            Err(error) => {
                tracing::warn!(error = chain(&error), "a file of the key store can't be read");
                Ok(Self::Refused(error))
            }
        }
    }
}

/// 24 random bytes: at this length chance never repeats itself.
pub(super) fn nonce() -> Result<[u8; 24], getrandom::Error> {
    let mut nonce = [0; 24];
    getrandom::fill(&mut nonce)?;
    Ok(nonce)
}

impl KeyStore {
    /// Opens the store in two directories, making them where they are not; refuses another root key than the store's.
    pub fn open(root: RootKey, dir: PathBuf, copy_dir: PathBuf) -> Result<Self, KeyStoreError> {
        let store = Self { root, dirs: [dir, copy_dir] };
        for dir in &store.dirs {
            files::make_dirs(&dir.join("tenants"))?;
            files::make_dirs(&dir.join("rings"))?;
        }
        let [first, second] = &store.dirs;
        let same = first.canonicalize().and_then(|first| Ok(first == second.canonicalize()?));
        if files::at("read", first, same)? {
            return Err(KeyStoreError::OneDirectory(first.clone()));
        }
        store.check_root_key()?;
        Ok(store)
    }

    fn check_root_key(&self) -> Result<(), KeyStoreError> {
        let mut expected = CHECK.to_vec();
        expected.extend_from_slice(self.root.check()?.as_slice());
        let paths = self.paths(Path::new("root-key.check"));
        let mut lacking = Vec::with_capacity(paths.len());
        for path in &paths {
            let found = files::read(path, expected.len())?;
            match found.filter(|found| found.len() == expected.len() && found.starts_with(CHECK)) {
                Some(found) if bool::from(found.ct_eq(&expected)) => {}
                Some(_) => return Err(KeyStoreError::WrongRootKey(path.clone())),
                None => lacking.push(path),
            }
        }
        if lacking.len() == 1 {
            tracing::warn!(path = %lacking[0].display(), "one copy of the key store is new or damaged: is its disk there?");
        }
        lacking.into_iter().try_for_each(|path| files::replace(path, &expected))
    }

    pub(super) fn paths(&self, relative: &Path) -> [PathBuf; 2] {
        self.dirs.each_ref().map(|dir| dir.join(relative))
    }

    fn ring_paths(&self, tenant: Uuid, ring: Uuid) -> [PathBuf; 2] {
        self.paths(&Path::new("rings").join(tenant.to_string()).join(format!("{ring}.ring")))
    }

    fn lock_rings(&self, tenant: Uuid) -> Result<std::fs::File, KeyStoreError> {
        for dir in &self.dirs {
            files::make_dir(&dir.join("rings").join(tenant.to_string()))?;
        }
        files::lock(&self.dirs[0].join("rings").join(tenant.to_string()).join("lock"))
    }

    fn read_copy(&self, path: &Path, tenant: Uuid, id: Uuid) -> Result<Replica<Ring>, KeyStoreError> {
        Replica::read(path, FILE_BYTES, |bytes| Ok(Ring::decode(&self.root, id, tenant, bytes)?))
    }

    /// The copy of a ring that counts, and whether both copies are that one.
    fn newest(&self, tenant: Uuid, id: Uuid) -> Result<(Ring, bool), KeyStoreError> {
        let [first, second] = self.ring_paths(tenant, id);
        match (self.read_copy(&first, tenant, id)?, self.read_copy(&second, tenant, id)?) {
            (Replica::Whole(one), Replica::Whole(two)) => {
                let same = one.same_as(&two);
                Ok((one.newest(two), same))
            }
            (Replica::Whole(one), _) | (_, Replica::Whole(one)) => Ok((one, false)),
            (Replica::Missing, Replica::Missing) => Err(KeyStoreError::Missing(first)),
            (Replica::Refused(error), _) | (_, Replica::Refused(error)) => Err(error),
            _ => Err(KeyStoreError::Unreadable(first)),
        }
    }

    /// A new ring of random keys, in both copies.
    pub fn create_ring(&self, tenant: Uuid) -> Result<Ring, KeyStoreError> {
        let ring = Ring::generate(Uuid::now_v7(), tenant, getrandom::fill)?;
        let _lock = self.lock_rings(tenant)?;
        self.settle(&ring)?;
        Ok(ring)
    }

    /// A ring. Where its copies differ, the one that counts heals the other; where that fails, it is served all the
    /// same, because reading must go on when a disk is full.
    pub fn ring(&self, tenant: Uuid, id: Uuid) -> Result<Ring, KeyStoreError> {
        let (ring, whole) = self.newest(tenant, id)?;
        if whole {
            return Ok(ring);
        }
        tracing::warn!(%tenant, ring = %id, "the copies of a keyring differ; one heals the other");
        // Read again under the lock: they also differ while another process is at work on them.
        let healed = self.lock_rings(tenant).and_then(|_lock| {
            let (newest, whole) = self.newest(tenant, id)?;
            if !whole {
                self.settle(&newest)?;
            }
            Ok(newest)
        });
        healed.or_else(|error| {
            tracing::warn!(error = chain(&error), %tenant, ring = %id, "a keyring could not be healed");
            Ok(self.newest(tenant, id)?.0)
        })
    }

    /// Destroys the keys of one slot's classes in both copies, and returns once no copy has them. May be repeated, and
    /// goes on where an earlier call was killed.
    pub fn destroy(&self, tenant: Uuid, id: Uuid, slot: u8, classes: &[RetentionClass]) -> Result<(), KeyStoreError> {
        let _lock = self.lock_rings(tenant)?;
        let (ring, _) = self.newest(tenant, id)?;
        if classes.iter().all(|class| ring.key(slot, *class).is_none()) {
            return self.settle(&ring);
        }
        let next = ring.without(slot, classes);
        if !ring.survives_in(&next, slot, classes) {
            return Err(KeyStoreError::NotVerified(self.ring_paths(tenant, id)[0].clone()));
        }
        self.settle(&next)
    }

    /// Makes both copies this ring, and leaves nothing of what they were before. The caller holds the lock.
    fn settle(&self, ring: &Ring) -> Result<(), KeyStoreError> {
        let paths = self.ring_paths(ring.tenant(), ring.id());
        let mut outdated = Vec::with_capacity(paths.len());
        for path in &paths {
            if !self.holds(path, ring)? {
                outdated.push(path);
            }
        }
        if !outdated.is_empty() {
            let bytes = ring.encode(&self.root, nonce()?)?;
            for path in &outdated {
                self.stage(path, ring, &bytes)?;
            }
        }
        for path in &outdated {
            self.swap(path)?;
        }
        for path in &paths {
            self.verify(path, ring)?;
        }
        for path in &paths {
            self.sweep(path)?;
        }
        Ok(())
    }

    fn holds(&self, path: &Path, ring: &Ring) -> Result<bool, KeyStoreError> {
        match self.read_copy(path, ring.tenant(), ring.id())? {
            Replica::Whole(found) => Ok(found.same_as(ring)),
            Replica::Missing | Replica::Damaged => Ok(false),
            Replica::Refused(error) => Err(error),
        }
    }

    fn stage(&self, path: &Path, ring: &Ring, bytes: &[u8]) -> Result<(), KeyStoreError> {
        let new = beside(path, NEW);
        // A killed run may have left one with keys that are destroyed by now.
        files::shred(&new, path)?;
        files::write(&new, bytes)?;
        self.verify(&new, ring)
    }

    fn swap(&self, path: &Path) -> Result<(), KeyStoreError> {
        let old = beside(path, OLD);
        files::shred(&old, path)?;
        files::keep(path, &old)?;
        files::rename(&beside(path, NEW), path)
    }

    fn verify(&self, path: &Path, ring: &Ring) -> Result<(), KeyStoreError> {
        if self.holds(path, ring)? { Ok(()) } else { Err(KeyStoreError::NotVerified(path.to_owned())) }
    }

    fn sweep(&self, path: &Path) -> Result<(), KeyStoreError> {
        files::shred(&beside(path, OLD), path)?;
        files::shred(&beside(path, NEW), path)
    }
}

#[cfg(test)]
#[path = "keystore_tests.rs"]
pub(super) mod tests;
