//! Names and keys that callers bring: external ids, idempotency keys. The log itself is the stored answer.

use std::collections::HashMap;

use domain::aggregate::EXTERNAL_ID;
use domain::{Aggregate, StreamType, TenantId, TypedId};
use eventstore::{IdempotencyRecord, Standing, StoreError, Token, Until};
use serde_json::Value;
use uuid::Uuid;

use crate::context::{CommandContext, ExecuteError, Keyed, Receipt};
use crate::executor::{Executor, typed};
use crate::vault::VaultError;

/// A name could not be looked up.
#[derive(Debug, thiserror::Error)]
pub enum ResolveError {
    /// The log does not answer.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The key store does not answer.
    #[error(transparent)]
    Vault(#[from] VaultError),
}

impl Executor {
    /// The hashes of a caller's key and request: scope is tenant, principal and operation.
    pub async fn keyed(
        &self,
        tenant: TenantId,
        principal: &str,
        operation: &str,
        caller_key: &str,
        body: &Value,
        status: i16,
    ) -> Result<Keyed, VaultError> {
        let scope = format!("{principal}\n{operation}\n{caller_key}");
        let key = self.vault.claim_key(tenant.uuid(), "idempotency", &scope).await?;
        let fingerprint = self.vault.fingerprint(tenant.uuid(), operation, body).await?;
        Ok(Keyed { key, item: 0, fingerprint, status })
    }

    /// The answer of an earlier request with that key, if there was one.
    pub async fn replay<A: Aggregate>(
        &self,
        tenant: TenantId,
        keyed: &Keyed,
    ) -> Result<Option<Receipt<A>>, ExecuteError<A::Error>> {
        match self.store.idempotency(tenant.uuid(), &keyed.key, keyed.item).await? {
            Some(record) => self.render(tenant, keyed, &record).await.map(Some),
            None => Ok(None),
        }
    }

    /// Renders the resource as it stood when the first request was answered.
    pub(crate) async fn render<A: Aggregate>(
        &self,
        tenant: TenantId,
        keyed: &Keyed,
        record: &IdempotencyRecord,
    ) -> Result<Receipt<A>, ExecuteError<A::Error>> {
        if record.fingerprint != keyed.fingerprint || record.stream_type != A::STREAM.name {
            return Err(ExecuteError::KeyReused);
        }
        let id = typed::<A>(record.stream_id);
        let loaded = self.load_until::<A>(tenant, id, Until::Version(record.version)).await?;
        Ok(Self::replayed(id, loaded, record))
    }

    /// Refuses where the caller insists on a version that was lost when the log went back.
    pub(crate) async fn not_lost<A: Aggregate>(
        &self,
        cc: &CommandContext,
        id: A::Id,
    ) -> Result<(), ExecuteError<A::Error>> {
        let Some((number, incarnation)) = cc.if_match.zip(cc.if_match_in) else { return Ok(()) };
        let token = Token { number, incarnation };
        match self.store.version_standing(cc.ctx.tenant.uuid(), id.uuid(), token).await? {
            Standing::Stands => Ok(()),
            Standing::Lost { survived } => Err(ExecuteError::LogRestored { survived }),
        }
    }

    /// The stream that a caller calls by that external id.
    pub async fn resolve(
        &self,
        tenant: TenantId,
        stream: StreamType,
        external_id: &str,
    ) -> Result<Option<Uuid>, ResolveError> {
        let kind = format!("{}.{EXTERNAL_ID}", stream.name);
        let key = self.vault.claim_key(tenant.uuid(), &kind, external_id).await?;
        Ok(self.store.claim_holder(tenant.uuid(), &kind, &key).await?)
    }

    /// The streams behind many external ids, in one look; those that are unknown are left out.
    pub async fn resolve_many(
        &self,
        tenant: TenantId,
        stream: StreamType,
        external_ids: &[&str],
    ) -> Result<HashMap<String, Uuid>, ResolveError> {
        let kind = format!("{}.{EXTERNAL_ID}", stream.name);
        let mut keys = Vec::with_capacity(external_ids.len());
        for id in external_ids {
            keys.push(self.vault.claim_key(tenant.uuid(), &kind, id).await?);
        }
        let holders = self.store.claim_holders(tenant.uuid(), &kind, &keys).await?;
        let found = external_ids.iter().zip(&keys).filter_map(|(id, key)| Some(((*id).to_owned(), *holders.get(key)?)));
        Ok(found.collect())
    }
}
