//! What documents were: lists as of a sequence, and what changed between two. The state that holds is the document itself;
//! those before it are in the history, each with the sequences that it held from and until.

use sqlx::postgres::PgRow;
use sqlx::{AssertSqlSafe, PgConnection, Row};
use uuid::Uuid;

use super::{DOCUMENT, Document, DocumentType, document, fits};
use crate::read_models::{ReadError, ReadModels};

/// A document that changed between two sequences.
#[derive(Clone, Debug, PartialEq)]
pub struct Change {
    /// As it stood at the first; none where it was created later.
    pub before: Option<Document>,
    /// As it stood at the last.
    pub after: Document,
}

impl ReadModels {
    /// Documents as they stood at a sequence that the read model has seen: the same as [`list`](Self::list) gave then.
    pub async fn list_as_of(
        &self,
        tenant: Uuid,
        kind: DocumentType,
        sequence: i64,
        filters: &[(&str, &str)],
        before: Option<Uuid>,
        limit: i64,
    ) -> Result<Vec<Document>, ReadError> {
        let Some(fits) = fits(kind, filters, 6)? else { return Ok(Vec::new()) };
        let part = |table: &str, held: &str| {
            format!(
                "(SELECT {DOCUMENT} FROM {table} WHERE generation = $1 AND tenant_id = $2 AND id < $3 AND sequence <= $4
                  {held}{fits} ORDER BY id DESC LIMIT $5)"
            )
        };
        let history = history_of(kind)?;
        let parts = format!("{} UNION ALL {}", part(kind.name, ""), part(history, "AND until > $4"));
        let sql = format!("{parts} ORDER BY id DESC LIMIT $5");
        let mut tx = self.begin(tenant).await?;
        let generation = generation_of(kind, &mut tx).await?;
        let query = sqlx::query(AssertSqlSafe(sql)).bind(generation).bind(tenant).bind(before.unwrap_or(Uuid::max()));
        let mut query = query.bind(sequence).bind(limit);
        for (_, value) in filters {
            query = query.bind(*value);
        }
        let rows = query.fetch_all(&mut *tx).await?;
        tx.commit().await?;
        rows.iter().map(document).collect()
    }

    /// What changed after the sequence `from` up to the sequence `to`, newest first by id: those below `before`, at most
    /// `limit`.
    pub async fn changes(
        &self,
        tenant: Uuid,
        kind: DocumentType,
        (from, to): (i64, i64),
        before: Option<Uuid>,
        limit: i64,
    ) -> Result<Vec<Change>, ReadError> {
        let sql = changes_sql(kind.name, history_of(kind)?);
        let mut tx = self.begin(tenant).await?;
        let generation = generation_of(kind, &mut tx).await?;
        let query = sqlx::query(AssertSqlSafe(sql)).bind(generation).bind(tenant).bind(before.unwrap_or(Uuid::max()));
        let rows = query.bind(from).bind(to).bind(limit).fetch_all(&mut *tx).await?;
        tx.commit().await?;
        changes(&rows)
    }
}

/// Each document that was created or replaced in the range, as it stood at the end of it and then, if it was there, before
/// it. States are looked up one by one: a table that has just grown has no statistics, and would be read as a whole.
fn changes_sql(table: &str, history: &str) -> String {
    const OF: &str = "generation = $1 AND tenant_id = $2";
    let held = |later: bool, table: &str, at: &str| {
        format!(
            "SELECT held.*, {later} AS later FROM changed CROSS JOIN LATERAL (SELECT {DOCUMENT} FROM {table}
             WHERE {OF} AND id = changed.id AND {at} ORDER BY sequence DESC LIMIT 1) held"
        )
    };
    format!(
        "WITH changed AS MATERIALIZED (
            (SELECT id FROM {table} WHERE {OF} AND id < $3 AND created_sequence > $4 AND created_sequence <= $5
             ORDER BY id DESC LIMIT $6)
            UNION
            (SELECT DISTINCT id FROM {history} WHERE {OF} AND id < $3 AND until > $4 AND until <= $5
             ORDER BY id DESC LIMIT $6)
            ORDER BY id DESC LIMIT $6)
         {} UNION ALL {} UNION ALL {} ORDER BY id DESC, later DESC",
        held(true, table, "sequence <= $5"),
        held(true, history, "sequence <= $5 AND until > $5"),
        held(false, history, "sequence <= $4 AND until > $4")
    )
}

fn changes(rows: &[PgRow]) -> Result<Vec<Change>, ReadError> {
    let mut changes = Vec::<Change>::new();
    for row in rows {
        let read = document(row)?;
        match changes.last_mut() {
            Some(change) if change.after.id == read.id => change.before = Some(read),
            _ if row.try_get("later")? => changes.push(Change { before: None, after: read }),
            _ => return Err(ReadError::Malformed("a state has no later one".into())),
        }
    }
    Ok(changes)
}

fn history_of(kind: DocumentType) -> Result<&'static str, ReadError> {
    kind.history.ok_or_else(|| ReadError::UnknownColumn("until".to_owned()))
}

/// The generation that is read. One that an older binary began knows nothing of what was before.
async fn generation_of(kind: DocumentType, conn: &mut PgConnection) -> Result<i32, ReadError> {
    let active: Option<(i32, i32)> = sqlx::query_as(
        "SELECT generation, revision FROM projection_generations WHERE projector = $1 AND status = 'active'",
    )
    .bind(kind.name)
    .fetch_optional(conn)
    .await?;
    match active {
        Some((generation, revision)) if revision >= kind.revision => Ok(generation),
        _ => Err(ReadError::MadeAnew),
    }
}
