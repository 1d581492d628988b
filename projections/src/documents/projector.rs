//! Keeps the documents of one type, a set at a time: read what is needed, fold in memory, write all at once.

use std::collections::HashMap;
use std::marker::PhantomData;
use std::sync::Arc;

use async_trait::async_trait;
use eventstore::{Loaded, RecordedEvent};
use sqlx::postgres::PgArguments;
use sqlx::query::Query;
use sqlx::{AssertSqlSafe, PgConnection, Postgres, Row, SqlSafeStr, SqlStr};
use uuid::Uuid;

use super::{Documented, Value, revision};
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
    keep: Option<SqlStr>,
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
    // What follows the key is replaced; when and by whom it was created stays what it was by the fold itself.
    let replaced = columns.iter().skip(2).map(|(name, _)| format!("{name} = excluded.{name}"));
    let replaced = replaced.collect::<Vec<_>>().join(", ");
    let creation = A::HISTORY.map(|_| ("created_sequence", "bigint"));
    let store = format!(
        "{} ON CONFLICT (generation, tenant_id, id) DO UPDATE SET {replaced}",
        insert(table, columns.iter().copied().chain(creation))
    );
    let keep = A::HISTORY.map(|history| insert(history, columns.iter().copied().chain([("until", "bigint")])));
    let sql = |text: String| AssertSqlSafe(text).into_sql_str();
    Arc::new(Documents::<A> { load: sql(load), store: sql(store), keep: keep.map(sql), aggregate: PhantomData })
}

/// Inserts rows of the generation `$1` from an array for each column.
fn insert(table: &str, columns: impl Iterator<Item = (&'static str, &'static str)>) -> String {
    let (names, kinds): (Vec<_>, Vec<_>) = columns.unzip();
    let arrays = kinds.iter().enumerate().map(|(place, kind)| format!("${}::{kind}[]", place + 2));
    let (names, arrays) = (names.join(", "), arrays.collect::<Vec<_>>().join(", "));
    format!("INSERT INTO {table} (generation, {names}) SELECT $1, * FROM unnest({arrays})")
}

type Key = (Uuid, Uuid);

/// What a batch of events made of documents.
struct Outcome<A> {
    /// As they stand after it.
    documents: HashMap<Key, Loaded<A>>,
    /// By which sequence those were created that it created.
    created: HashMap<Key, i64>,
    /// The states that were replaced, and by which sequence each was.
    replaced: Vec<(Key, Loaded<A>)>,
    ends: Vec<i64>,
}

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

    /// Folds the events in; where the type has a history, each state that is replaced is kept as it was.
    fn fold(documents: HashMap<Key, Loaded<A>>, events: &[Arc<RecordedEvent>]) -> Result<Outcome<A>, ProjectError> {
        let mut outcome = Outcome { documents, created: HashMap::new(), replaced: Vec::new(), ends: Vec::new() };
        for event in events {
            let key = (event.tenant_id, event.stream_id);
            let document = outcome.documents.entry(key).or_default();
            // Versions are dense: anything else means that an event was lost or came twice.
            if event.version != document.version + 1 {
                return Err(ProjectError::OutOfOrder { position: event.position, follows: document.version });
            }
            if !document.exists() {
                outcome.created.insert(key, event.sequence);
            } else if A::HISTORY.is_some() {
                outcome.replaced.push((key, document.clone()));
                outcome.ends.push(event.sequence);
            }
            document.fold(event).map_err(|source| ProjectError::Decode { position: event.position, source })?;
        }
        Ok(outcome)
    }

    async fn store(&self, generation: i32, outcome: Outcome<A>, conn: &mut PgConnection) -> Result<(), ProjectError> {
        let Outcome { documents, created, replaced, ends } = outcome;
        let documents: Vec<_> = documents.into_iter().collect();
        let mut store = bind(&self.store, generation, &documents)?;
        if A::HISTORY.is_some() {
            // Those that were there before keep what they have.
            store = store.bind(documents.iter().map(|(key, _)| created.get(key).copied()).collect::<Vec<_>>());
        }
        store.execute(&mut *conn).await?;
        if let Some(keep) = self.keep.as_ref().filter(|_| !replaced.is_empty()) {
            bind(keep, generation, &replaced)?.bind(ends).execute(conn).await?;
        }
        Ok(())
    }
}

/// Binds the generation and the columns that every row of the type has.
fn bind<'q, A: Documented>(
    sql: &SqlStr,
    generation: i32,
    rows: &'q [(Key, Loaded<A>)],
) -> Result<Query<'q, Postgres, PgArguments>, ProjectError> {
    let states = rows.iter().map(|(_, row)| serde_json::to_string(&row.state));
    let mut query = sqlx::query(sql.clone())
        .bind(generation)
        .bind(rows.iter().map(|((tenant, _), _)| *tenant).collect::<Vec<_>>())
        .bind(rows.iter().map(|((_, id), _)| *id).collect::<Vec<_>>())
        .bind(states.collect::<Result<Vec<_>, _>>()?)
        .bind(vec![A::REVISION; rows.len()])
        .bind(rows.iter().map(|(_, row)| row.version).collect::<Vec<_>>())
        .bind(rows.iter().map(|(_, row)| row.sequence).collect::<Vec<_>>())
        .bind(rows.iter().map(|(_, row)| row.created_at).collect::<Vec<_>>())
        .bind(rows.iter().map(|(_, row)| row.updated_at).collect::<Vec<_>>())
        .bind(rows.iter().map(|(_, row)| row.created_by.as_str()).collect::<Vec<_>>());
    for column in A::COLUMNS {
        let states = rows.iter().map(|(_, row)| &row.state);
        query = match column.value {
            Value::Text(value) => query.bind(states.map(value).collect::<Vec<_>>()),
            Value::Id(value) => query.bind(states.map(value).collect::<Vec<_>>()),
        };
    }
    Ok(query)
}

#[async_trait]
impl<A: Documented> Projector for Documents<A> {
    fn name(&self) -> &'static str {
        A::TABLE
    }

    fn revision(&self) -> i32 {
        revision::<A>()
    }

    fn tables(&self) -> &'static [&'static str] {
        const {
            match A::HISTORY {
                None => &[A::TABLE],
                Some(history) => &[A::TABLE, history],
            }
        }
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
        let documents = self.load(generation, events, conn).await?;
        self.store(generation, Self::fold(documents, events)?, conn).await
    }
}
