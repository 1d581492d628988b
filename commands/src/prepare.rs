//! From a decision to what is appended: names as keyed hashes, personal values sealed, the slots of persons who are named
//! for the first time.

use domain::aggregate::ClaimChange;
use domain::{Aggregate, Event, TypedId};
use eventstore::{Append, Claim, IdempotencyRecord, Loaded, NewEvent, Release, StreamAppend, new_id};

use crate::context::{CommandContext, ExecuteError};
use crate::executor::{Executor, claim_kind, vault_error};

impl Executor {
    /// The append of a decision, but for the moment that the stream waits for; `events` are none where only the request's
    /// key is to be kept.
    pub(crate) async fn prepare<A: Aggregate>(
        &self,
        cc: &CommandContext,
        id: A::Id,
        command: &A::Command,
        (loaded, epoch): (&Loaded<A>, i64),
        events: Vec<A::Event>,
    ) -> Result<Append, ExecuteError<A::Error>> {
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
        Ok(append)
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
}
