//! A tenant's key for claims and fingerprints, in the key store.
//!
//! Format 1 of its file: `annals tenant key` ‖ 0x01 ‖ tenant 16 ‖ nonce 24 ‖ ciphertext of 32 bytes ‖ tag 16
//! (XChaCha20-Poly1305; the bytes before the nonce are authenticated), under HKDF-SHA-256 of the root key with
//! info = `annals tenant key v1` ‖ 0x00 ‖ tenant. It never changes: claims would not be found under another.

use std::path::{Path, PathBuf};

use eventstore::chain;
use uuid::Uuid;
use zeroize::Zeroizing;

use super::files::{self, KeyStoreError};
use super::keystore::{KeyStore, Replica, nonce};

const MAGIC: &[u8; 18] = b"annals tenant key\x01";
const LABEL: &[u8] = b"annals tenant key v1";
const FILE_BYTES: usize = MAGIC.len() + 16 + 24 + 32 + 16;

/// Wiped when dropped.
pub(super) type TenantKey = Zeroizing<Vec<u8>>;

fn header(tenant: Uuid) -> Vec<u8> {
    [MAGIC.as_slice(), tenant.as_bytes()].concat()
}

impl KeyStore {
    fn tenant_paths(&self, tenant: Uuid) -> [PathBuf; 2] {
        self.paths(&Path::new("tenants").join(format!("{tenant}.key")))
    }

    /// Makes the tenant's key in both copies unless it is there. Of processes that race one wins, and all see its key.
    pub fn create_tenant_key(&self, tenant: Uuid) -> Result<(), KeyStoreError> {
        if self.tenant_key(tenant)?.is_some() {
            return Ok(());
        }
        let mut key = Zeroizing::new(vec![0; 32]);
        getrandom::fill(&mut key)?;
        let bytes = self.root.seal_file(LABEL, &[tenant], &header(tenant), nonce()?, &key)?;
        let [first, _] = self.tenant_paths(tenant);
        files::create(&first, &bytes)?;
        // Reading gives the second copy what the first has now, whoever wrote that.
        self.tenant_key(tenant)?.map(drop).ok_or(KeyStoreError::Missing(first))
    }

    /// The tenant's key, none where it was never made. A copy that is missing or damaged is healed by the other.
    pub fn tenant_key(&self, tenant: Uuid) -> Result<Option<TenantKey>, KeyStoreError> {
        let [first, second] = self.tenant_paths(tenant);
        let read = |path: &Path| {
            Replica::read(path, FILE_BYTES, |bytes| {
                let key = self.root.open_file(LABEL, &[tenant], &header(tenant), bytes)?;
                Ok(key.filter(|key| key.len() == 32).map(|key| (bytes.to_vec(), key)))
            })
        };
        match (read(&first)?, read(&second)?) {
            (Replica::Whole((_, key)), Replica::Whole((_, copy))) => {
                if *key != *copy {
                    tracing::error!(%tenant, "the two copies of a tenant's key differ; the first is used");
                }
                Ok(Some(key))
            }
            (Replica::Whole((bytes, key)), other) => {
                heal(&second, &bytes, &other);
                Ok(Some(key))
            }
            (other, Replica::Whole((bytes, key))) => {
                heal(&first, &bytes, &other);
                // Another process may just have created the first copy anew.
                match read(&first)? {
                    Replica::Whole((_, winner)) => Ok(Some(winner)),
                    _ => Ok(Some(key)),
                }
            }
            (Replica::Missing, Replica::Missing) => Ok(None),
            (Replica::Refused(error), _) | (_, Replica::Refused(error)) => Err(error),
            _ => Err(KeyStoreError::Unreadable(first)),
        }
    }
}

/// Failing to heal is told but does not stop the reader: it has the key.
fn heal<T>(path: &Path, bytes: &[u8], found: &Replica<T>) {
    let healed = match found {
        Replica::Missing => files::create(path, bytes).map(drop),
        Replica::Damaged => files::replace(path, bytes),
        Replica::Whole(_) | Replica::Refused(_) => return,
    };
    match healed {
        Ok(()) => tracing::info!(path = %path.display(), "a copy of a tenant's key was written from the other"),
        Err(error) => {
            tracing::warn!(error = chain(&error), "a copy of a tenant's key could not be written from the other")
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::sync::{Arc, Barrier};

    use super::super::keystore::tests::{Dirs, root_key};
    use super::*;

    const TENANT: Uuid = Uuid::from_u128(7);

    #[test]
    fn of_two_processes_that_race_one_wins_and_both_read_its_key() {
        for round in 0..20 {
            let dirs = Dirs::new();
            let barrier = Arc::new(Barrier::new(4));
            let racers: Vec<_> = (0..4)
                .map(|_| {
                    let (store, barrier) = (dirs.open(1), barrier.clone());
                    std::thread::spawn(move || {
                        barrier.wait();
                        store.create_tenant_key(TENANT).unwrap();
                        store.tenant_key(TENANT).unwrap().unwrap()
                    })
                })
                .collect();
            let keys: Vec<_> = racers.into_iter().map(|racer| racer.join().unwrap()).collect();
            assert!(keys.windows(2).all(|pair| pair[0] == pair[1]), "round {round}");
            let [first, second] = dirs.open(1).tenant_paths(TENANT);
            assert_eq!(fs::read(first).unwrap(), fs::read(second).unwrap(), "round {round}");
        }
    }

    #[test]
    fn either_copy_heals_the_other_but_two_damaged_ones_are_never_replaced() {
        let dirs = Dirs::new();
        let store = dirs.open(1);
        assert!(store.tenant_key(TENANT).unwrap().is_none());
        store.create_tenant_key(TENANT).unwrap();
        let key = store.tenant_key(TENANT).unwrap().unwrap();
        let paths = store.tenant_paths(TENANT);
        let whole = fs::read(&paths[0]).unwrap();
        assert_eq!(whole.len(), FILE_BYTES);
        for path in &paths {
            for damage in [None, Some(Vec::new()), Some(whole[1..].to_vec()), Some([&whole[..], b"x"].concat())] {
                match damage {
                    Some(bytes) => fs::write(path, bytes).unwrap(),
                    None => fs::remove_file(path).unwrap(),
                }
                assert!(store.tenant_key(TENANT).unwrap().unwrap() == key);
                assert_eq!(fs::read(path).unwrap(), whole);
            }
        }
        for path in &paths {
            fs::write(path, b"damaged").unwrap();
        }
        assert!(matches!(store.create_tenant_key(TENANT), Err(KeyStoreError::Unreadable(_))));
        assert_eq!(fs::read(&paths[0]).unwrap(), b"damaged");
    }

    #[test]
    fn a_key_file_is_of_one_tenant_and_one_root_key() {
        let dirs = Dirs::new();
        let store = dirs.open(1);
        store.create_tenant_key(TENANT).unwrap();
        let other = Uuid::from_u128(8);
        for (from, to) in store.tenant_paths(TENANT).iter().zip(store.tenant_paths(other)) {
            fs::copy(from, to).unwrap();
        }
        assert!(matches!(store.tenant_key(other), Err(KeyStoreError::Unreadable(_))));
        let stranger = KeyStore { root: root_key(2), dirs: store.dirs.clone() };
        assert!(matches!(stranger.tenant_key(TENANT), Err(KeyStoreError::Unreadable(_))));
    }
}
