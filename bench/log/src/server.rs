//! The one server that all contenders share, and the databases that they get on it, each made for one measurement.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use eventstore::{Credentials, WriteDsn};
use secrecy::SecretString;
use sqlx::postgres::{PgConnectOptions, PgConnection, PgPool, PgPoolOptions};
use sqlx::{Connection, Row};

/// Where the server is, and how to get in as whom.
#[derive(Clone, clap::Args)]
pub struct Server {
    /// Its port on 127.0.0.1.
    #[arg(long, env = "DEV_POSTGRES_PORT")]
    port: u16,
    #[arg(long, env = "DEV_SUPERUSER_PASSWORD", hide_env_values = true)]
    superuser_password: String,
    #[arg(long, env = "ANNALS_OWNER_PASSWORD", hide_env_values = true)]
    owner_password: String,
    #[arg(long, env = "ANNALS_API_PASSWORD", hide_env_values = true)]
    api_password: String,
    #[arg(long, env = "ANNALS_WRITER_PASSWORD", hide_env_values = true)]
    writer_password: String,
    #[arg(long, env = "ANNALS_READER_PASSWORD", hide_env_values = true)]
    reader_password: String,
    #[arg(long, env = "ANNALS_PROJECTOR_PASSWORD", hide_env_values = true)]
    projector_password: String,
    /// Where the programs of PostgreSQL are: `pgbench` is one of them.
    #[arg(long, env = "BENCH_POSTGRES_BIN")]
    pub bin: std::path::PathBuf,
}

/// The database that every log of ours is a copy of.
const TEMPLATE: &str = "annals";

impl Server {
    /// Brings the template to the schema of this binary.
    pub async fn prepare(&self) {
        let template = self.dsn(TEMPLATE);
        eventstore::migrate::run(&template, &template).await.expect("a log's schema");
    }

    /// An empty log of ours.
    pub async fn new_log(&self) -> String {
        let name = next_name();
        self.run("postgres", &format!("CREATE DATABASE {name} TEMPLATE {TEMPLATE} OWNER annals_owner")).await;
        name
    }

    /// An empty database with these tables.
    pub async fn new_database(&self, schema: &str) -> String {
        let name = next_name();
        self.run("postgres", &format!("CREATE DATABASE {name}")).await;
        self.run(&name, schema).await;
        name
    }

    pub async fn drop(&self, database: &str) {
        self.run("postgres", &format!("DROP DATABASE {database} WITH (FORCE)")).await;
    }

    /// So that no measurement pays for the pages that another has left behind.
    pub async fn checkpoint(&self) {
        self.run("postgres", "CHECKPOINT").await;
    }

    pub async fn run(&self, database: &str, sql: &str) {
        let mut connection = self.connection(database).await;
        let done = sqlx::raw_sql(sql).execute(&mut connection).await;
        done.unwrap_or_else(|error| panic!("{error} in: {sql}"));
        connection.close().await.expect("a connection that closes");
    }

    /// One row of numbers.
    pub async fn numbers(&self, database: &str, sql: &str) -> Vec<i64> {
        let mut connection = self.connection(database).await;
        let row = sqlx::query(sql).fetch_one(&mut connection).await.unwrap_or_else(|error| panic!("{error} in: {sql}"));
        let numbers = (0..row.len()).map(|column| row.get(column)).collect();
        connection.close().await.expect("a connection that closes");
        numbers
    }

    /// Its version. What it acknowledges must be on its disk, else no figure says anything.
    pub async fn version(&self) -> String {
        let mut connection = self.connection("postgres").await;
        for setting in ["fsync", "synchronous_commit", "full_page_writes"] {
            let set: String = sqlx::query_scalar("SELECT current_setting($1)")
                .bind(setting)
                .fetch_one(&mut connection)
                .await
                .expect("a setting");
            assert_eq!(set, "on", "{setting} of the server");
        }
        sqlx::query_scalar("SHOW server_version").fetch_one(&mut connection).await.expect("a version")
    }

    pub async fn connection(&self, database: &str) -> PgConnection {
        PgConnection::connect_with(&self.options(database)).await.expect("the server")
    }

    /// With the driver's own settings, but for its size and for its patience with those who wait for a connection.
    /// `ping` is such a setting: each use of a connection begins with a round trip that finds out whether it lives.
    pub fn pool(&self, database: &str, size: u32, ping: bool) -> PgPool {
        let pool = PgPoolOptions::new().max_connections(size).acquire_timeout(Duration::from_secs(600));
        pool.test_before_acquire(ping).connect_lazy_with(self.options(database))
    }

    /// How a log of ours is reached.
    pub fn dsn(&self, database: &str) -> WriteDsn {
        let credentials = Credentials {
            owner: Some(secret(&self.owner_password)),
            api: secret(&self.api_password),
            writer: secret(&self.writer_password),
            reader: secret(&self.reader_password),
            projector: secret(&self.projector_password),
        };
        WriteDsn { url: format!("postgres://127.0.0.1:{}/{database}", self.port), credentials }
    }

    /// A program of PostgreSQL that finds the database.
    pub fn program(&self, name: &str, database: &str) -> tokio::process::Command {
        let mut program = tokio::process::Command::new(self.bin.join(name));
        program
            .env("PGHOST", "127.0.0.1")
            .env("PGPORT", self.port.to_string())
            .env("PGUSER", "postgres")
            .env("PGPASSWORD", &self.superuser_password)
            .env("PGDATABASE", database)
            .env("PGCLIENTENCODING", "UTF8")
            .kill_on_drop(true);
        program
    }

    fn options(&self, database: &str) -> PgConnectOptions {
        PgConnectOptions::new()
            .host("127.0.0.1")
            .port(self.port)
            .username("postgres")
            .password(&self.superuser_password)
            .database(database)
    }
}

fn next_name() -> String {
    static NEXT: AtomicU32 = AtomicU32::new(1);
    format!("bench_{}", NEXT.fetch_add(1, Ordering::Relaxed))
}

fn secret(text: &str) -> SecretString {
    text.to_owned().into()
}
