//! A tenant. Its first event opens its log: sequence 1 is `tenant.created`.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::text::Line;
use crate::{Aggregate, Context, Event, StreamType, TenantId, names};

/// All that the resource shows.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Tenant {
    /// Where it stands.
    pub status: TenantStatus,
    /// What it calls itself.
    pub name: Option<Line>,
}

/// `none -> active`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum TenantStatus {
    /// Not there.
    #[default]
    None,
    /// In use.
    Active,
}

/// What can be asked of a tenant.
#[derive(Clone, Debug)]
pub enum TenantCommand {
    /// Open the tenant.
    Create {
        /// What it calls itself.
        name: Line,
    },
}

/// What can have happened to a tenant.
#[derive(Clone, Debug, PartialEq, Event)]
#[event(prefix = "tenant")]
pub enum TenantEvent {
    /// The tenant is there; its log begins.
    Created {
        /// What it calls itself.
        name: Line,
    },
}

/// Why a tenant refuses.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TenantError {
    /// It is there already.
    #[error("the tenant exists already")]
    AlreadyExists,
}

impl Aggregate for Tenant {
    const STREAM: StreamType = names::TENANT;
    const REVISION: i32 = 1;
    type Id = TenantId;
    type Command = TenantCommand;
    type Event = TenantEvent;
    type Error = TenantError;

    fn decide(&self, command: TenantCommand, _ctx: &Context) -> Result<Vec<TenantEvent>, TenantError> {
        match (self.status, command) {
            (TenantStatus::None, TenantCommand::Create { name }) => Ok(vec![TenantEvent::Created { name }]),
            (TenantStatus::Active, TenantCommand::Create { .. }) => Err(TenantError::AlreadyExists),
        }
    }

    fn apply(&mut self, event: TenantEvent) {
        match event {
            TenantEvent::Created { name } => *self = Self { status: TenantStatus::Active, name: Some(name) },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cqrs::Given;
    use crate::test_support::ctx;

    #[test]
    fn a_tenant_is_created_once() {
        let name: Line = "Acme".parse().unwrap();
        let created = TenantEvent::Created { name: name.clone() };
        Given::<Tenant>::events(ctx(), []).when_then(TenantCommand::Create { name: name.clone() }, [created.clone()]);
        Given::<Tenant>::events(ctx(), [created])
            .when_refused(TenantCommand::Create { name }, TenantError::AlreadyExists);
    }
}
