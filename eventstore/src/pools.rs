//! One pool a database role. Each role is a login of its own: `SET ROLE` would be undone by an injection.

use std::ops::{Deref, DerefMut};
use std::str::FromStr;
use std::time::Duration;

use secrecy::{ExposeSecret, SecretString};
use sqlx::pool::PoolConnection;
use sqlx::postgres::{PgConnectOptions, PgPool, PgPoolOptions};
use sqlx::{AssertSqlSafe, PgConnection, Postgres};
use uuid::Uuid;

use crate::guard::Guard;

/// A process that hangs while it holds the head's lock must not stop the others.
pub(crate) const HANGS_SHORTLY: (&str, &str) = ("idle_in_transaction_session_timeout", "1s");

/// The logins of a house.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Owns the tables; migrates.
    Owner,
    /// Reads one tenant at a time.
    Api,
    /// Appends.
    Writer,
    /// Reads events of all tenants: relay, process host, rebuilds.
    Reader,
    /// Writes read models.
    Projector,
}

impl Role {
    /// The login in Postgres.
    pub fn login(self) -> &'static str {
        match self {
            Self::Owner => "annals_owner",
            Self::Api => "annals_api",
            Self::Writer => "annals_writer",
            Self::Reader => "annals_reader",
            Self::Projector => "annals_projector",
        }
    }
}

/// The passwords of the logins.
#[derive(Clone, Debug)]
pub struct Credentials {
    /// Of `annals_owner`; only needed to migrate.
    pub owner: Option<SecretString>,
    /// Of `annals_api`.
    pub api: SecretString,
    /// Of `annals_writer`.
    pub writer: SecretString,
    /// Of `annals_reader`.
    pub reader: SecretString,
    /// Of `annals_projector`.
    pub projector: SecretString,
}

/// Where a database is, and how each role gets in.
#[derive(Clone, Debug)]
pub struct WriteDsn {
    /// `postgres://host:port/database`, without a user.
    pub url: String,
    /// The logins' passwords.
    pub credentials: Credentials,
}

impl WriteDsn {
    /// The connection options of a role; an error where the URL is none.
    pub fn options(&self, role: Role) -> Result<PgConnectOptions, sqlx::Error> {
        let password = match role {
            Role::Owner => self.credentials.owner.as_ref(),
            Role::Api => Some(&self.credentials.api),
            Role::Writer => Some(&self.credentials.writer),
            Role::Reader => Some(&self.credentials.reader),
            Role::Projector => Some(&self.credentials.projector),
        };
        let options = PgConnectOptions::from_str(&self.url)?
            .username(role.login())
            .application_name(role.login())
            .options([("idle_in_transaction_session_timeout", "30s"), ("lock_timeout", "20s")]);
        Ok(match password {
            Some(password) => options.password(password.expose_secret()),
            None => options,
        })
    }

    /// A pool of at most `size` connections of a role, opened when first needed.
    pub fn pool(&self, role: Role, size: u32, settings: &[(&str, &str)]) -> Result<PgPool, sqlx::Error> {
        Ok(bounded(size).connect_lazy_with(self.options(role)?.options(settings.iter().copied())))
    }

    /// The same of a role that reads the log; each connection is looked at before it is used.
    pub(crate) fn readers(
        &self,
        guard: &Guard,
        role: Role,
        size: u32,
        settings: &[(&str, &str)],
    ) -> Result<PgPool, sqlx::Error> {
        let options = self.options(role)?.options(settings.iter().copied());
        let writer = self.options(Role::Writer)?.options([HANGS_SHORTLY]);
        Ok(guard.watch_readers(bounded(size), writer).connect_lazy_with(options))
    }

    /// The same of `annals_writer`; each connection is looked at before it is used.
    pub(crate) fn writers(&self, guard: &Guard, size: u32, settings: &[(&str, &str)]) -> Result<PgPool, sqlx::Error> {
        let options = self.options(Role::Writer)?.options([HANGS_SHORTLY]).options(settings.iter().copied());
        Ok(guard.watch(bounded(size)).connect_lazy_with(options))
    }
}

fn bounded(size: u32) -> PgPoolOptions {
    PgPoolOptions::new().max_connections(size).acquire_timeout(Duration::from_secs(10)).test_before_acquire(false)
}

/// The pool that handlers reach: nothing can be read through it but the rows of the tenant that is named.
#[derive(Clone, Debug)]
pub struct TenantDb {
    pool: PgPool,
}

impl TenantDb {
    /// Over a pool of `annals_api`.
    pub fn new(pool: PgPool) -> Self {
        Self { pool }
    }

    /// A read-only transaction in which row-level security shows one tenant alone.
    pub async fn begin(&self, tenant: Uuid) -> Result<TenantTx, sqlx::Error> {
        let mut tx = TenantTx { conn: self.pool.acquire().await?, open: true };
        // One round trip; a UUID's text can't carry SQL.
        let begin = format!("BEGIN READ ONLY; SET LOCAL annals.tenant = '{tenant}'");
        sqlx::raw_sql(AssertSqlSafe(begin)).execute(&mut *tx).await?;
        Ok(tx)
    }

    pub(crate) fn pool(&self) -> &PgPool {
        &self.pool
    }
}

/// A transaction that shows one tenant. Left before its end it takes its connection with it: whatever is still under way
/// on that, or will never be answered, is nobody's concern any more.
#[derive(Debug)]
pub struct TenantTx {
    conn: PoolConnection<Postgres>,
    open: bool,
}

impl TenantTx {
    /// Ends it, and gives its connection back.
    pub async fn commit(mut self) -> Result<(), sqlx::Error> {
        sqlx::raw_sql("COMMIT").execute(&mut *self.conn).await?;
        self.open = false;
        Ok(())
    }
}

impl Drop for TenantTx {
    fn drop(&mut self) {
        if self.open {
            self.conn.close_on_drop();
        }
    }
}

impl Deref for TenantTx {
    type Target = PgConnection;

    fn deref(&self) -> &PgConnection {
        &self.conn
    }
}

impl DerefMut for TenantTx {
    fn deref_mut(&mut self) -> &mut PgConnection {
        &mut self.conn
    }
}
