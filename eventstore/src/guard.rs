//! What this process knows of the log's end, and the watch that the log has not gone back behind it.
//!
//! Architecture Invariant: a connection is looked at before its first use, whether it writes or reads. A restore and a
//! fail-over break every connection, so nothing is appended to a log that went back, and nothing of it is answered, before
//! its new incarnation is open.

use std::sync::Arc;

use sqlx::postgres::{PgConnectOptions, PgConnection, PgPoolOptions};
use sqlx::{Connection, Executor, Postgres, Row};
use tokio::sync::watch;
use uuid::Uuid;

use crate::chain;
use crate::incarnation::{
    Evidence, HighWater, HighWaterMark, Incarnation, Incarnations, MarkError, Opening, Present, decide, first_epoch,
    life,
};

/// The server that the log is on: its identifier and timeline. A standby can't be asked, and is never written to.
const SERVER: &str = "CASE WHEN NOT pg_is_in_recovery() THEN (SELECT system_identifier FROM pg_control_system())
    || '/' || left(pg_walfile_name(pg_current_wal_insert_lsn()), 8) END";

/// What is known of the log, at one moment.
#[derive(Clone, Debug, Default)]
pub(crate) struct Known {
    /// The last position that is known to be committed.
    pub(crate) position: i64,
    pub(crate) epoch: i64,
    server: Option<String>,
    pub(crate) incarnations: Incarnations,
}

impl Known {
    /// Whether a later look at the log fits what is known: it has gone on, in the same life.
    fn agrees(&self, position: i64, epoch: i64) -> bool {
        life(epoch) == self.incarnations.newest().id && position >= self.position && epoch >= self.epoch
    }

    fn place(&self) -> HighWater {
        HighWater { incarnation: self.incarnations.newest().id, position: self.position }
    }

    fn raise(&mut self, position: i64, epoch: i64) -> bool {
        // What was heard in another life says nothing about this one.
        if life(epoch) != self.incarnations.newest().id || (position <= self.position && epoch <= self.epoch) {
            return false;
        }
        (self.position, self.epoch) = (position.max(self.position), epoch.max(self.epoch));
        true
    }
}

/// See the module; clones share what is known.
#[derive(Clone, Debug)]
pub(crate) struct Guard {
    known: Arc<watch::Sender<Known>>,
    mark: Option<Arc<dyn HighWaterMark>>,
}

impl Guard {
    /// Looks at the log for the first time, with the mark beside the keys at hand.
    pub(crate) async fn begin(
        conn: &mut PgConnection,
        mark: Option<Arc<dyn HighWaterMark>>,
    ) -> Result<Self, StartError> {
        let guard = Self { known: Arc::default(), mark };
        guard.read_mark().await.map_err(StartError::Mark)?;
        guard.verify(conn).await?;
        Ok(guard)
    }

