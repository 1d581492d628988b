//! The vault: seals personal values with their subject's keys, opens them for those who may read them, and destroys the
//! keys of whoever is erased.
//!
//! Architecture Invariant: only a process that holds its lease seals or opens (the one that destroys keys waits for the
//! others' leases), and whatever it remembers of keys and slots goes whenever the epoch rises, that is with each
//! tombstone.

mod cache;
mod files;
mod high_water;
mod kdf;
mod keys;
mod keystore;
mod mac;
mod ring;
mod root;
mod seal;
mod tenant_keys;
mod walk;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::hmac;
use domain::RetentionClass;
use eventstore::{EventStore, StoreError, SubjectSlot};
use moka::sync::Cache;
use serde_json::Value;
use uuid::Uuid;

pub use files::KeyStoreError;
pub use high_water::HighWaterFile;
pub use root::{RootKey, RootKeyError};
pub use seal::SealError;
pub use walk::WalkError;

use cache::Subject;
use keys::{Keys, MissingKey, Resolved};
use keystore::KeyStore;

/// Tenants whose key is remembered, under 1 KB each.
const TENANT_KEYS: u64 = 16_384;
/// How long nothing more is told of the missing keys of one person.
const ALARMED: Duration = Duration::from_secs(3_600);
/// How often a call begins anew because an epoch rose under it: erasures come one by one, calls take milliseconds.
const ATTEMPTS: usize = 8;

