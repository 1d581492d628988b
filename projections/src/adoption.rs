//! A read model in a log that went back. It may live in another database than the log, which was not restored with it, or
//! have been written once more before anybody knew: rows that are made of what the log has lost are made anew.

use eventstore::{HighWater, Incarnations};
use sqlx::{AssertSqlSafe, Connection, PgConnection};

use crate::feed::rules;
use crate::projector::Projector;

/// What became of a read model's rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Adopted {
    /// They belong to the log as it is, or there are none any more: then they are made anew from its beginning.
    Ours,
    /// They say that the log has gone back, which nobody has noticed yet.
    Beyond(HighWater),
}

/// Makes the rows of a generation those of the newest incarnation: each checkpoint says which one it belongs to, and one
/// that lies beyond the end of its own has seen what does not count any more. Whoever still writes for an earlier
/// incarnation is kept out by the fence from here on.
pub(crate) async fn adopt(
    projector: &dyn Projector,
    generation: i32,
    incarnations: &Incarnations,
    end: i64,
    conn: &mut PgConnection,
) -> Result<Adopted, sqlx::Error> {
    let newest = incarnations.newest().id;
    let places = places(projector, generation, "", conn).await?;
    if let Some(beyond) = rules::beyond(&places, HighWater { incarnation: newest, position: end }) {
        return Ok(Adopted::Beyond(beyond));
    }
    if places.iter().all(|place| place.incarnation == newest) {
        return Ok(Adopted::Ours);
    }
    let mut tx = conn.begin().await?;
    let places = self::places(projector, generation, "FOR UPDATE", &mut tx).await?;
    // Another process may have done it, or know of a later life.
    if places.iter().any(|place| place.incarnation >= newest) {
        return Ok(Adopted::Ours);
    }
    let lost = rules::lost(&places, incarnations);
    if lost {
        drop_rows(projector, generation, &mut tx).await?;
    }
    sqlx::query(
        "UPDATE projection_checkpoints SET incarnation = $3, position = CASE WHEN $4 THEN 0 ELSE position END
         WHERE projector = $1 AND generation = $2",
    )
    .bind(projector.name())
    .bind(generation)
    .bind(newest)
    .bind(lost)
    .execute(&mut *tx)
    .await?;
    tx.commit().await?;
    if lost {
        let projector = projector.name();
        tracing::warn!(projector, incarnation = newest, "rows of a lost end of the log: made anew");
    }
    Ok(Adopted::Ours)
}

/// Where each checkpoint stands.
async fn places(
    projector: &dyn Projector,
    generation: i32,
    lock: &str,
    conn: &mut PgConnection,
) -> Result<Vec<HighWater>, sqlx::Error> {
    let sql = format!(
        "SELECT incarnation, position FROM projection_checkpoints WHERE projector = $1 AND generation = $2
         ORDER BY slot {lock}"
    );
    let rows: Vec<(i64, i64)> =
        sqlx::query_as(AssertSqlSafe(sql)).bind(projector.name()).bind(generation).fetch_all(conn).await?;
    Ok(rows.into_iter().map(|(incarnation, position)| HighWater { incarnation, position }).collect())
}

async fn drop_rows(projector: &dyn Projector, generation: i32, conn: &mut PgConnection) -> Result<(), sqlx::Error> {
    // A read model may be large, and nobody must see part of it gone.
    sqlx::raw_sql("SET LOCAL statement_timeout = 0").execute(&mut *conn).await?;
    // Names of tables are our own constants.
    for table in projector.tables() {
        let sql = format!("DELETE FROM {table} WHERE generation = $1");
        sqlx::query(AssertSqlSafe(sql)).bind(generation).execute(&mut *conn).await?;
    }
    for table in ["projection_sequences", "projection_parked"] {
        let sql = format!("DELETE FROM {table} WHERE projector = $1 AND generation = $2");
        sqlx::query(AssertSqlSafe(sql)).bind(projector.name()).bind(generation).execute(&mut *conn).await?;
    }
    Ok(())
}
