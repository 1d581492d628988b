//! Keeps the documents of one type, a set at a time: read what is needed, fold in memory, write all at once.

use std::collections::HashMap;
use std::marker::PhantomData;
use std::sync::Arc;

use async_trait::async_trait;
use eventstore::{Loaded, RecordedEvent};
use sqlx::{AssertSqlSafe, PgConnection, Row, SqlSafeStr, SqlStr};
use uuid::Uuid;

use super::{Documented, Value};
use crate::projector::{ProjectError, Projector};

/// The columns that every document table has, and their types.
const ENVELOPE: [(&str, &str); 9] = [
    ("tenant_id", "uuid"),
    ("id", "uuid"),
    ("state", "text"),
    ("revision", "int"),
    ("version", "bigint"),
    ("sequence", "bigint"),
    ("created_at", "timestamptz"),
    ("updated_at", "timestamptz"),
    ("created_by", "text"),
];

struct Documents<A> {
    load: SqlStr,
    store: SqlStr,
    aggregate: PhantomData<fn() -> A>,
}

/// The projector of an aggregate's documents. Its SQL is put together here, once, from what the type declares.
pub(super) fn projector<A: Documented>() -> Arc<dyn Projector> {
    let table = A::TABLE;
    let load = format!(
        "SELECT d.tenant_id, d.id, d.state, d.version, d.sequence, d.created_at, d.updated_at, d.created_by
         FROM unnest($2::uuid[], $3::uuid[]) AS wanted (tenant_id, id)
         JOIN {table} d ON d.generation = $1 AND d.tenant_id = wanted.tenant_id AND d.id = wanted.id"
    );
    let declared = A::COLUMNS.iter().map(|column| match column.value {
        Value::Text(_) => (column.name, "text"),
        Value::Id(_) => (column.name, "uuid"),
    });
    let columns: Vec<_> = ENVELOPE.into_iter().chain(declared).collect();
    let names = columns.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ");
    let arrays = columns.iter().enumerate().map(|(place, (_, kind))| format!("${}::{kind}[]", place + 2));
    let arrays = arrays.collect::<Vec<_>>().join(", ");
    // What follows the key is replaced; when and by whom it was created stays what it was by the fold itself.
    let replaced = columns.iter().skip(2).map(|(name, _)| format!("{name} = excluded.{name}"));
    let replaced = replaced.collect::<Vec<_>>().join(", ");
    let store = format!(
        "INSERT INTO {table} (generation, {names}) SELECT $1, * FROM unnest({arrays})
         ON CONFLICT (generation, tenant_id, id) DO UPDATE SET {replaced}"
    );
    let (load, store) = (AssertSqlSafe(load).into_sql_str(), AssertSqlSafe(store).into_sql_str());
    Arc::new(Documents::<A> { load, store, aggregate: PhantomData })
}

type Key = (Uuid, Uuid);

impl<A: Documented> Documents<A> {
    /// The documents that these events follow on: none for a stream whose first event is among them.
    async fn load(
        &self,
        generation: i32,
        events: &[Arc<RecordedEvent>],
        conn: &mut PgConnection,
    ) -> Result<HashMap<Key, Loaded<A>>, ProjectError> {
        let mut loaded = HashMap::with_capacity(events.len());
        let (mut tenants, mut ids) = (Vec::new(), Vec::new());
        for event in events {
            loaded.entry((event.tenant_id, event.stream_id)).or_insert_with(|| {
                if event.version > 1 {
                    tenants.push(event.tenant_id);
                    ids.push(event.stream_id);
                }
                Loaded::default()
            });
        }
        if ids.is_empty() {
            return Ok(loaded);
        }
        let query = sqlx::query(self.load.clone()).bind(generation).bind(tenants).bind(ids);
        for row in query.fetch_all(conn).await? {
            let document = Loaded {
                state: serde_json::from_str(row.try_get(2)?)?,
                version: row.try_get(3)?,
                sequence: row.try_get(4)?,
                created_at: row.try_get(5)?,
                updated_at: row.try_get(6)?,
                created_by: row.try_get(7)?,
            };
            loaded.insert((row.try_get(0)?, row.try_get(1)?), document);
        }
        Ok(loaded)
    }

    async fn store(
        &self,
        generation: i32,
        documents: HashMap<Key, Loaded<A>>,
        conn: &mut PgConnection,
    ) -> Result<(), ProjectError> {
        let documents: Vec<_> = documents.into_iter().collect();
        let states = documents.iter().map(|(_, document)| serde_json::to_string(&document.state));
        let mut query = sqlx::query(self.store.clone())
            .bind(generation)
            .bind(documents.iter().map(|((tenant, _), _)| *tenant).collect::<Vec<_>>())
            .bind(documents.iter().map(|((_, id), _)| *id).collect::<Vec<_>>())
            .bind(states.collect::<Result<Vec<_>, _>>()?)
            .bind(vec![A::REVISION; documents.len()])
            .bind(documents.iter().map(|(_, document)| document.version).collect::<Vec<_>>())
            .bind(documents.iter().map(|(_, document)| document.sequence).collect::<Vec<_>>())
            .bind(documents.iter().map(|(_, document)| document.created_at).collect::<Vec<_>>())
            .bind(documents.iter().map(|(_, document)| document.updated_at).collect::<Vec<_>>())
            .bind(documents.iter().map(|(_, document)| document.created_by.as_str()).collect::<Vec<_>>());
        for column in A::COLUMNS {
            let states = documents.iter().map(|(_, document)| &document.state);
            query = match column.value {
                Value::Text(value) => query.bind(states.map(value).collect::<Vec<_>>()),
                Value::Id(value) => query.bind(states.map(value).collect::<Vec<_>>()),
            };
        }
        query.execute(conn).await?;
        Ok(())
    }
}

#[async_trait]
impl<A: Documented> Projector for Documents<A> {
    fn name(&self) -> &'static str {
        A::TABLE
    }

    fn revision(&self) -> i32 {
        A::REVISION
    }

    fn tables(&self) -> &'static [&'static str] {
        const { &[A::TABLE] }
    }

    fn interested(&self, stream_type: &str) -> bool {
        stream_type == A::STREAM.name
    }

    async fn project(
        &self,
        generation: i32,
        events: &[Arc<RecordedEvent>],
        conn: &mut PgConnection,
    ) -> Result<(), ProjectError> {
        let mut documents = self.load(generation, events, conn).await?;
        for event in events {
            let document = documents.entry((event.tenant_id, event.stream_id)).or_default();
            // Versions are dense: anything else means that an event was lost or came twice.
            if event.version != document.version + 1 {
                return Err(ProjectError::OutOfOrder { position: event.position, follows: document.version });
            }
            document.fold(event).map_err(|source| ProjectError::Decode { position: event.position, source })?;
        }
        self.store(generation, documents, conn).await
    }
}
