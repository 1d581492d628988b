//! Whether the rows of a projector are what the log makes them: they are made once more, beside those that are read, and
//! compared row by row.

use eventstore::chain;
use futures::TryStreamExt;
use serde::Serialize;
use sqlx::{AssertSqlSafe, Connection, PgConnection, Row};
use tokio_util::sync::CancellationToken;

use super::{Operator, OperatorError};
use crate::generations::{self, Purpose, prepare};
use crate::projector::Projector;
use crate::rebuild::Builder;

/// How many rows that differ are named.
const NAMED: usize = 20;

/// What a comparison found.
#[derive(Clone, Debug, Serialize)]
pub struct Verification {
    /// The projector.
    pub projector: String,
    /// Whether every row is what the log makes it.
    pub ok: bool,
    /// Each table of it.
    pub tables: Vec<TableVerification>,
}

/// One table.
#[derive(Clone, Debug, Serialize)]
pub struct TableVerification {
    /// Its name.
    pub table: String,
    /// How many rows are read.
    pub rows: i64,
    /// SHA-256 over the rows that are read, in the order of their own hashes, in hexadecimal digits; where the
    /// verification is well, those that the log makes have the same.
    pub digest: String,
    /// How many rows differ: are missing, are too many, or have other values.
    pub differing: i64,
    /// The first of them: which side has the row, its tenant, and what is its key.
    pub named: Vec<String>,
}

impl Operator {
    /// Makes the rows once more and compares. Live work goes on meanwhile but for a moment; parked streams are parked in
    /// both.
    pub async fn verify(&self, name: &str, stop: &CancellationToken) -> Result<Verification, OperatorError> {
        let projector = self.find(name)?.clone();
        let generation = {
            let mut conn = self.pool.acquire().await?;
            prepare(projector.name(), projector.revision(), &mut conn).await?;
            generations::open(&*projector, Purpose::Checking, &mut conn).await?
        };
        let (store, pool) = (self.store.clone(), self.pool.clone());
        let builder = Builder { projector: projector.clone(), store, pool, generation, stop: stop.clone() };
        let compared = self.compare(&builder).await;
        let mut conn = self.pool.acquire().await?;
        generations::retire(projector.name(), generation, &mut conn).await?;
        if let Err(error) = generations::drop_retired(&*projector, &mut conn).await {
            tracing::info!(projector = name, error = chain(&error), "the rows of the comparison go with the next one");
        }
        let tables = compared?;
        let ok = tables.iter().all(|table| table.differing == 0);
        Ok(Verification { projector: name.to_owned(), ok, tables })
    }

    async fn compare(&self, builder: &Builder) -> Result<Vec<TableVerification>, OperatorError> {
        let projector = &*builder.projector;
        // Most of the way while the projector goes on: as far as it has come in every slot.
        let (_, read) = read_to(projector, "", &mut *self.pool.acquire().await?).await?;
        builder.pass(read.iter().copied().min().unwrap_or(0), |_| i64::MAX, true).await?;
        // The rest while it is held where it is; then both are looked at as they are at that moment.
        let mut held = self.pool.acquire().await?;
        let mut held = held.begin().await?;
        let (active, read) = read_to(projector, "FOR UPDATE OF c", &mut held).await?;
        builder.pass(read.iter().copied().max().unwrap_or(0), |slot| bound(&read, slot), true).await?;
        let mut seen = self.pool.acquire().await?;
        let mut seen = seen.begin().await?;
        sqlx::raw_sql("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ; SELECT 1").execute(&mut *seen).await?;
        held.rollback().await?;
        let mut tables = Vec::new();
        for table in projector.tables() {
            tables.push(table_of(table, (active, builder.generation), &mut seen).await?);
        }
        Ok(tables)
    }
}

/// The generation that is read, and how far it has come in each slot.
async fn read_to(
    projector: &dyn Projector,
    lock: &str,
    conn: &mut PgConnection,
) -> Result<(i32, Vec<i64>), sqlx::Error> {
    let sql = format!(
        "SELECT c.generation, c.position FROM projection_checkpoints c JOIN projection_generations g
            USING (projector, generation)
         WHERE projector = $1 AND g.status = 'active' ORDER BY c.slot {lock}"
    );
    let rows: Vec<(i32, i64)> = sqlx::query_as(AssertSqlSafe(sql)).bind(projector.name()).fetch_all(conn).await?;
    let active = rows.first().map_or(0, |(generation, _)| *generation);
    Ok((active, rows.into_iter().map(|(_, position)| position).collect()))
}

fn bound(read: &[i64], slot: u8) -> i64 {
    read.get(usize::from(slot)).copied().unwrap_or(0)
}

/// Compares a table's rows in two generations. Names of tables are our own constants.
async fn table_of(
    table: &str,
    (read, made): (i32, i32),
    conn: &mut PgConnection,
) -> Result<TableVerification, sqlx::Error> {
    // The generation aside, a row is all that it says.
    let rows = |generation: i32| {
        format!("SELECT tenant_id, to_jsonb(t) - 'generation' AS row FROM {table} t WHERE generation = {generation}")
    };
    let digest = format!(
        "SELECT count(*), encode(sha256(convert_to(coalesce(string_agg(hash, '' ORDER BY hash), ''), 'UTF8')), 'hex')
         FROM (SELECT md5(row::text) AS hash FROM ({}) rows) hashes",
        rows(read)
    );
    let whole = sqlx::query(AssertSqlSafe(digest)).fetch_one(&mut *conn).await?;
    let differing = format!(
        "SELECT 'read' AS side, tenant_id, row FROM (({read}) EXCEPT ALL ({made})) a
         UNION ALL SELECT 'made', tenant_id, row FROM (({made}) EXCEPT ALL ({read})) b",
        read = rows(read),
        made = rows(made)
    );
    let (mut count, mut named) = (0, Vec::new());
    let mut found = sqlx::query(AssertSqlSafe(differing)).fetch(conn);
    while let Some(row) = found.try_next().await? {
        count += 1;
        if named.len() < NAMED {
            let (side, tenant): (String, uuid::Uuid) = (row.try_get(0)?, row.try_get(1)?);
            let values: serde_json::Value = row.try_get(2)?;
            let key = ["id", "sequence", "customer_id", "event_type", "subscription_id"];
            let key = key.iter().find_map(|key| values.get(key)).cloned().unwrap_or_default();
            named.push(format!("{side}: tenant {tenant}, {key}"));
        }
    }
    Ok(TableVerification {
        table: table.to_owned(),
        rows: whole.try_get(0)?,
        digest: whole.try_get(1)?,
        differing: count,
        named,
    })
}
