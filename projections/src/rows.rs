//! One event, one row: the audit trail, and how many events of each type a tenant has.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use eventstore::RecordedEvent;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use sqlx::{AssertSqlSafe, PgConnection, Postgres, QueryBuilder};
use uuid::Uuid;

use crate::projector::{ProjectError, Projector};
use crate::read_models::{ReadError, ReadModels, active};

/// The projector of the trail and of the counts, and the trail's table.
pub const AUDIT_ENTRIES: &str = "audit_entries";

/// Which entries of the trail are wanted.
#[derive(Clone, Debug, Default)]
pub struct AuditFilter {
    /// Exactly this actor, a TypeID.
    pub actor: Option<String>,
    /// What the action begins with: `order.` finds all of `order.placed`.
    pub action: Option<String>,
    /// The resource: the type of its stream, and its UUID.
    pub resource: Option<(&'static str, Uuid)>,
    /// Recorded at this moment or later.
    pub from: Option<DateTime<Utc>>,
    /// Recorded before this moment.
    pub to: Option<DateTime<Utc>>,
}

/// An entry of the trail.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema, sqlx::FromRow)]
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
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema, sqlx::FromRow)]
pub struct EventTypeCount {
    /// The event's type.
    pub event_type: String,
    /// How many.
    pub count: i64,
}

/// What an entry is selected by.
const ENTRY: &str = "SELECT sequence, action, actor, stream_type, stream_id, occurred_at, recorded_at, request_id, \
    cause, correlation_id, command FROM audit_entries";

impl ReadModels {
    /// The trail of a tenant, newest first: entries below the sequence `before`, at most `limit`.
    pub async fn audit(
        &self,
        tenant: Uuid,
        filter: &AuditFilter,
        before: Option<i64>,
        limit: i64,
    ) -> Result<Vec<AuditEntry>, ReadError> {
        let mut query = QueryBuilder::<Postgres>::new(ENTRY);
        query.push(" WHERE generation = ").push(active(AUDIT_ENTRIES)).push(" AND tenant_id = ").push_bind(tenant);
        query.push(" AND sequence < ").push_bind(before.unwrap_or(i64::MAX));
        if let Some(actor) = &filter.actor {
            query.push(" AND actor = ").push_bind(actor);
        }
        if let Some(prefix) = filter.action.as_deref().filter(|prefix| !prefix.is_empty()) {
            // A range in the order of bytes, which the index has whatever the plan; no name goes on with the last
            // character of Unicode.
            query.push(" AND action ~>=~ ").push_bind(prefix);
            query.push(" AND action ~<~ ").push_bind(format!("{prefix}\u{10FFFF}"));
        }
        if let Some((kind, id)) = filter.resource {
            query.push(" AND stream_id = ").push_bind(id).push(" AND stream_type = ").push_bind(kind);
        }
        if let Some(from) = filter.from {
            query.push(" AND recorded_at >= ").push_bind(from);
        }
        if let Some(to) = filter.to {
            query.push(" AND recorded_at < ").push_bind(to);
        }
        query.push(" ORDER BY sequence DESC LIMIT ").push_bind(limit);
        let mut tx = self.begin(tenant).await?;
        let entries = query.build_query_as().fetch_all(&mut *tx).await?;
        tx.commit().await?;
        Ok(entries)
    }

    /// How many events of each type a tenant has, by name.
    pub async fn event_types(&self, tenant: Uuid) -> Result<Vec<EventTypeCount>, ReadError> {
        let sql = format!(
            "SELECT event_type, count FROM event_type_counts WHERE generation = {} AND tenant_id = $1 ORDER BY 1",
            active(AUDIT_ENTRIES)
        );
        let mut tx = self.begin(tenant).await?;
        let counts = sqlx::query_as(AssertSqlSafe(sql)).bind(tenant).fetch_all(&mut *tx).await?;
        tx.commit().await?;
        Ok(counts)
    }
}

/// Keeps the trail and the counts. It reads the envelope alone, so no event is unknown to it.
pub(crate) struct AuditEntries;

#[async_trait]
impl Projector for AuditEntries {
    fn name(&self) -> &'static str {
        AUDIT_ENTRIES
    }

    fn revision(&self) -> i32 {
        1
    }

    fn tables(&self) -> &'static [&'static str] {
        &[AUDIT_ENTRIES, "event_type_counts"]
    }

    fn interested(&self, _stream_type: &str) -> bool {
        true
    }

    async fn project(
        &self,
        generation: i32,
        events: &[Arc<RecordedEvent>],
        conn: &mut PgConnection,
    ) -> Result<(), ProjectError> {
        let metadata: Vec<_> = events.iter().map(|event| event.metadata()).collect();
        sqlx::query(
            "INSERT INTO audit_entries (generation, tenant_id, sequence, action, actor, stream_type, stream_id,
                occurred_at, recorded_at, request_id, cause, correlation_id, command)
             SELECT $1, * FROM unnest($2::uuid[], $3::bigint[], $4::text[], $5::text[], $6::text[], $7::uuid[],
                $8::timestamptz[], $9::timestamptz[], $10::text[], $11::text[], $12::text[], $13::text[])",
        )
        .bind(generation)
        .bind(column(events, |event| event.tenant_id))
        .bind(column(events, |event| event.sequence))
        .bind(column(events, |event| event.event_type.as_str()))
        .bind(column(events, |event| event.actor.as_str()))
        .bind(column(events, |event| event.stream_type.as_str()))
        .bind(column(events, |event| event.stream_id))
        .bind(column(events, |event| event.occurred_at))
        .bind(column(events, |event| event.recorded_at))
        .bind(metadata.iter().map(|metadata| metadata.request_id.as_deref()).collect::<Vec<_>>())
        .bind(metadata.iter().map(|metadata| metadata.causation_id.as_deref()).collect::<Vec<_>>())
        .bind(metadata.iter().map(|metadata| metadata.correlation_id.as_deref()).collect::<Vec<_>>())
        .bind(metadata.iter().map(|metadata| named(&metadata.command)).collect::<Vec<_>>())
        .execute(&mut *conn)
        .await?;
        count(generation, events, conn).await
    }
}

async fn count(generation: i32, events: &[Arc<RecordedEvent>], conn: &mut PgConnection) -> Result<(), ProjectError> {
    let mut counts = BTreeMap::<(Uuid, &str), i64>::new();
    for event in events {
        *counts.entry((event.tenant_id, event.event_type.as_str())).or_default() += 1;
    }
    sqlx::query(
        "INSERT INTO event_type_counts AS known (generation, tenant_id, event_type, count)
         SELECT $1, * FROM unnest($2::uuid[], $3::text[], $4::bigint[])
         ON CONFLICT (generation, tenant_id, event_type) DO UPDATE SET count = known.count + excluded.count",
    )
    .bind(generation)
    .bind(counts.keys().map(|(tenant, _)| *tenant).collect::<Vec<_>>())
    .bind(counts.keys().map(|(_, event_type)| *event_type).collect::<Vec<_>>())
    .bind(counts.values().copied().collect::<Vec<_>>())
    .execute(conn)
    .await?;
    Ok(())
}

fn column<'a, T>(events: &'a [Arc<RecordedEvent>], value: impl Fn(&'a RecordedEvent) -> T) -> Vec<T> {
    events.iter().map(|event| value(event)).collect()
}

fn named(command: &str) -> Option<&str> {
    Some(command).filter(|command| !command.is_empty())
}
