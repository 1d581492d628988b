//! A pool whose connections are given up when they do not answer. A server that is gone without a word, as one is whose
//! power is cut, answers nothing and breaks nothing off; without a bound, whoever waits for it would wait for ever, and so
//! would the pool for its connection.

use std::time::Duration;

use futures::future::BoxFuture;
use futures::stream::{self, BoxStream};
use futures::{StreamExt, TryStreamExt};
use sqlx::pool::PoolConnection;
use sqlx::postgres::{PgPool, PgQueryResult, PgRow, PgStatement, PgTypeInfo};
use sqlx::{Describe, Either, Execute, Executor, PgConnection, Postgres, SqlStr};

/// See the module; clones share the connections.
#[derive(Clone, Debug)]
pub(crate) struct Bounded {
    pool: PgPool,
    patience: Duration,
}

impl Bounded {
    /// Connections that have so long for each thing that is asked of them: longer than the server itself would take.
    pub(crate) fn new(pool: PgPool, patience: Duration) -> Self {
        Self { pool, patience }
    }

    /// The same connections with another patience.
    pub(crate) fn patient(&self, patience: Duration) -> Self {
        Self { patience, ..self.clone() }
    }

    pub(crate) fn pool(&self) -> &PgPool {
        &self.pool
    }

    /// Does several things on one connection.
    pub(crate) async fn run<T>(
        &self,
        work: impl for<'c> FnOnce(&'c mut PgConnection) -> BoxFuture<'c, Result<T, sqlx::Error>>,
    ) -> Result<T, sqlx::Error> {
        let mut conn = self.pool.acquire().await?;
        let done = tokio::time::timeout(self.patience, work(&mut conn)).await;
        settled(done, &mut conn)
    }
}

fn settled<T, E>(
    done: Result<Result<T, sqlx::Error>, E>,
    conn: &mut PoolConnection<Postgres>,
) -> Result<T, sqlx::Error> {
    done.unwrap_or_else(|_| {
        conn.close_on_drop();
        Err(timed_out())
    })
}

/// What is said of a server that does not answer.
pub(crate) fn timed_out() -> sqlx::Error {
    sqlx::Error::Io(std::io::ErrorKind::TimedOut.into())
}

impl<'p> Executor<'p> for &'_ Bounded {
    type Database = Postgres;

    fn fetch_many<'e, 'q: 'e, E>(self, query: E) -> BoxStream<'e, Result<Either<PgQueryResult, PgRow>, sqlx::Error>>
    where
        'p: 'e,
        E: 'q + Execute<'q, Postgres>,
    {
        let Bounded { pool, patience } = self.clone();
        let all = async move {
            let mut conn = pool.acquire().await?;
            let done = tokio::time::timeout(patience, conn.fetch_many(query).try_collect::<Vec<_>>()).await;
            settled(done, &mut conn)
        };
        stream::once(all).map_ok(|all| stream::iter(all.into_iter().map(Ok))).try_flatten().boxed()
    }

    fn fetch_optional<'e, 'q: 'e, E>(self, query: E) -> BoxFuture<'e, Result<Option<PgRow>, sqlx::Error>>
    where
        'p: 'e,
        E: 'q + Execute<'q, Postgres>,
    {
        let Bounded { pool, patience } = self.clone();
        Box::pin(async move {
            let mut conn = pool.acquire().await?;
            let done = tokio::time::timeout(patience, conn.fetch_optional(query)).await;
            settled(done, &mut conn)
        })
    }

    fn prepare_with<'e>(
        self,
        sql: SqlStr,
        parameters: &'e [PgTypeInfo],
    ) -> BoxFuture<'e, Result<PgStatement, sqlx::Error>>
    where
        'p: 'e,
    {
        let Bounded { pool, patience } = self.clone();
        Box::pin(async move {
            let mut conn = pool.acquire().await?;
            let done = tokio::time::timeout(patience, conn.prepare_with(sql, parameters)).await;
            settled(done, &mut conn)
        })
    }

    fn describe<'e>(self, sql: SqlStr) -> BoxFuture<'e, Result<Describe<Postgres>, sqlx::Error>>
    where
        'p: 'e,
    {
        self.pool.describe(sql)
    }
}
