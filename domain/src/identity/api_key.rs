//! A key that a tenant's programs authenticate with: `Active -> Revoked`. The log never holds the secret or its hash.

use chrono::{DateTime, Utc};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::text::Line;
use crate::{Aggregate, ApiKeyId, Context, Event, StreamType, names};

/// All that the resource shows.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ApiKey {
    /// Where it stands.
    pub status: ApiKeyStatus,
    /// What its owner calls it.
    pub name: Option<Line>,
    /// What it may do.
    pub scopes: Vec<String>,
    /// When it stops working, if ever.
    pub expires_at: Option<DateTime<Utc>>,
}

/// `none -> active -> revoked`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ApiKeyStatus {
    /// Not there.
    #[default]
    None,
    /// Works.
    Active,
    /// Works no more.
    Revoked,
}

/// What can be asked of a key.
#[derive(Clone, Debug)]
pub enum ApiKeyCommand {
    /// Issue the key.
    Create {
        /// What its owner calls it.
        name: Line,
        /// What it may do.
        scopes: Vec<String>,
        /// When it stops working, if ever.
        expires_at: Option<DateTime<Utc>>,
    },
    /// Withdraw the key.
    Revoke,
}

/// What can have happened to a key.
#[derive(Clone, Debug, PartialEq, Event)]
#[event(prefix = "api_key")]
pub enum ApiKeyEvent {
    /// The key works from here on.
    Created {
        /// What its owner calls it.
        name: Line,
        /// What it may do.
        scopes: Vec<String>,
        /// When it stops working, if ever.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        expires_at: Option<DateTime<Utc>>,
    },
    /// The key works no more.
    Revoked,
}

/// Why a key refuses.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ApiKeyError {
    /// No such key.
    #[error("there is no such key")]
    NotFound,
    /// It is there already.
    #[error("the key exists already")]
    AlreadyExists,
    /// A scope that the house does not know.
    #[error("`{0}` is not a scope")]
    UnknownScope(String),
    /// A key that may do nothing.
    #[error("a key needs at least one scope")]
    NoScope,
    /// It would have expired already.
    #[error("the expiry must lie in the future")]
    ExpiryPast,
}

impl Aggregate for ApiKey {
    const STREAM: StreamType = names::API_KEY;
    const REVISION: i32 = 1;
    type Id = ApiKeyId;
    type Command = ApiKeyCommand;
    type Event = ApiKeyEvent;
    type Error = ApiKeyError;

    fn decide(&self, command: ApiKeyCommand, ctx: &Context) -> Result<Vec<ApiKeyEvent>, ApiKeyError> {
        use {ApiKeyCommand as C, ApiKeyError as Error, ApiKeyEvent as E, ApiKeyStatus as S};
        match (self.status, command) {
            (S::None, C::Create { name, scopes, expires_at }) => {
                if scopes.is_empty() {
                    return Err(Error::NoScope);
                }
                if let Some(unknown) = scopes.iter().find(|scope| names::scope(scope).is_none()) {
                    return Err(Error::UnknownScope(unknown.clone()));
                }
                if expires_at.is_some_and(|at| at <= ctx.now) {
                    return Err(Error::ExpiryPast);
                }
                Ok(vec![E::Created { name, scopes, expires_at }])
            }
            (_, C::Create { .. }) => Err(Error::AlreadyExists),
            (S::None, C::Revoke) => Err(Error::NotFound),
            (S::Active, C::Revoke) => Ok(vec![E::Revoked]),
            (S::Revoked, C::Revoke) => Ok(vec![]),
        }
    }

    fn apply(&mut self, event: ApiKeyEvent) {
        match event {
            ApiKeyEvent::Created { name, scopes, expires_at } => {
                *self = Self { status: ApiKeyStatus::Active, name: Some(name), scopes, expires_at };
            }
            ApiKeyEvent::Revoked => self.status = ApiKeyStatus::Revoked,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cqrs::Given;
    use crate::test_support::ctx;

    fn create(scopes: &[&str]) -> ApiKeyCommand {
        let scopes = scopes.iter().map(|s| (*s).to_owned()).collect();
        ApiKeyCommand::Create { name: "shop".parse().unwrap(), scopes, expires_at: None }
    }

    fn created() -> ApiKeyEvent {
        let scopes = vec!["commerce:read".to_owned()];
        ApiKeyEvent::Created { name: "shop".parse().unwrap(), scopes, expires_at: None }
    }

    #[test]
    fn a_key_is_created_with_scopes_that_exist() {
        let given = || Given::<ApiKey>::events(ctx(), []);
        given().when_then(create(&["commerce:read"]), [created()]);
        given().when_refused(create(&[]), ApiKeyError::NoScope);
        given().when_refused(create(&["commerce:fly"]), ApiKeyError::UnknownScope("commerce:fly".into()));
    }

    #[test]
    fn a_key_is_revoked_once_and_again_is_already_so() {
        Given::<ApiKey>::events(ctx(), []).when_refused(ApiKeyCommand::Revoke, ApiKeyError::NotFound);
        Given::<ApiKey>::events(ctx(), [created()]).when_then(ApiKeyCommand::Revoke, [ApiKeyEvent::Revoked]);
        Given::<ApiKey>::events(ctx(), [created(), ApiKeyEvent::Revoked]).when_then(ApiKeyCommand::Revoke, []);
    }
}
