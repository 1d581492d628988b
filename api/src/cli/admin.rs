//! Tenants and their keys.

use chrono::{DateTime, Utc};
use commands::{ExecuteError, admin};
use domain::TenantId;
use domain::identity::ApiKeyError;
use domain::text::Line;
use secrecy::ExposeSecret;
use serde_json::json;

use super::Failure;
use super::writer::out;
use crate::app::open_executor;
use crate::config::Config;

/// Makes a tenant and prints it.
pub(super) async fn create_tenant(config: &Config, name: &str, test: bool) -> Result<(), Failure> {
    let name: Line = name.parse().map_err(|error| format!("--name {error}"))?;
    let executor = open_executor(config).await?;
    let made = admin::create_tenant(&executor, name.clone(), test).await;
    executor.store().close().await;
    let made = made?;
    let shown = json!({ "id": made.id.to_string(), "object": "tenant", "name": name, "test": test });
    out(format_args!("{shown}"));
    Ok(())
}

/// Makes a key and prints it, this once.
pub(super) async fn create_key(
    config: &Config,
    tenant: TenantId,
    name: &str,
    scopes: Vec<String>,
    expires_at: Option<DateTime<Utc>>,
) -> Result<(), Failure> {
    let name: Line = name.parse().map_err(|error| format!("--name {error}"))?;
    let executor = open_executor(config).await?;
    let made = admin::create_key(&executor, tenant, name.clone(), scopes.clone(), expires_at).await;
    executor.store().close().await;
    let (made, secret) = made.map_err(|error| match error {
        ExecuteError::Rule(ApiKeyError::NotFound) => format!("--tenant: there is no tenant {tenant}").into(),
        ExecuteError::Rule(ApiKeyError::UnknownScope(scope)) => {
            format!("--scope: `{scope}` is no scope; `annals keys create --help` lists those that are").into()
        }
        ExecuteError::Rule(rule) => Failure::from(rule),
        other => Failure::from(other),
    })?;
    let shown = json!({
        "id": made.id.to_string(),
        "object": "api_key",
        "name": name,
        "scopes": scopes,
        "expires_at": expires_at.map(crate::resource::time),
        "key": secret.expose_secret(),
    });
    out(format_args!("{shown}"));
    Ok(())
}
