//! Carries commands out: state, decision, sealing, append. Only what is committed is answered or remembered.

use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use domain::aggregate::ClaimChange;
use domain::{Aggregate, Event, TenantId, TypedId};
use eventstore::{
    Append, AppendError, Claim, EventStore, IdempotencyRecord, Loaded, NewEvent, Release, StoreError, StreamAppend,
    Until, WorkRow, new_id,
};
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, DropGuard};
use uuid::Uuid;

use crate::bells::Bells;
use crate::cache::{InFlight, Remembered, StreamCache, state};
use crate::clock;
use crate::context::{CommandContext, ExecuteError, Receipt};
use crate::vault::{Vault, VaultError};

/// How often a command is decided anew when others append first; beyond it the stream is too contended to go on.
const ATTEMPTS: usize = 50;
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

/// The state that a decision is made on.
struct Known<'a, A> {
    loaded: &'a Loaded<A>,
    /// The log's, read before the state was.
    epoch: i64,
    /// Whether it was read from the log just now.
    fresh: bool,
}

/// What an attempt to commit a decision came to.
enum Attempt<A: Aggregate> {
    Committed(Loaded<A>, i64),
    /// Decide again on the stream's newest state.
    Again,
    /// Another request with the same key was first.
    Duplicate(IdempotencyRecord),
    /// The process's command was carried out before.
    AlreadySent,
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

    /// Carries a command out. Races are settled inside; a keyed duplicate is answered like the first.
    pub async fn execute<A: Aggregate>(
        &self,
        cc: CommandContext,
        id: A::Id,
        command: A::Command,
    ) -> Result<Receipt<A>, ExecuteError<A::Error>> {
        let tenant = cc.ctx.tenant.uuid();
        let _flight = match &cc.idempotency {
            Some(keyed) => {
                let flight =
                    self.in_flight.begin((tenant, keyed.key, keyed.item)).ok_or(ExecuteError::KeyInProgress)?;
                if let Some(receipt) = self.replay(cc.ctx.tenant, keyed).await? {
                    return Ok(receipt);
                }
                Some(flight)
            }
            None => None,
        };
        self.not_lost::<A>(&cc, id).await?;
        let slot = self.cache.slot(tenant, id.uuid());
        let mut slot = slot.lock().await;
        for attempt in 0..ATTEMPTS {
            // Read before the state is: an append that was decided in another incarnation than it comes to is refused, and
            // so is one about somebody whose tombstone came meanwhile.
            let epoch = self.store.epoch();
            let cached = match attempt {
                0 if cc.fresh => Some(Loaded::default()),
                0 => state::<A>(&slot, epoch),
                _ => None,
            };
            let fresh = cached.is_none();
            let loaded = match cached {
                Some(loaded) => loaded,
                None => self.store.load(tenant, id, Until::End).await?,
            };
            match self.decide_and_append(&cc, id, &command, Known { loaded: &loaded, epoch, fresh }).await? {
                Attempt::Again => {}
                Attempt::Committed(after, sequence) => {
                    let changed = after.version > loaded.version;
                    *slot = Some(Remembered::new(epoch, after.clone()));
                    if changed {
                        self.bells.ring_stream(tenant, id.uuid());
                        if A::WAKES {
                            self.bells.ring_kind(A::STREAM.name);
                        }
                    }
                    let status = cc.idempotency.as_ref().map(|keyed| keyed.status);
                    return Ok(Receipt { id, loaded: after, sequence, replayed: false, changed, status });
                }
                Attempt::AlreadySent => {
                    let loaded: Loaded<A> = self.store.load(tenant, id, Until::End).await?;
                    let sequence = loaded.sequence;
                    return Ok(Receipt { id, loaded, sequence, replayed: true, changed: false, status: None });
                }
                Attempt::Duplicate(record) => {
                    drop(slot);
                    let keyed = cc.idempotency.as_ref().ok_or(ExecuteError::Unavailable)?;
                    return self.render(cc.ctx.tenant, keyed, &record).await;
                }
            }
        }
        Err(ExecuteError::Unavailable)
    }