    pub(crate) fn known(&self) -> watch::Ref<'_, Known> {
        self.known.borrow()
    }

    pub(crate) fn subscribe(&self) -> watch::Receiver<Known> {
        self.known.subscribe()
    }

    /// Notes what was committed or read under an epoch; false where it fits no log that this process knows.
    pub(crate) fn learn(&self, position: i64, epoch: i64) -> bool {
        self.known.send_if_modified(|known| known.raise(position, epoch));
        life(epoch) == self.known().incarnations.newest().id
    }

    /// What a pool of writers does with each connection that it makes.
    pub(crate) fn watch(&self, options: PgPoolOptions) -> PgPoolOptions {
        let guard = self.clone();
        options.after_connect(move |conn, _| {
            let guard = guard.clone();
            Box::pin(async move { guard.verify(conn).await })
        })
    }

    /// What a pool of readers does with each connection that it makes: what it sees is compared with what is known, and
    /// where that differs a writer looks.
    pub(crate) fn watch_readers(&self, options: PgPoolOptions, writer: PgConnectOptions) -> PgPoolOptions {
        let guard = self.clone();
        options.after_connect(move |conn, _| {
            let (guard, writer) = (guard.clone(), writer.clone());
            Box::pin(async move {
                let before = guard.known().clone();
                let head: (i64, i64) = sqlx::query_as("SELECT position, epoch FROM log_head").fetch_one(conn).await?;
                if before.agrees(head.0, head.1) {
                    return Ok(());
                }
                let mut conn = PgConnection::connect_with(&writer).await?;
                guard.verify(&mut conn).await?;
                conn.close().await
            })
        })
    }

    /// Looks whether the log has gone back. Then a new incarnation is opened, unless another process has done so.
    pub(crate) async fn verify(&self, conn: &mut PgConnection) -> Result<(), sqlx::Error> {
        // Read before the log is: what comes to be known meanwhile proves nothing.
        let before = self.known().clone();
        let mark = self.read_mark().await.unwrap_or_else(|error| {
            tracing::warn!(error = chain(&*error), "the high-water mark beside the keys can't be read");
            None
        });
        let row = sqlx::query(sqlx::AssertSqlSafe(format!("SELECT position, epoch, {SERVER} FROM log_head")));
        let row = row.fetch_one(&mut *conn).await?;
        let (position, epoch, server): (i64, i64, Option<String>) = (row.try_get(0)?, row.try_get(1)?, row.try_get(2)?);
        let marked = mark.is_none_or(|mark| {
            mark.incarnation < life(epoch) || (mark.incarnation == life(epoch) && mark.position <= position)
        });
        if before.agrees(position, epoch) && marked && server.is_some() && server == before.server {
            self.learn(position, epoch);
            return Ok(());
        }
        self.settle(conn, &[]).await
    }

    /// The same under the head's lock, with what others have seen.
    pub(crate) async fn settle(&self, conn: &mut PgConnection, evidence: &[Evidence]) -> Result<(), sqlx::Error> {
        let before = self.known().clone();
        let mut evidence = evidence.to_vec();
        if before.position > 0 {
            evidence.push(Evidence::Seen { by: "this process", place: before.place() });
            evidence.push(Evidence::Epoch(before.epoch));
        }
        if let Ok(Some(place)) = self.read_mark().await {
            evidence.push(Evidence::Seen { by: "the mark beside the keys", place });
        }
        let mut tx = conn.begin().await?;
        let mut log = present(&mut tx).await?;
        let other = differing(&mut tx, &log.incarnations, &evidence).await?;
        let opening = decide(&log, &evidence, &other);
        match &opening {
            Some(opening) => open(&mut tx, &mut log, opening).await?,
            None if log.known_server.is_none() && log.server.is_some() => {
                let named = sqlx::query("UPDATE log_incarnations SET server = $1 WHERE id = $2 AND server IS NULL");
                named.bind(&log.server).bind(log.incarnations.newest().id).execute(&mut *tx).await?;
            }
            None => {}
        }
        tx.commit().await?;
        if let Some(Opening { incarnation, reason }) = &opening {
            let Incarnation { id, first_position } = *incarnation;
            tracing::error!(
                incarnation = id,
                first_position,
                reason,
                "ALARM: the log went back: a new incarnation is open"
            );
        }
        self.adopt(log);
        if opening.is_some() {
            self.note().await;
        }
        Ok(())
    }

    /// Takes over what was read under the lock.
    fn adopt(&self, log: Present) {
        let id = log.incarnations.newest().id;
        self.known.send_if_modified(|known| {
            let before = known.incarnations.newest().id;
            if id < before {
                return false;
            }
            if id > before {
                (known.position, known.epoch) = (log.position, log.epoch);
                if known.server.is_some() {
                    tracing::warn!(
                        incarnation = id,
                        position = log.position,
                        "this process goes on in a new incarnation"
                    );
                }
            }
            (known.position, known.epoch) = (known.position.max(log.position), known.epoch.max(log.epoch));
            (known.server, known.incarnations) = (log.server, log.incarnations);
            true
        });
    }

    /// How far the log has come, as far as this process knows.
    pub(crate) fn place(&self) -> HighWater {
        self.known().place()
    }

    /// Raises the mark beside the keys to what is known; none where there is no mark, or it can't be raised.
    pub(crate) async fn note(&self) -> Option<()> {
        let mark = self.mark.clone()?;
        let place = self.place();
        let raised =
            tokio::task::spawn_blocking(move || mark.raise(place)).await.unwrap_or_else(|error| Err(error.into()));
        match raised {
            Ok(()) => Some(()),
            Err(error) => {
                let error = chain(&*error);
                tracing::warn!(error, "the high-water mark beside the keys could not be raised");
                None
            }
        }
    }

    async fn read_mark(&self) -> Result<Option<HighWater>, MarkError> {
        let Some(mark) = self.mark.clone() else { return Ok(None) };
        tokio::task::spawn_blocking(move || mark.read()).await?
    }
}

