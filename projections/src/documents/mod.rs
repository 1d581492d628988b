//! Resources as documents: the state of one stream, folded by its aggregate, and the columns that lists are filtered by.

mod history;
mod projector;
mod types;

use std::sync::Arc;

use chrono::{DateTime, Utc};
use domain::{Aggregate, StreamType};
use serde::Serialize;
use sqlx::postgres::PgRow;
use sqlx::{AssertSqlSafe, Row};
use uuid::Uuid;

use crate::projector::Projector;
use crate::read_models::{ReadError, ReadModels, active};

pub use history::Change;
pub use types::DOCUMENTS;

/// An aggregate whose states are kept as documents.
pub trait Documented: Aggregate {
    /// The table, which is also the projector's name: `context_things`.
    const TABLE: &'static str;
    /// What lists can be filtered by, as the migration of the table has it.
    const COLUMNS: &'static [Column<Self>];
    /// The table of the states that were replaced, of types that keep them: they can be listed as of a moment, and compared
    /// between two.
    const HISTORY: Option<&'static str> = None;
}

/// Rows with a history are others than those without.
const fn revision<A: Documented>() -> i32 {
    A::REVISION + A::HISTORY.is_some() as i32
}

/// A column that lists can be filtered by, and how its value follows from the state.
#[derive(Debug)]
pub struct Column<A> {
    name: &'static str,
    value: Value<A>,
}

#[derive(Debug)]
enum Value<A> {
    Text(fn(&A) -> Option<String>),
    Id(fn(&A) -> Option<Uuid>),
}

/// A column of text.
pub const fn text<A>(name: &'static str, value: fn(&A) -> Option<String>) -> Column<A> {
    Column { name, value: Value::Text(value) }
}

/// A column of UUIDs.
pub const fn id<A>(name: &'static str, value: fn(&A) -> Option<Uuid>) -> Column<A> {
    Column { name, value: Value::Id(value) }
}

/// A value that is a string in JSON, as a status is.
pub fn word<T: Serialize>(value: &T) -> Option<String> {
    match serde_json::to_value(value) {
        Ok(serde_json::Value::String(word)) => Some(word),
        _ => None,
    }
}

/// A document type, whatever its aggregate.
#[derive(Clone, Copy, Debug)]
pub struct DocumentType {
    /// The table, which is also the projector's name.
    pub name: &'static str,
    /// The streams that it shows.
    pub stream: StreamType,
    /// The table of its history, where it has one.
    pub history: Option<&'static str>,
    /// Of the fold that makes its rows.
    revision: i32,
    column_type: fn(&str) -> Option<&'static str>,
    projector: fn() -> Arc<dyn Projector>,
}

impl DocumentType {
    /// What keeps the documents.
    pub(crate) fn projector(&self) -> Arc<dyn Projector> {
        (self.projector)()
    }
}

/// The document type of an aggregate.
pub const fn of<A: Documented>() -> DocumentType {
    DocumentType {
        name: A::TABLE,
        stream: A::STREAM,
        history: A::HISTORY,
        revision: revision::<A>(),
        column_type: column_type::<A>,
        projector: projector::projector::<A>,
    }
}

fn column_type<A: Documented>(name: &str) -> Option<&'static str> {
    A::COLUMNS.iter().find(|column| column.name == name).map(|column| match column.value {
        Value::Text(_) => "text",
        Value::Id(_) => "uuid",
    })
}

/// A document as it was read.
#[derive(Clone, Debug, PartialEq)]
pub struct Document {
    /// UUID of the stream.
    pub id: Uuid,
    /// The aggregate's state, personal values sealed.
    pub state: serde_json::Value,
    /// Of the stream.
    pub version: i64,
    /// The tenant's sequence of the last event in it.
    pub sequence: i64,
    /// When the first event happened in the business.
    pub created_at: DateTime<Utc>,
    /// When the last event happened in the business.
    pub updated_at: DateTime<Utc>,
    /// Who is behind the first event.
    pub created_by: String,
}

/// What a document is read from, in the order that [`document`] reads it.
const DOCUMENT: &str = "id, state, version, sequence, created_at, updated_at, created_by";

impl ReadModels {
    /// Documents of a type, newest first by id: those below `before` that have all these values, at most `limit`. The
    /// value of a column of ids is a UUID's text.
    pub async fn list(
        &self,
        tenant: Uuid,
        kind: DocumentType,
        filters: &[(&str, &str)],
        before: Option<Uuid>,
        limit: i64,
    ) -> Result<Vec<Document>, ReadError> {
        let Some(fits) = fits(kind, filters, 4)? else { return Ok(Vec::new()) };
        let sql = format!(
            "SELECT {DOCUMENT} FROM {} WHERE generation = {} AND tenant_id = $1 AND id < $2{fits} ORDER BY id DESC LIMIT $3",
            kind.name,
            active(kind.name)
        );
        // Only names that the type declares came into the text.
        let mut query = sqlx::query(AssertSqlSafe(sql)).bind(tenant).bind(before.unwrap_or(Uuid::max())).bind(limit);
        for (_, value) in filters {
            query = query.bind(*value);
        }
        let mut tx = self.begin(tenant).await?;
        let rows = query.fetch_all(&mut *tx).await?;
        tx.commit().await?;
        rows.iter().map(document).collect()
    }
}

/// The conditions of filters, whose values are the parameters from `$first` on; none where nothing can fit.
fn fits(kind: DocumentType, filters: &[(&str, &str)], first: usize) -> Result<Option<String>, ReadError> {
    let mut sql = String::new();
    for (place, (name, value)) in filters.iter().enumerate() {
        let column_type = (kind.column_type)(name).ok_or_else(|| ReadError::UnknownColumn((*name).to_owned()))?;
        if column_type == "uuid" && Uuid::try_parse(value).is_err() {
            return Ok(None);
        }
        sql.push_str(&format!(" AND {name} = ${}::{column_type}", place + first));
    }
    Ok(Some(sql))
}

fn document(row: &PgRow) -> Result<Document, ReadError> {
    Ok(Document {
        id: row.try_get(0)?,
        state: serde_json::from_str(row.try_get(1)?)?,
        version: row.try_get(2)?,
        sequence: row.try_get(3)?,
        created_at: row.try_get(4)?,
        updated_at: row.try_get(5)?,
        created_by: row.try_get(6)?,
    })
}