    /// One decision on one state. What refuses or changes nothing is only believed once the state is known to be the
    /// newest.
    async fn decide_and_append<A: Aggregate>(
        &self,
        cc: &CommandContext,
        id: A::Id,
        command: &A::Command,
        known: Known<'_, A>,
    ) -> Result<Attempt<A>, ExecuteError<A::Error>> {
        let Known { loaded, fresh, .. } = known;
        let current = async || -> Result<bool, ExecuteError<A::Error>> {
            Ok(fresh || self.store.stream_version(cc.ctx.tenant.uuid(), id.uuid()).await? == loaded.version)
        };
        if cc.if_match.is_some_and(|wanted| wanted != loaded.version) {
            return if current().await? {
                self.unless_answered(cc, ExecuteError::VersionConflict { actual: loaded.version }).await
            } else {
                Ok(Attempt::Again)
            };
        }
        let cc = &cc.not_before(loaded.updated_at);
        match loaded.state.decide(command.clone(), &cc.ctx) {
            Err(rule) => {
                if current().await? {
                    self.unless_answered(cc, ExecuteError::Rule(rule)).await
                } else {
                    Ok(Attempt::Again)
                }
            }
            Ok(events) if events.is_empty() && !current().await? => Ok(Attempt::Again),
            Ok(events) if events.is_empty() && cc.idempotency.is_none() => {
                Ok(Attempt::Committed(loaded.clone(), loaded.sequence))
            }
            Ok(events) => self.append(cc, id, command, known, events).await,
        }
    }

    /// A refusal, unless a request with the same key was answered meanwhile by another process: then that answer. Its own
    /// effect may be what forbids the repetition.
    async fn unless_answered<A: Aggregate>(
        &self,
        cc: &CommandContext,
        refusal: ExecuteError<A::Error>,
    ) -> Result<Attempt<A>, ExecuteError<A::Error>> {
        let Some(keyed) = &cc.idempotency else { return Err(refusal) };
        let found = self.store.idempotency(cc.ctx.tenant.uuid(), &keyed.key, keyed.item).await?;
        found.map_or(Err(refusal), |record| Ok(Attempt::Duplicate(record)))
    }

    async fn append<A: Aggregate>(
        &self,
        cc: &CommandContext,
        id: A::Id,
        command: &A::Command,
        Known { loaded, epoch, .. }: Known<'_, A>,
        events: Vec<A::Event>,
    ) -> Result<Attempt<A>, ExecuteError<A::Error>> {
        let mut append = Append {
            tenant: cc.ctx.tenant.uuid(),
            epoch,
            about: A::about(command),
            process_command: cc.process_command,
            api_key: cc.api_key.clone(),
            ..Append::default()
        };
        if !events.is_empty() {
            append.tombstone = A::tombstone(command);
            (append.settled_command, append.clock) = (cc.settled_command, cc.clock);
            self.claims::<A>(&mut append, id, command).await?;
            if A::WAKES {
                let mut after = loaded.state.clone();
                events.iter().cloned().for_each(|event| after.apply(event));
                append.work = Some(WorkRow { due_at: after.wakes_at(), holder: cc.holder });
            }
            if cc.fresh && A::IS_A_PERSON {
                // Made in this request: nobody can have named or erased the person yet.
                self.vault.expect_new(append.tenant, id.uuid());
            }
            let sealed = self.seal::<A>(cc, &mut append, &events).await?;
            append.streams = vec![StreamAppend {
                stream_type: A::STREAM.name,
                stream_id: id.uuid(),
                expected_version: loaded.version,
                events: sealed,
            }];
        }
        append.idempotency = cc.idempotency.as_ref().map(|keyed| IdempotencyRecord {
            key: keyed.key,
            item: keyed.item,
            fingerprint: keyed.fingerprint,
            status: keyed.status,
            stream_type: A::STREAM.name.to_owned(),
            stream_id: id.uuid(),
            version: loaded.version + events.len() as i64,
            sequence: loaded.sequence,
        });
        self.submit(cc, append, loaded).await
    }

    async fn submit<A: Aggregate>(
        &self,
        cc: &CommandContext,
        append: Append,
        loaded: &Loaded<A>,
    ) -> Result<Attempt<A>, ExecuteError<A::Error>> {
        match self.store.append(append.clone()).await {
            Ok(committed) => {
                self.vault.confirmed(append.tenant, &append.subjects);
                let mut after = loaded.clone();
                let stored: Vec<_> = append.streams.iter().flat_map(|stream| &stream.events).collect();
                let first = committed.sequence + 1 - stored.len() as i64;
                for (index, event) in stored.into_iter().enumerate() {
                    let decoded = A::Event::decode(event.event_type, event.schema_version, &event.payload);
                    after.state.apply(decoded.map_err(StoreError::from)?);
                    let version = after.version + 1;
                    after.passed(version, first + index as i64, event.occurred_at, &event.actor);
                }
                Ok(Attempt::Committed(after, committed.sequence))
            }
            Err(AppendError::Conflict { actual, .. }) => match cc.if_match {
                Some(_) => self.unless_answered(cc, ExecuteError::VersionConflict { actual }).await,
                None => Ok(Attempt::Again),
            },
            Err(AppendError::SlotTaken(slot)) => {
                self.vault.learn(append.tenant, slot);
                Ok(Attempt::Again)
            }
            Err(AppendError::Duplicate(record)) => Ok(Attempt::Duplicate(*record)),
            Err(AppendError::LogRestored) => {
                self.store.look().await?;
                Ok(Attempt::Again)
            }
            Err(AppendError::AlreadySent) => Ok(Attempt::AlreadySent),
            Err(AppendError::ClaimTaken { kind, holder }) => Err(ExecuteError::NameTaken { kind, holder }),
            Err(AppendError::SubjectErased(_)) => Err(ExecuteError::SubjectErased),
            Err(AppendError::TooLarge { bytes }) => Err(ExecuteError::TooLarge { bytes }),
            Err(AppendError::Refused(why)) => Err(ExecuteError::Refused(why)),
            Err(AppendError::Unavailable) => Err(ExecuteError::Unavailable),
        }
    }

