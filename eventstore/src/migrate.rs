//! Brings a database to the schema of this binary. Log and read models have folders of their own: they may live apart.

use sqlx::migrate::Migrator;
use sqlx::{Connection, PgConnection};

use crate::pools::{Role, WriteDsn};
use crate::store::StoreError;

static LOG: Migrator = sqlx::migrate!("../migrations/log");
static READ: Migrator = sqlx::migrate!("../migrations/read");

/// Migrates the database of the log and that of the read models, as `annals_owner`.
pub async fn run(log: &WriteDsn, read: &WriteDsn) -> Result<(), StoreError> {
    migrate(log, &LOG).await?;
    migrate(read, &READ).await
}

async fn migrate(dsn: &WriteDsn, migrator: &Migrator) -> Result<(), StoreError> {
    let mut conn = PgConnection::connect_with(&dsn.options(Role::Owner)?).await?;
    // The two folders share one table of what was applied where they share a database.
    let mut ours = Migrator::with_migrations(migrator.iter().cloned().collect());
    ours.set_ignore_missing(true);
    ours.run_direct(None, &mut conn, false).await.map_err(|error| sqlx::Error::Migrate(Box::new(error)))?;
    conn.close().await?;
    Ok(())
}
