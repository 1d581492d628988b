//! What an operator does from the command line: tenants and their keys, as streams like all else.

use chrono::{DateTime, TimeDelta, Utc};
use domain::audit::{Replay, ReplayCommand, ReplayError, Requested};
use domain::identity::{ApiKey, ApiKeyCommand, ApiKeyError};
use domain::tenancy::{Tenant, TenantCommand, TenantError, TestClock, TestClockCommand};
use domain::text::Line;
use domain::{AnyId, ApiKeyId, Context, ReplayId, SystemId, TenantId, TypedId};
use eventstore::{ApiKeyRow, TenantClock, new_id};
use secrecy::SecretString;
use uuid::Uuid;

use crate::api_key::NewApiKey;
use crate::clock;
use crate::context::{CommandContext, ExecuteError, Receipt};
use crate::executor::{Executor, vault_error};

/// The actor of the command line.
pub fn operator() -> AnyId {
    SystemId::from(Uuid::from_u128(1)).into()
}

/// Opens a tenant: its key in the key store, then `tenant.created` as sequence 1. One for tests has a clock, too.
pub async fn create_tenant(
    executor: &Executor,
    name: Line,
    for_tests: bool,
) -> Result<Receipt<Tenant>, ExecuteError<TenantError>> {
    let id = TenantId::from(new_id());
    executor.vault().create_tenant_key(id.uuid()).await.map_err(vault_error)?;
    let ctx = Context::new(id, operator(), clock::now());
    let cc = CommandContext::new(ctx, "tenancy.tenant.create").creating();
    let tenant = executor.execute::<Tenant>(cc, id, TenantCommand::Create { name }).await?;
    if for_tests {
        let ctx = Context::new(id, operator(), clock::now());
        let mut cc = CommandContext::new(ctx, "tenancy.test_clock.start").creating();
        cc.clock = Some(TenantClock { ahead: TimeDelta::zero(), advancing: false });
        let started = executor.execute::<TestClock>(cc, TestClock::id(id), TestClockCommand::Start).await;
        started.map_err(|error| match error {
            ExecuteError::Rule(_) => ExecuteError::Rule(TenantError::AlreadyExists),
            _ => ExecuteError::Unavailable,
        })?;
    }
    Ok(tenant)
}

/// Issues a key; its text is not to be had again. The tenant must exist.
pub async fn create_key(
    executor: &Executor,
    tenant: TenantId,
    name: Line,
    scopes: Vec<String>,
    expires_at: Option<DateTime<Utc>>,
) -> Result<(Receipt<ApiKey>, SecretString), ExecuteError<ApiKeyError>> {
    if !executor.load::<Tenant>(tenant, tenant).await?.exists() {
        return Err(ExecuteError::Rule(ApiKeyError::NotFound));
    }
    let id = ApiKeyId::from(new_id());
    let key = NewApiKey::generate(id.uuid()).map_err(|_| ExecuteError::Unavailable)?;
    let ctx = Context::new(tenant, operator(), clock::now());
    let mut cc = CommandContext::new(ctx, "identity.api_key.create").creating();
    cc.api_key =
        Some(ApiKeyRow { key_id: id.uuid(), hash: Some(key.hash), scopes: scopes.clone(), expires_at, revoked: false });
    let receipt = executor.execute::<ApiKey>(cc, id, ApiKeyCommand::Create { name, scopes, expires_at }).await?;
    Ok((receipt, key.text))
}

/// Records that events of a tenant are taken out from the command line.
pub async fn request_replay(
    executor: &Executor,
    tenant: TenantId,
    request: Requested,
) -> Result<Receipt<Replay>, ExecuteError<ReplayError>> {
    let id = ReplayId::from(new_id());
    let ctx = Context::new(tenant, operator(), executor.now(tenant).await?);
    let cc = CommandContext::new(ctx, "audit.replay.create").creating();
    executor.execute::<Replay>(cc, id, ReplayCommand::Request { id, request }).await
}

/// Withdraws a key; it stops working within the few seconds that authentication remembers it.
pub async fn revoke_key(
    executor: &Executor,
    tenant: TenantId,
    id: ApiKeyId,
) -> Result<Receipt<ApiKey>, ExecuteError<ApiKeyError>> {
    let known = executor.load::<ApiKey>(tenant, id).await?;
    let ctx = Context::new(tenant, operator(), clock::now());
    let mut cc = CommandContext::new(ctx, "identity.api_key.revoke");
    let (scopes, expires_at) = (known.state.scopes, known.state.expires_at);
    cc.api_key = Some(ApiKeyRow { key_id: id.uuid(), hash: None, scopes, expires_at, revoked: true });
    executor.execute::<ApiKey>(cc, id, ApiKeyCommand::Revoke).await
}