/// Why the first look failed.
pub(crate) enum StartError {
    Mark(MarkError),
    Database(sqlx::Error),
}

impl From<sqlx::Error> for StartError {
    fn from(error: sqlx::Error) -> Self {
        Self::Database(error)
    }
}

/// Locks the head, and then reads what nobody else can change any more.
async fn present(conn: &mut PgConnection) -> Result<Present, sqlx::Error> {
    let sql = format!("SELECT position, epoch, {SERVER} FROM log_head FOR UPDATE");
    let head = sqlx::query(sqlx::AssertSqlSafe(sql)).fetch_one(&mut *conn).await?;
    let rows =
        sqlx::query("SELECT id, first_position, server FROM log_incarnations ORDER BY id").fetch_all(conn).await?;
    let lives = rows.iter().map(|row| Ok(Incarnation { id: row.try_get(0)?, first_position: row.try_get(1)? }));
    Ok(Present {
        position: head.try_get(0)?,
        epoch: head.try_get(1)?,
        server: head.try_get(2)?,
        known_server: rows.last().map(|row| row.try_get(2)).transpose()?.flatten(),
        incarnations: Incarnations::new(lives.collect::<Result<_, sqlx::Error>>()?),
    })
}

/// The positions at which the log has another event than was seen there in the same life.
async fn differing(
    conn: &mut PgConnection,
    incarnations: &Incarnations,
    evidence: &[Evidence],
) -> Result<Vec<i64>, sqlx::Error> {
    let seen = evidence.iter().filter_map(|evidence| match evidence {
        Evidence::Event { place, event_id, .. } if incarnations.owner(place.position) == place.incarnation => {
            Some((place.position, *event_id))
        }
        _ => None,
    });
    let (positions, ids): (Vec<i64>, Vec<Uuid>) = seen.unzip();
    if positions.is_empty() { Ok(Vec::new()) } else { others(&positions, &ids, conn).await }
}

/// Those of the positions at which another event stands than that.
pub(crate) async fn others<'c>(
    positions: &[i64],
    ids: &[Uuid],
    conn: impl Executor<'c, Database = Postgres>,
) -> Result<Vec<i64>, sqlx::Error> {
    let others = sqlx::query_scalar(
        "SELECT e.position FROM unnest($1::bigint[], $2::uuid[]) AS seen (position, event_id)
         JOIN events e USING (position) WHERE e.event_id <> seen.event_id",
    );
    others.bind(positions).bind(ids).fetch_all(conn).await
}

/// Begins a life: whoever still acts in an earlier one has an epoch that the log does not have.
async fn open(conn: &mut PgConnection, log: &mut Present, opening: &Opening) -> Result<(), sqlx::Error> {
    let Opening { incarnation, reason } = opening;
    sqlx::query("INSERT INTO log_incarnations (id, first_position, reason, server) VALUES ($1, $2, $3, $4)")
        .bind(incarnation.id)
        .bind(incarnation.first_position)
        .bind(reason)
        .bind(&log.server)
        .execute(&mut *conn)
        .await?;
    log.epoch = first_epoch(incarnation.id);
    sqlx::query("UPDATE log_head SET epoch = $1").bind(log.epoch).execute(conn).await?;
    log.incarnations = log.incarnations.with(*incarnation);
    Ok(())
}