    /// Seals the events' personal values; notes the persons that they are about and the slots that are new.
    async fn seal<A: Aggregate>(
        &self,
        cc: &CommandContext,
        append: &mut Append,
        events: &[A::Event],
    ) -> Result<Vec<NewEvent>, ExecuteError<A::Error>> {
        self.vault.none_erased(append.tenant, &append.about).await.map_err(vault_error)?;
        let mut metadata = cc.metadata.clone();
        cc.name.clone_into(&mut metadata.command);
        let metadata = serde_json::to_string(&metadata).map_err(|error| ExecuteError::Refused(error.to_string()))?;
        let (stated, actor) = (append.about.clone(), cc.ctx.actor.to_string());
        let mut sealed = Vec::with_capacity(events.len());
        for event in events {
            let event_id = new_id();
            let payload = event.payload().map_err(|error| ExecuteError::Refused(error.to_string()))?;
            let payload = self.vault.seal(append.tenant, event_id, payload).await.map_err(vault_error)?;
            let mut subjects = stated.clone();
            subjects.extend(&payload.subjects);
            subjects.sort_unstable();
            subjects.dedup();
            append.about.extend(&payload.subjects);
            let fresh: Vec<_> =
                payload.new_slots.iter().filter(|new| !append.subjects.contains(new)).copied().collect();
            append.subjects.extend(fresh);
            let kind = event.event_type();
            let mut salt = [0; 16];
            getrandom::fill(&mut salt).map_err(|_| ExecuteError::Unavailable)?;
            sealed.push(NewEvent {
                event_id,
                event_type: kind.name,
                schema_version: kind.schema_version,
                subjects,
                actor: actor.clone(),
                occurred_at: cc.ctx.occurred_at,
                payload: payload.payload,
                metadata: metadata.clone(),
                salt,
            });
        }
        Ok(sealed)
    }

    async fn claims<A: Aggregate>(
        &self,
        append: &mut Append,
        id: A::Id,
        command: &A::Command,
    ) -> Result<(), ExecuteError<A::Error>> {
        let stream_id = id.uuid();
        for change in A::claims(command) {
            match change {
                ClaimChange::Take { kind, name, replaces } => {
                    let kind = claim_kind::<A>(kind);
                    let key = self.vault.claim_key(append.tenant, &kind, &name).await.map_err(vault_error)?;
                    if replaces {
                        append.releases.push(Release { stream_id, kind: Some(kind.clone()) });
                    }
                    append.claims.push(Claim { kind, key, stream_id });
                }
                ClaimChange::Release { kind } => {
                    append.releases.push(Release { stream_id, kind: Some(claim_kind::<A>(kind)) });
                }
                ClaimChange::ReleaseAll => append.releases.push(Release { stream_id, kind: None }),
            }
        }
        Ok(())
    }

    /// The newest state of a stream, never a stale one; a default in version 0 where there is none.
    pub async fn load<A: Aggregate>(&self, tenant: TenantId, id: A::Id) -> Result<Loaded<A>, StoreError> {
        let (tenant, stream) = (tenant.uuid(), id.uuid());
        if let Some(slot) = self.cache.known(tenant, stream) {
            let known = state::<A>(&*slot.lock().await, self.store.epoch());
            if let Some(loaded) = known
                && self.store.stream_version(tenant, stream).await? == loaded.version
            {
                return Ok(loaded);
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
        if let Some(slot) = self.cache.known(tenant.uuid(), id.uuid())
            && let Some(loaded) = state::<A>(&*slot.lock().await, self.store.epoch())
        {
            return Ok(loaded);
        }
        let epoch = self.store.epoch();
        let loaded = self.store.load(tenant.uuid(), id, Until::End).await?;
        *self.cache.slot(tenant.uuid(), id.uuid()).lock().await = Some(Remembered::new(epoch, loaded.clone()));
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
            tracing::error!(error = &error as &dyn std::error::Error, "the vault failed a command");
            ExecuteError::Unavailable
        }
    }
}

/// The stream behind a stored id.
pub(crate) fn typed<A: Aggregate>(stream: Uuid) -> A::Id {
    A::Id::from(stream)
}
