//! Carries commands out: state, decision, append. Commands on one stream are decided one on the other while those before
//! are still on their way; where one of these is not committed, what was decided upon it is decided anew.

use std::sync::Arc;

use domain::aggregate::stored_moment;
use domain::{Aggregate, Event, TypedId};
use eventstore::{Append, AppendError, Committed, IdempotencyRecord, Loaded, Pending, StoreError, Until, WorkRow};

use crate::cache::{self, Place};
use crate::context::{CommandContext, ExecuteError, Receipt};
use crate::executor::Executor;

/// How often a command is decided anew when others append first; beyond it the stream is too contended to go on.
const ATTEMPTS: usize = 50;

/// What an attempt to carry a command out came to.
enum Attempt<A: Aggregate> {
    Committed(Arc<Loaded<A>>),
    /// It changes nothing, and the state is known to be the newest.
    AlreadySo(Arc<Loaded<A>>),
    /// Decide again on the stream's newest state.
    Again,
    /// Another request with the same key was first.
    Duplicate(IdempotencyRecord),
    /// The process's command was carried out before.
    AlreadySent,
}

/// What a command comes to on one state.
enum Decision<A: Aggregate> {
    /// These events, which may be none.
    Append(Vec<A::Event>),
    /// It changes nothing, or is refused, as soon as the append is committed that it was decided upon.
    Once(Pending, Result<(), ExecuteError<A::Error>>),
    /// The state is an old one.
    Old,
    /// Another request with the same key was first.
    Duplicate(IdempotencyRecord),
}

/// The state that a command is decided upon.
struct Seen<A> {
    loaded: Arc<Loaded<A>>,
    /// The append that leads to it, where that is still on its way.
    after: Option<Pending>,
    /// It was just read from the log, or nobody else can know the stream.
    fresh: bool,
    /// The log's, read before the state was.
    epoch: i64,
}

