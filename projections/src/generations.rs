//! Generations of a projector's rows: one is read, another may be made beside it, and takes its place once it has come
//! further.

use std::time::Duration;

use sqlx::{Connection, PgConnection};

use crate::checkpoint::Checkpoints;
use crate::projector::Projector;

/// What a generation that nobody reads is made for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// To be read in the place of the one that is.
    Building,
    /// To be compared with it, and thrown away.
    Checking,
}

impl Purpose {
    fn status(self) -> &'static str {
        match self {
            Self::Building => "building",
            Self::Checking => "checking",
        }
    }
}

/// Makes the first generation of a projector and its checkpoints where there are none; answers the generation that is
/// read and the revision of its rows.
pub(crate) async fn prepare(
    projector: &str,
    revision: i32,
    conn: &mut PgConnection,
) -> Result<(i32, i32), sqlx::Error> {
    sqlx::query(
        "INSERT INTO projection_generations (projector, generation, status, revision, activated_at)
         SELECT $1, 1, 'active', $2, clock_timestamp()
         WHERE NOT EXISTS (SELECT FROM projection_generations WHERE projector = $1)
         ON CONFLICT DO NOTHING",
    )
    .bind(projector)
    .bind(revision)
    .execute(&mut *conn)
    .await?;
    let kept: (i32, i32) = sqlx::query_as(
        "SELECT generation, revision FROM projection_generations WHERE projector = $1 AND status = 'active'",
    )
    .bind(projector)
    .fetch_one(&mut *conn)
    .await?;
    make_checkpoints(projector, kept.0, conn).await?;
    Ok(kept)
}

async fn make_checkpoints(projector: &str, generation: i32, conn: &mut PgConnection) -> Result<(), sqlx::Error> {
    sqlx::query(
        "INSERT INTO projection_checkpoints (projector, generation, slot)
         SELECT $1, $2, slot FROM generate_series(0, 63) AS slot
         WHERE EXISTS (SELECT FROM projection_generations
            WHERE projector = $1 AND generation = $2 AND status <> 'retired')
         ON CONFLICT DO NOTHING",
    )
    .bind(projector)
    .bind(generation)
    .execute(conn)
    .await?;
    Ok(())
}

/// Opens a generation beside the one that is read, and gives its number; where one is being built, that one's.
pub(crate) async fn open(
    projector: &dyn Projector,
    purpose: Purpose,
    conn: &mut PgConnection,
) -> Result<i32, sqlx::Error> {
    let mut tx = conn.begin().await?;
    // One at a time, or two would take the same number.
    sqlx::query("SELECT pg_advisory_xact_lock(hashtext('annals.generations.' || $1))")
        .bind(projector.name())
        .execute(&mut *tx)
        .await?;
    let known: Vec<(i32, String, i32)> = sqlx::query_as(
        "SELECT generation, status, revision FROM projection_generations WHERE projector = $1 ORDER BY generation",
    )
    .bind(projector.name())
    .fetch_all(&mut *tx)
    .await?;
    let building = known.iter().find(|(_, status, _)| status == "building");
    if purpose == Purpose::Building
        && let Some((generation, _, revision)) = building
    {
        if *revision >= projector.revision() {
            tx.commit().await?;
            return Ok(*generation);
        }
        // An older binary has begun it: nobody needs that any more.
        retire(projector.name(), *generation, &mut tx).await?;
    }
    let generation = known.last().map_or(1, |(last, ..)| last + 1);
    for table in projector.tables() {
        sqlx::query("SELECT open_generation($1, $2)").bind(table).bind(generation).execute(&mut *tx).await?;
    }
    sqlx::query("INSERT INTO projection_generations (projector, generation, status, revision) VALUES ($1, $2, $3, $4)")
        .bind(projector.name())
        .bind(generation)
        .bind(purpose.status())
        .bind(projector.revision())
        .execute(&mut *tx)
        .await?;
    make_checkpoints(projector.name(), generation, &mut tx).await?;
    tx.commit().await?;
    Ok(generation)
}

/// Lets PostgreSQL know what the rows of a generation are like, before anybody reads them.
pub(crate) async fn analyze(
    projector: &dyn Projector,
    generation: i32,
    conn: &mut PgConnection,
) -> Result<(), sqlx::Error> {
    for table in projector.tables() {
        sqlx::query("SELECT analyze_generation($1, $2)").bind(table).bind(generation).execute(&mut *conn).await?;
    }
    Ok(())
}

