//! The write side as one value: the log, the vault, the streams that this process knows; and reading from these.

use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use domain::{Aggregate, TenantId, TypedId};
use eventstore::{EventStore, IdempotencyRecord, Loaded, StoreError, Until, chain};
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, DropGuard};
use uuid::Uuid;

use crate::bells::Bells;
use crate::cache::{InFlight, StreamCache};
use crate::clock;
use crate::context::{ExecuteError, Receipt};
use crate::vault::{Vault, VaultError};

/// The pauses between two looks at a stream that another process may append to: the first and the longest.
const LOOKS: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(1));

/// The write side's one way in; clones share the cache.
#[derive(Clone)]
pub struct Executor {
    pub(crate) store: EventStore,
    pub(crate) vault: Vault,
    pub(crate) cache: StreamCache,
    pub(crate) in_flight: InFlight,
    pub(crate) bells: Bells,
    _forgetting: Arc<DropGuard>,
}

impl Executor {
    /// Over a log and the vault beside it. Within a runtime: from now on the vault forgets its keys whenever the epoch
    /// rises, also while nobody asks it for anything.
    pub fn new(store: EventStore, vault: Vault) -> Self {
        let stop = CancellationToken::new();
        let (tail, forgetful, stopped) = (store.tail().clone(), vault.clone(), stop.clone());
        tokio::spawn(async move {
            let mut epoch = 0;
            while let Some(risen) = stopped.run_until_cancelled(tail.epoch_past(epoch)).await {
                epoch = risen;
                forgetful.forget();
            }
        });
        let _forgetting = Arc::new(stop.drop_guard());
        let (cache, in_flight, bells) = (StreamCache::new(), InFlight::default(), Bells::default());
        Self { store, vault, cache, in_flight, bells, _forgetting }
    }

    /// The keys of persons and tenants.
    pub fn vault(&self) -> &Vault {
        &self.vault
    }

    /// The log.
    pub fn store(&self) -> &EventStore {
        &self.store
    }

    /// The newest state of a stream, never a stale one; a default in version 0 where there is none.
    pub async fn load<A: Aggregate>(&self, tenant: TenantId, id: A::Id) -> Result<Loaded<A>, StoreError> {
        let (tenant, stream) = (tenant.uuid(), id.uuid());
        if let Some(place) = self.cache.known::<A>(tenant, stream) {
            let known = place.lock().await.at(self.store.epoch()).committed();
            if let Some(loaded) = known
                && self.store.stream_version(tenant, stream).await? == loaded.version
            {
                return Ok((*loaded).clone());
            }
        }
        self.store.load(tenant, id, Until::End).await
    }

    /// The newest state of a stream, as soon as it is as wanted, or after all patience as it is then. An append of this
    /// process is heard of at once; for those of others it is looked every now and then.
    pub async fn until<A: Aggregate>(
        &self,
        tenant: TenantId,
        id: A::Id,
        patience: Duration,
        wanted: impl Fn(&A) -> bool,
    ) -> Result<Loaded<A>, StoreError> {
        let (bell, end) = (self.bells.stream(tenant.uuid(), id.uuid()), Instant::now() + patience);
        let mut pause = LOOKS.0;
        loop {
            // Listening begins before the look, so that nothing falls between the two.
            let heard = bell.notified();
            tokio::pin!(heard);
            heard.as_mut().enable();
            let loaded = self.load::<A>(tenant, id).await?;
            if wanted(&loaded.state) || Instant::now() >= end {
                return Ok(loaded);
            }
            let _ = tokio::time::timeout_at(end.min(Instant::now() + pause), heard).await;
            pause = (pause * 2).min(LOOKS.1);
        }
    }

    /// Now, by the clock of a tenant.
    pub async fn now(&self, tenant: TenantId) -> Result<DateTime<Utc>, StoreError> {
        let clock = self.store.tenant_clock(tenant.uuid()).await?;
        Ok(clock::now() + clock.map(|clock| clock.ahead).unwrap_or_default())
    }

    /// A state that was true at some moment not long ago: enough for what never changes back (that a customer exists).
    pub async fn load_known<A: Aggregate>(&self, tenant: TenantId, id: A::Id) -> Result<Loaded<A>, StoreError> {
        let (tenant, stream) = (tenant.uuid(), id.uuid());
        let place = self.cache.place::<A>(tenant, stream);
        let mut known = place.lock().await;
        if let Some(loaded) = known.at(self.store.epoch()).committed() {
            return Ok((*loaded).clone());
        }
        let loaded = self.store.load(tenant, id, Until::End).await?;
        known.learn(Arc::new(loaded.clone()));
        self.cache.weigh(tenant, stream, &place, &mut known);
        Ok(loaded)
    }

    /// A state as it once was.
    pub async fn load_until<A: Aggregate>(
        &self,
        tenant: TenantId,
        id: A::Id,
        until: Until,
    ) -> Result<Loaded<A>, StoreError> {
        self.store.load(tenant.uuid(), id, until).await
    }

    pub(crate) fn replayed<A: Aggregate>(id: A::Id, loaded: Loaded<A>, record: &IdempotencyRecord) -> Receipt<A> {
        let (sequence, status) = (record.sequence, Some(record.status));
        Receipt { id, loaded, sequence, replayed: true, changed: false, status }
    }
}

/// The kind of a claim as it is stored, scoped by stream type.
pub(crate) fn claim_kind<A: Aggregate>(kind: &str) -> String {
    format!("{}.{kind}", A::STREAM.name)
}

pub(crate) fn vault_error<E>(error: VaultError) -> ExecuteError<E> {
    match error {
        VaultError::SubjectErased(_) => ExecuteError::SubjectErased,
        error => {
            tracing::error!(error = chain(&error), "the vault failed a command");
            ExecuteError::Unavailable
        }
    }
}

/// The stream behind a stored id.
pub(crate) fn typed<A: Aggregate>(stream: Uuid) -> A::Id {
    A::Id::from(stream)
}