/// Why the vault could not do what was asked. None of these ever shows a value or a key.
#[derive(Debug, thiserror::Error)]
pub enum VaultError {
    /// Another process may be destroying keys.
    #[error("this process may not use personal data now: its lease has run out")]
    LeaseLost,
    /// Nothing is sealed for somebody who was erased.
    #[error("the person {0} was erased")]
    SubjectErased(Uuid),
    /// Keys are destroyed only after the tombstone is in the log.
    #[error("the person {0} has no tombstone")]
    NotErased(Uuid),
    /// An alarm: the key is gone and nobody erased the person.
    #[error("the key `{class:?}` of the person {subject} is missing")]
    KeyMissing {
        /// Whose.
        subject: Uuid,
        /// Which.
        class: RetentionClass,
    },
    /// The tenant was never given a key, or both of its files are gone.
    #[error("the tenant {0} has no key")]
    TenantKeyMissing(Uuid),
    /// The body of a request has no canonical form.
    #[error("the body has no canonical form")]
    Canonical(#[source] serde_json::Error),
    /// The payload can't be sealed.
    #[error(transparent)]
    Payload(#[from] WalkError),
    /// A value can't be sealed or opened.
    #[error(transparent)]
    Seal(#[from] SealError),
    /// The key store failed.
    #[error("the key store failed")]
    KeyStore(#[from] KeyStoreError),
    /// The log failed.
    #[error("the log did not tell whose keys are where")]
    Store(#[from] StoreError),
    /// The process is ending.
    #[error("the work on the key store was interrupted")]
    Interrupted,
}

/// Where the keys are.
#[derive(Debug)]
pub struct VaultConfig {
    /// What wraps them.
    pub root_key: RootKey,
    /// The key store.
    pub dir: PathBuf,
    /// Its copy, best on another disk.
    pub copy_dir: PathBuf,
}

/// A payload as it may be stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sealed {
    /// The JSON text, nothing personal in the clear.
    pub payload: String,
    /// Whom its sealed values are about, each once, in order.
    pub subjects: Vec<Uuid>,
    /// The slots that the append has to store with it.
    pub new_slots: Vec<SubjectSlot>,
}

/// The vault of one process; a clone is the same vault.
#[derive(Clone)]
pub struct Vault(Arc<Inner>);

struct Inner {
    keys: Keys,
    store: EventStore,
    tenant_keys: Cache<Uuid, Arc<hmac::Key>>,
    /// Whose missing keys were told of lately: each read would tell of them again.
    alarmed: Cache<Uuid, ()>,
}

impl std::fmt::Debug for Vault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Vault(…)")
    }
}

impl Vault {
    /// Opens the key store, making it where it is not. Blocks; call it while starting.
    pub fn open(config: VaultConfig, store: EventStore) -> Result<Self, VaultError> {
        let files = Arc::new(KeyStore::open(config.root_key, config.dir, config.copy_dir)?);
        let keys = Keys::new(files, store.epoch());
        let alarmed = Cache::builder().max_capacity(TENANT_KEYS).time_to_live(ALARMED).build();
        Ok(Self(Arc::new(Inner { keys, store, tenant_keys: Cache::new(TENANT_KEYS), alarmed })))
    }

    /// Seals every `{"$open": …}` of an event's payload to the path where it stands. A payload without any is returned
    /// as it is, and needs no lease.
    pub async fn seal(&self, tenant: Uuid, event_id: Uuid, payload: String) -> Result<Sealed, VaultError> {
        let places = walk::open_places(&payload)?;
        if places.is_empty() {
            drop(places);
            return Ok(Sealed { payload, subjects: Vec::new(), new_slots: Vec::new() });
        }
        let mut subjects: Vec<Uuid> = places.iter().map(|place| place.subject).collect();
        subjects.sort_unstable();
        subjects.dedup();
        for _ in 0..ATTEMPTS {
            let life = self.life()?;
            let mut known = self.look_up(tenant, &subjects, life, |_| true).await?;
            refuse_erased(&known)?;
            for (subject, known) in known.iter_mut().filter(|(_, known)| *known == Subject::Unnamed) {
                *known = self.0.keys.allot(tenant, *subject, life).await?;
            }
            let resolved = self.0.keys.resolve(tenant, known, life).await?;
            if self.life()? != life {
                continue;
            }
            if let Some(missing) = resolved.missing(places.iter().map(|place| (place.subject, place.class)))
                && self.explain(tenant, missing, life).await?
            {
                continue;
            }
            let payload = resolved.seal(tenant, event_id, &payload, &places)?;
            return Ok(Sealed { payload, new_slots: new_slots(&resolved, &subjects), subjects });
        }
        Err(VaultError::LeaseLost)
    }

    /// Opens every `{"$sealed": …}` of a JSON value in its place; null where the person was erased, or the key destroyed. On an error some
    /// places may be open already: the value must not be shown.
    pub async fn open_value(&self, tenant: Uuid, value: &mut Value) -> Result<(), VaultError> {
        let mut places = Vec::new();
        walk::sealed_places(value, &mut places)?;
        if places.is_empty() {
            return Ok(());
        }
        let mut subjects = Vec::with_capacity(places.len());
        for (_, envelope) in &places {
            let address = envelope.address();
            if address.tenant != tenant {
                return Err(SealError::OtherTenant.into());
            }
            subjects.push(address.subject);
        }
        subjects.sort_unstable();
        subjects.dedup();
        for _ in 0..ATTEMPTS {
            let life = self.life()?;
            // Nothing but the log's word: another process may have been the one to store a slot for somebody to whom
            // this process is just giving one.
            let known = self.look_up(tenant, &subjects, life, Subject::is_settled).await?;
            let resolved = self.0.keys.resolve(tenant, known, life).await?;
            if self.life()? != life {
                continue;
            }
            let needed = places.iter().map(|(_, envelope)| (envelope.address().subject, envelope.class()));
            if let Some(missing) = resolved.missing(needed)
                && self.explain(tenant, missing, life).await?
            {
                continue;
            }
            resolved.open(tenant, places).await?;
            // A process may have been stopped while it opened, and somebody erased meanwhile: then nothing is shown.
            return if self.life()? == life { Ok(()) } else { Err(VaultError::LeaseLost) };
        }
        Err(VaultError::LeaseLost)
    }

    /// Null in every place that [`Vault::open_value`] would open or that is not sealed yet, for readers who lack
    /// `personal:read`.
    pub fn mask(value: &mut Value) {
        walk::mask(value);
    }

    /// Puts the word for "there is one" in the place of every secret, so that it can be shown to anybody.
    pub fn hide_secrets(value: &mut Value) {
        walk::hide_secrets(value);
    }

    /// Refuses where one of these people was erased, for commands about them that bring nothing to seal. The append
    /// must carry an epoch that was read before.
    pub async fn none_erased(&self, tenant: Uuid, subjects: &[Uuid]) -> Result<(), VaultError> {
        let life = self.0.keys.caches.life(self.0.store.epoch());
        refuse_erased(&self.look_up(tenant, subjects, life, |_| true).await?)
    }

    /// Spares the question to the log for a person whose id was made in this very request, so that nobody can have
    /// named or erased them.
    pub fn expect_new(&self, tenant: Uuid, subject: Uuid) {
        let caches = &self.0.keys.caches;
        caches.remember(tenant, subject, caches.life(self.0.store.epoch()), Subject::Unnamed);
    }

    /// Destroys all keys of an erased person and tells their classes; none where the person never had a slot. The
    /// tombstone must be in the log, and every other process must have seen its epoch or lost its lease. May be
    /// repeated, and goes on where an earlier call was cut off.
    #[tracing::instrument(name = "vault.destroy", skip(self))]
    pub async fn destroy(&self, tenant: Uuid, subject: Uuid) -> Result<Vec<RetentionClass>, VaultError> {
        let rows = self.0.store.subjects(tenant, &[subject]).await?;
        let row = rows.get(&subject).filter(|row| row.erased).ok_or(VaultError::NotErased(subject))?;
        self.forget();
        let (Some(ring), Some(slot)) = (row.ring, row.slot) else { return Ok(Vec::new()) };
        let slot = u8::try_from(slot).map_err(|_| KeyStoreError::NoSuchSlot(slot))?;
        let destroyed = RetentionClass::ALL;
        let done = self.0.keys.blocking(move |files| files.destroy(tenant, ring, slot, &destroyed)).await;
        // Also after an error: the keys may be gone from one copy. And once more, for what was read meanwhile.
        self.forget();
        done.map(|()| destroyed.to_vec())
    }

    /// The key of a claim on `name` (in its canonical form) among names of a kind, such as `email`.
    pub async fn claim_key(&self, tenant: Uuid, kind: &str, name: &str) -> Result<[u8; 32], VaultError> {
        Ok(mac::claim(&*self.tenant_key(tenant).await?, kind, name))
    }

    /// What tells a repeated request from another one under the same idempotency key.
    pub async fn fingerprint(&self, tenant: Uuid, operation: &str, body: &Value) -> Result<[u8; 32], VaultError> {
        mac::fingerprint(&*self.tenant_key(tenant).await?, operation, body).map_err(VaultError::Canonical)
    }

    /// Gives a new tenant its key; one that has a key keeps it. Comes before the tenant's first event.
    pub async fn create_tenant_key(&self, tenant: Uuid) -> Result<(), VaultError> {
        self.0.keys.blocking(move |files| files.create_tenant_key(tenant)).await
    }

    /// Another process gave this person a slot first: the next call to [`Vault::seal`] asks the log which. (Taking it
    /// from the refusal could trust a slot whose person is being erased just now.)
    pub fn learn(&self, tenant: Uuid, taken: SubjectSlot) {
        self.0.keys.caches.mistaken(tenant, taken.subject);
    }

    /// The log has stored these slots, so later payloads need not bring them.
    pub fn confirmed(&self, tenant: Uuid, slots: &[SubjectSlot]) {
        slots.iter().for_each(|slot| self.0.keys.caches.stored(tenant, slot));
    }

    /// Drops every ring, wiped, and every slot that is remembered. The vault does so itself before it uses any of them
    /// at another epoch; call it when the epoch rises, so that an idle process forgets too.
    pub fn forget(&self) {
        self.0.keys.caches.forget();
    }

    /// The life of the caches, or an error where nothing may be sealed or opened.
    fn life(&self) -> Result<u64, VaultError> {
        let life = self.0.keys.caches.life(self.0.store.epoch());
        if self.0.store.may_open() { Ok(life) } else { Err(VaultError::LeaseLost) }
    }

    /// Where these people's keys are, from memory where that is `trusted`, else as the log says.
    async fn look_up(
        &self,
        tenant: Uuid,
        subjects: &[Uuid],
        life: u64,
        trusted: impl Fn(Subject) -> bool,
    ) -> Result<Vec<(Uuid, Subject)>, VaultError> {
        let remembered = |id| self.0.keys.caches.subject(tenant, id, life).filter(|known| trusted(*known));
        let known: Vec<(Uuid, Option<Subject>)> = subjects.iter().map(|id| (*id, remembered(*id))).collect();
        let unknown: Vec<Uuid> = known.iter().filter(|(_, known)| known.is_none()).map(|(id, _)| *id).collect();
        let rows = match unknown.as_slice() {
            [] => HashMap::new(),
            unknown => self.0.store.subjects(tenant, unknown).await?,
        };
        let found = known.into_iter().map(|(id, known)| match known {
            Some(known) => Ok((id, known)),
            None => Ok((id, self.0.keys.note(tenant, id, rows.get(&id), life)?)),
        });
        found.collect()
    }

    /// A key is missing: fine where the log, asked anew, has a tombstone, which is then known; else an alarm. One that was
    /// destroyed stays so: the log may have been restored to before the erasure, and then lacks the tombstone. One that
    /// was lost is an error, for it may come back.
    async fn explain(&self, tenant: Uuid, missing: MissingKey, life: u64) -> Result<bool, VaultError> {
        let MissingKey { subject, class, destroyed } = missing;
        let rows = self.0.store.subjects(tenant, &[subject]).await?;
        if rows.get(&subject).is_some_and(|row| row.erased) {
            self.0.keys.caches.remember(tenant, subject, life, Subject::Erased);
            return Ok(true);
        }
        metrics::counter!("annals_vault_keys_missing_total").increment(1);
        if self.0.alarmed.get(&subject).is_none() {
            self.0.alarmed.insert(subject, ());
            let what = if destroyed { "was destroyed" } else { "is missing" };
            tracing::error!(%tenant, %subject, ?class, "ALARM: a key {what} and its person has no tombstone");
        }
        if destroyed { Ok(false) } else { Err(VaultError::KeyMissing { subject, class }) }
    }

    async fn tenant_key(&self, tenant: Uuid) -> Result<Arc<hmac::Key>, VaultError> {
        if let Some(key) = self.0.tenant_keys.get(&tenant) {
            return Ok(key);
        }
        let read = self.0.keys.blocking(move |files| files.tenant_key(tenant)).await?;
        let key = Arc::new(mac::key(&read.ok_or(VaultError::TenantKeyMissing(tenant))?));
        self.0.tenant_keys.insert(tenant, key.clone());
        Ok(key)
    }
}

fn refuse_erased(known: &[(Uuid, Subject)]) -> Result<(), VaultError> {
    let erased = known.iter().find(|(_, known)| *known == Subject::Erased);
    erased.map_or(Ok(()), |(id, _)| Err(VaultError::SubjectErased(*id)))
}

/// The slots that the log does not have yet.
fn new_slots(resolved: &Resolved, subjects: &[Uuid]) -> Vec<SubjectSlot> {
    let pending = subjects.iter().filter_map(|subject| match resolved.subject(*subject) {
        Subject::Slot { ring, slot, stored: false } => Some(SubjectSlot { subject: *subject, ring, slot: slot.into() }),
        Subject::Slot { .. } | Subject::Unnamed | Subject::Erased => None,
    });
    pending.collect()
}
