//! Backs a database up and restores it under whoever is connected, as an operator does who has lost a server: the
//! connections break, and what comes after them finds the log of an earlier moment. Nothing tells anybody.

use std::time::Duration;

use eventstore::{Role, WriteDsn};
use sqlx::{AssertSqlSafe, Connection, PgConnection, Row};

use crate::house::Lodging;
use crate::lodging::{create_database, drop_database, server};
use crate::processes::Running;

/// The copy of a lodging's database as it once was.
pub(crate) struct Backup {
    database: String,
    copy: String,
}

async fn as_role(role: Role) -> PgConnection {
    PgConnection::connect_with(&server().options(role).unwrap()).await.unwrap()
}

async fn run(conn: &mut PgConnection, sql: String) {
    sqlx::query(AssertSqlSafe(sql)).execute(conn).await.unwrap();
}

/// Lets nobody in any more, and ends all who are. Each login may end its own.
async fn close(owner: &mut PgConnection, database: &str) {
    run(owner, format!("ALTER DATABASE {database} ALLOW_CONNECTIONS false")).await;
    let mut roles = Vec::new();
    for role in [Role::Owner, Role::Api, Role::Writer, Role::Reader, Role::Projector] {
        roles.push(as_role(role).await);
    }
    for _ in 0..600 {
        for conn in &mut roles {
            let ended = sqlx::query(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $1 AND usename = current_user",
            );
            ended.bind(database).execute(conn).await.unwrap();
        }
        let left = sqlx::query_scalar("SELECT count(*) FROM pg_stat_activity WHERE datname = $1").bind(database);
        let left: i64 = left.fetch_one(&mut *owner).await.unwrap();
        if left == 0 {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("somebody stays in {database}");
}

impl Backup {
    /// Copies the database as it is now. Postgres copies what nobody is connected to, so all are sent away for a moment.
    pub(crate) async fn take(lodging: &Lodging) -> Self {
        let (database, copy) = (lodging.database().to_owned(), format!("{}_backup", lodging.database()));
        let mut owner = as_role(Role::Owner).await;
        close(&mut owner, &database).await;
        run(&mut owner, format!("CREATE DATABASE {copy} TEMPLATE {database}")).await;
        run(&mut owner, format!("ALTER DATABASE {database} ALLOW_CONNECTIONS true")).await;
        Self { database, copy }
    }

    /// Puts the copy in the place of the database; what was there is gone.
    pub(crate) async fn restore(self) {
        let Self { database, copy } = self;
        let mut owner = as_role(Role::Owner).await;
        close(&mut owner, &database).await;
        run(&mut owner, format!("ALTER DATABASE {database} RENAME TO {database}_lost")).await;
        run(&mut owner, format!("ALTER DATABASE {copy} RENAME TO {database}")).await;
        drop_database(&format!("{database}_lost")).await;
    }
}

/// Every row of every read model, as text.
pub(crate) async fn rows(dsn: &WriteDsn) -> Vec<(String, Vec<String>)> {
    let mut conn = PgConnection::connect_with(&dsn.options(Role::Projector).unwrap()).await.unwrap();
    let tables = sqlx::query(
        "SELECT c.relname::text FROM pg_class c WHERE c.relkind = 'p' AND c.relname <> 'idempotency_keys' ORDER BY 1",
    );
    let tables: Vec<String> = tables.fetch_all(&mut conn).await.unwrap().iter().map(|row| row.get(0)).collect();
    assert!(tables.len() > 8, "{tables:?}");
    let mut all = Vec::new();
    for table in tables {
        let sql = format!("SELECT t::text FROM {table} t ORDER BY 1");
        let rows = sqlx::query(AssertSqlSafe(sql)).fetch_all(&mut conn).await.unwrap();
        all.push((table, rows.iter().map(|row| row.get(0)).collect()));
    }
    conn.close().await.unwrap();
    all
}

/// Where the log ends.
pub(crate) async fn end(log: &WriteDsn) -> i64 {
    let mut conn = PgConnection::connect_with(&log.options(Role::Writer).unwrap()).await.unwrap();
    let end = sqlx::query_scalar("SELECT position FROM log_head").fetch_one(&mut conn).await.unwrap();
    conn.close().await.unwrap();
    end
}

/// None of these resources is in any row of a read model.
pub(crate) async fn has_nowhere(dsn: &WriteDsn, ids: &[&str]) {
    for (table, rows) in rows(dsn).await {
        for id in ids {
            let uuid = id.parse::<domain::AnyId>().unwrap().uuid().to_string();
            let found = rows.iter().find(|row| row.contains(*id) || row.contains(&uuid));
            assert_eq!(found, None, "{id} is in {table}");
        }
    }
}

/// Waits until every projector has read the log to its end.
pub(crate) async fn until_read(read: &WriteDsn, end: i64, projectors: i64) {
    let mut conn = PgConnection::connect_with(&read.options(Role::Projector).unwrap()).await.unwrap();
    for _ in 0..1_200 {
        let there: i64 = sqlx::query_scalar(
            "SELECT count(*) FROM (SELECT max(position) AS position FROM projection_checkpoints GROUP BY projector) p
             WHERE position >= $1",
        )
        .bind(end)
        .fetch_one(&mut conn)
        .await
        .unwrap();
        if there == projectors {
            conn.close().await.unwrap();
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("the projectors never came to {end}");
}

/// How many projectors there are.
pub(crate) async fn projectors(read: &WriteDsn) -> i64 {
    let mut conn = PgConnection::connect_with(&read.options(Role::Projector).unwrap()).await.unwrap();
    let count = sqlx::query_scalar("SELECT count(*) FROM projection_generations").fetch_one(&mut conn).await.unwrap();
    conn.close().await.unwrap();
    count
}

/// The read models equal the fold of the log: once `house`, all that project there, has read it to its end and is
/// ended, others, made anew from the log alone, have the same rows.
pub(crate) async fn equal_the_fold(lodging: &Lodging, read: &WriteDsn, house: impl IntoIterator<Item = Running>) {
    until_read(read, end(&lodging.dsn).await, projectors(read).await).await;
    for process in house {
        assert_eq!(process.end().await, 0);
    }
    let name = format!("{}_anew", lodging.database());
    let anew = create_database(&server().url, &name).await;
    let (url, nowhere) = (anew.url.clone(), lodging.free_address());
    let settings =
        [("ANNALS_READ_DATABASE_URL", url.as_str()), ("ANNALS_KAFKA_BROKERS", ""), ("ANNALS_LISTEN", nowhere.as_str())];
    let project = Running::start(lodging, "project", &settings);
    let end = end(&lodging.dsn).await;
    let projectors = projectors(read).await;
    until_read(&anew, end, projectors).await;
    assert_eq!(project.end().await, 0);
    for (kept, made) in rows(read).await.into_iter().zip(rows(&anew).await) {
        assert_eq!(kept.0, made.0);
        assert_eq!(kept.1, made.1, "the rows of {} are not those of the log", kept.0);
    }
    drop_database(&name).await;
}