impl Executor {
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
        let place = self.cache.place::<A>(tenant, id.uuid());
        for attempt in 0..ATTEMPTS {
            // Nobody else can know a stream whose id was made for this command, until it was handed over once.
            let unknown = cc.fresh && attempt == 0;
            match self.attempt(&cc, id, &command, &place, unknown).await? {
                Attempt::Again => {}
                Attempt::Committed(after) => return Ok(receipt(&cc, id, after, true)),
                Attempt::AlreadySo(known) => return Ok(receipt(&cc, id, known, false)),
                Attempt::AlreadySent => {
                    let loaded: Loaded<A> = self.store.load(tenant, id, Until::End).await?;
                    let sequence = loaded.sequence;
                    return Ok(Receipt { id, loaded, sequence, replayed: true, changed: false, status: None });
                }
                Attempt::Duplicate(record) => {
                    let keyed = cc.idempotency.as_ref().ok_or(ExecuteError::Unavailable)?;
                    return self.render(cc.ctx.tenant, keyed, &record).await;
                }
            }
        }
        Err(ExecuteError::Unavailable)
    }

    /// Decides while the stream is held, and waits for the commit while it is not.
    async fn attempt<A: Aggregate>(
        &self,
        cc: &CommandContext,
        id: A::Id,
        command: &A::Command,
        place: &Place<A>,
        unknown: bool,
    ) -> Result<Attempt<A>, ExecuteError<A::Error>> {
        let tenant = cc.ctx.tenant.uuid();
        let mut stream = place.lock().await;
        // Read before the state is: an append that was decided in another incarnation than it comes to is refused, and so
        // is one about somebody whose tombstone came meanwhile.
        let epoch = self.store.epoch();
        stream.at(epoch);
        let (loaded, after, fresh) = if let Some((loaded, pending)) = stream.tip() {
            (loaded, Some(pending), false)
        } else if let Some(loaded) = stream.committed() {
            (loaded, None, false)
        } else if unknown {
            (Arc::default(), None, true)
        } else {
            let loaded = Arc::new(self.store.load(tenant, id, Until::End).await?);
            stream.learn(loaded.clone());
            self.cache.weigh(tenant, id.uuid(), place, &mut stream);
            (loaded, None, true)
        };
        if !unknown {
            cache::count(!fresh);
        }
        let mut seen = Seen { loaded, after, fresh, epoch };
        let events = match self.decide(cc, id, command, &seen).await? {
            Decision::Append(events) => events,
            Decision::Duplicate(record) => return Ok(Attempt::Duplicate(record)),
            Decision::Old => {
                stream.forget();
                drop(stream);
                if let Some(pending) = seen.after {
                    let _ = pending.outcome().await;
                }
                return Ok(Attempt::Again);
            }
            Decision::Once(pending, verdict) => {
                drop(stream);
                // It was begun before that is committed, so the state right behind it is as good as any: on a stream that
                // others never leave alone there may be no other.
                let Ok(Committed { sequence, .. }) = pending.outcome().await else { return Ok(Attempt::Again) };
                if let Some(record) = self.answered(cc).await? {
                    return Ok(Attempt::Duplicate(record));
                }
                verdict?;
                seen.loaded = Arc::new(Loaded { sequence, ..Arc::unwrap_or_clone(seen.loaded) });
                seen.after = None;
                stream = place.lock().await;
                Vec::new()
            }
        };
        if events.is_empty() && cc.idempotency.is_none() {
            return Ok(Attempt::AlreadySo(seen.loaded));
        }
        let changes = !events.is_empty();
        let cc = &cc.not_before(seen.loaded.updated_at);
        let mut append = self.prepare(cc, id, command, (&seen.loaded, seen.epoch), events).await?;
        let after = Arc::new(applied(&seen.loaded, &append)?);
        if A::WAKES && changes {
            let due_at = after.state.wakes_at().map(|at| stored_moment(at, after.version));
            append.work = Some(WorkRow { due_at, holder: cc.holder });
        }
        let (slots, bytes) = (append.subjects.clone(), append.bytes());
        let pending = match self.store.submit(append, seen.after) {
            Ok(pending) => pending,
            Err(error) => return self.refused(cc, error).await,
        };
        if changes {
            stream.advance(after.clone(), pending.clone(), bytes);
        }
        drop(stream);
        let outcome = pending.outcome().await;
        let mut stream = place.lock().await;
        let committed = match outcome {
            Ok(committed) => committed,
            Err(error) => {
                stream.forget();
                drop(stream);
                return self.refused(cc, error).await;
            }
        };
        self.vault.confirmed(tenant, &slots);
        stream.settle();
        self.cache.weigh(tenant, id.uuid(), place, &mut stream);
        drop(stream);
        if !changes {
            return Ok(Attempt::AlreadySo(after));
        }
        self.bells.ring_stream(tenant, id.uuid());
        if A::WAKES {
            self.bells.ring_kind(A::STREAM.name);
        }
        let sequence = committed.sequence;
        Ok(Attempt::Committed(Arc::new(Loaded { sequence, ..Arc::unwrap_or_clone(after) })))
    }

    /// One decision on one state. What refuses or changes nothing is only believed once the state is known to be
    /// committed, and the newest.
    async fn decide<A: Aggregate>(
        &self,
        cc: &CommandContext,
        id: A::Id,
        command: &A::Command,
        seen: &Seen<A>,
    ) -> Result<Decision<A>, ExecuteError<A::Error>> {
        let loaded = &seen.loaded;
        // Nothing that was committed before the command began may be missing from what it is answered.
        let newest = async || -> Result<bool, ExecuteError<A::Error>> {
            Ok(seen.fresh || self.store.stream_version(cc.ctx.tenant.uuid(), id.uuid()).await? <= loaded.version)
        };
        let refusal = if cc.if_match.is_some_and(|wanted| wanted != loaded.version) {
            ExecuteError::VersionConflict { actual: loaded.version }
        } else {
            match loaded.state.decide(command.clone(), &cc.not_before(loaded.updated_at).ctx) {
                Ok(events) if !events.is_empty() => return Ok(Decision::Append(events)),
                Ok(none) => match &seen.after {
                    _ if !newest().await? => return Ok(Decision::Old),
                    Some(pending) => return Ok(Decision::Once(pending.clone(), Ok(()))),
                    None => return Ok(Decision::Append(none)),
                },
                Err(rule) => ExecuteError::Rule(rule),
            }
        };
        if !newest().await? {
            return Ok(Decision::Old);
        }
        if let Some(pending) = &seen.after {
            return Ok(Decision::Once(pending.clone(), Err(refusal)));
        }
        match self.answered(cc).await? {
            Some(record) => Ok(Decision::Duplicate(record)),
            None => Err(refusal),
        }
    }

    /// The answer that a request with the same key was given meanwhile by another process: its own effect may be what
    /// forbids the repetition.
    async fn answered(&self, cc: &CommandContext) -> Result<Option<IdempotencyRecord>, StoreError> {
        match &cc.idempotency {
            Some(keyed) => self.store.idempotency(cc.ctx.tenant.uuid(), &keyed.key, keyed.item).await,
            None => Ok(None),
        }
    }

    /// What a refused append means for its command.
    async fn refused<A: Aggregate>(
        &self,
        cc: &CommandContext,
        error: AppendError,
    ) -> Result<Attempt<A>, ExecuteError<A::Error>> {
        Err(match error {
            AppendError::Conflict { .. } if cc.if_match.is_none() => return Ok(Attempt::Again),
            AppendError::Conflict { actual, .. } => match self.answered(cc).await? {
                Some(record) => return Ok(Attempt::Duplicate(record)),
                None => ExecuteError::VersionConflict { actual },
            },
            AppendError::Superseded => return Ok(Attempt::Again),
            AppendError::SlotTaken(slot) => {
                self.vault.learn(cc.ctx.tenant.uuid(), slot);
                return Ok(Attempt::Again);
            }
            AppendError::LogRestored => {
                self.store.look().await?;
                return Ok(Attempt::Again);
            }
            AppendError::Duplicate(record) => return Ok(Attempt::Duplicate(*record)),
            AppendError::AlreadySent => return Ok(Attempt::AlreadySent),
            AppendError::ClaimTaken { kind, holder } => ExecuteError::NameTaken { kind, holder },
            AppendError::SubjectErased(_) => ExecuteError::SubjectErased,
            AppendError::TooLarge { bytes } => ExecuteError::TooLarge { bytes },
            AppendError::Refused(why) => ExecuteError::Refused(why),
            AppendError::Unavailable => ExecuteError::Unavailable,
        })
    }
}

fn receipt<A: Aggregate>(cc: &CommandContext, id: A::Id, loaded: Arc<Loaded<A>>, changed: bool) -> Receipt<A> {
    let (loaded, status) = (Arc::unwrap_or_clone(loaded), cc.idempotency.as_ref().map(|keyed| keyed.status));
    Receipt { id, sequence: loaded.sequence, loaded, replayed: false, changed, status }
}

/// The state after the append, as every reader will fold it: from what is stored.
fn applied<A: Aggregate>(loaded: &Loaded<A>, append: &Append) -> Result<Loaded<A>, StoreError> {
    let mut after = loaded.clone();
    for event in append.streams.iter().flat_map(|stream| &stream.events) {
        after.state.apply(A::Event::decode(event.event_type, event.schema_version, &event.payload)?);
        // Its sequence is known once it is committed.
        after.passed(after.version + 1, after.sequence, event.occurred_at, &event.actor);
    }
    Ok(after)
}