/// How a generation that was built came to be read, or did not yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Swap {
    /// It is the one that is read.
    Done,
    /// The one that is read is further in some slot.
    Behind,
    /// It is not being built any more.
    Gone,
}

/// Lets readers have a generation, if it is as far as the one that they read: the checkpoints of that one are locked, so
/// that it goes no further meanwhile, and are gone afterwards, so that whoever still writes it is fenced off.
pub(crate) async fn swap(checkpoints: &Checkpoints, conn: &mut PgConnection) -> Result<Swap, sqlx::Error> {
    let (projector, generation) = (checkpoints.projector(), checkpoints.generation());
    let mut tx = conn.begin().await?;
    let status = "SELECT generation, status FROM projection_generations WHERE projector = $1
        AND (status = 'active' OR generation = $2) ORDER BY generation FOR UPDATE";
    let known: Vec<(i32, String)> = sqlx::query_as(status).bind(projector).bind(generation).fetch_all(&mut *tx).await?;
    if !known.iter().any(|(of, status)| *of == generation && status == "building") {
        return Ok(Swap::Gone);
    }
    let read = known.iter().find(|(_, status)| status == "active").map(|(of, _)| *of);
    let further: bool = sqlx::query_scalar(
        "WITH read AS (SELECT slot, position, incarnation FROM projection_checkpoints
            WHERE projector = $1 AND generation = $2 ORDER BY slot FOR UPDATE)
         SELECT coalesce(bool_or(read.position > built.position OR read.incarnation > built.incarnation), false)
         FROM read JOIN projection_checkpoints built USING (slot)
         WHERE built.projector = $1 AND built.generation = $3",
    )
    .bind(projector)
    .bind(read)
    .bind(generation)
    .fetch_one(&mut *tx)
    .await?;
    if further {
        return Ok(Swap::Behind);
    }
    if let Some(read) = read {
        retire(projector, read, &mut tx).await?;
    }
    sqlx::query(
        "UPDATE projection_generations SET status = 'active', activated_at = clock_timestamp()
         WHERE projector = $1 AND generation = $2",
    )
    .bind(projector)
    .bind(generation)
    .execute(&mut *tx)
    .await?;
    tx.commit().await?;
    Ok(Swap::Done)
}

/// Nobody reads or writes it any more.
pub(crate) async fn retire(projector: &str, generation: i32, conn: &mut PgConnection) -> Result<(), sqlx::Error> {
    sqlx::query("UPDATE projection_generations SET status = 'retired' WHERE projector = $1 AND generation = $2")
        .bind(projector)
        .bind(generation)
        .execute(&mut *conn)
        .await?;
    sqlx::query("DELETE FROM projection_checkpoints WHERE projector = $1 AND generation = $2")
        .bind(projector)
        .bind(generation)
        .execute(conn)
        .await?;
    Ok(())
}

/// Takes the rows of retired generations away. Somebody may still be reading: what can't be had at once is left for the
/// next time.
pub(crate) async fn drop_retired(projector: &dyn Projector, conn: &mut PgConnection) -> Result<(), sqlx::Error> {
    let retired: Vec<i32> =
        sqlx::query_scalar("SELECT generation FROM projection_generations WHERE projector = $1 AND status = 'retired'")
            .bind(projector.name())
            .fetch_all(&mut *conn)
            .await?;
    for generation in retired {
        let mut tx = conn.begin().await?;
        for table in projector.tables() {
            sqlx::query("SELECT drop_generation($1, $2)").bind(table).bind(generation).execute(&mut *tx).await?;
        }
        for table in ["projection_sequences", "projection_parked", "projection_checkpoints", "projection_generations"] {
            let sql = format!("DELETE FROM {table} WHERE projector = $1 AND generation = $2");
            sqlx::query(sqlx::AssertSqlSafe(sql)).bind(projector.name()).bind(generation).execute(&mut *tx).await?;
        }
        tx.commit().await?;
        tracing::info!(projector = projector.name(), generation, "an old generation of rows is gone");
    }
    Ok(())
}

/// How long those who read an old generation may take until it is taken away.
pub(crate) const GRACE: Duration = Duration::from_secs(5);
