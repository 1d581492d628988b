//! What an operator does from the command line: tenants and their keys, as streams like all else.

use chrono::{DateTime, Utc};
use domain::identity::{ApiKey, ApiKeyCommand, ApiKeyError};
use domain::tenancy::{Tenant, TenantCommand, TenantError};
use domain::text::Line;
use domain::{AnyId, ApiKeyId, Context, SystemId, TenantId, TypedId};
use eventstore::{ApiKeyRow, new_id};
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

/// Opens a tenant: its key in the key store, then `tenant.created` as sequence 1.
pub async fn create_tenant(executor: &Executor, name: Line) -> Result<Receipt<Tenant>, ExecuteError<TenantError>> {
    let id = TenantId::from(new_id());
    executor.vault().create_tenant_key(id.uuid()).await.map_err(vault_error)?;
    let ctx = Context::new(id, operator(), clock::now());
    let cc = CommandContext::new(ctx, "tenancy.tenant.create").creating();
    executor.execute::<Tenant>(cc, id, TenantCommand::Create { name }).await
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
