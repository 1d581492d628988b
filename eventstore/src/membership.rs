//! The running processes of a house. Each renews its row and says which epoch it has seen; one that could not renew
//! stops opening personal data by itself, so that an erasure need not wait for it for ever.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::Mutex;
use tokio_util::sync::{CancellationToken, DropGuard};
use uuid::Uuid;

use crate::bounded::Bounded;
use crate::callers::Callers;
use crate::chain;
use crate::store::StoreError;
use crate::tail::Tail;

/// How often a row is renewed.
const RENEW: Duration = Duration::from_millis(250);
/// How long a row is good for; the process itself stops `MARGIN` earlier.
const GOOD_FOR: Duration = Duration::from_secs(5);
/// How long the others are waited for; a row that nobody renews runs out before.
const PATIENCE: Duration = Duration::from_secs(10);
/// Covers the time between the process's clock reading and Postgres' own.
const MARGIN: Duration = Duration::from_secs(1);

#[derive(Clone)]
pub(crate) struct Membership {
    row: Arc<Row>,
    _renewer: Arc<DropGuard>,
}

struct Row {
    id: Uuid,
    roles: String,
    /// With no more patience than a row is good for.
    pool: Bounded,
    tail: Tail,
    callers: Callers,
    begun: Instant,
    /// Milliseconds after `begun` until which the row is surely good.
    good_until: AtomicI64,
    /// Held while renewing, so that leaving is final.
    left: Mutex<bool>,
}

impl Membership {
    pub(crate) async fn join(pool: &Bounded, tail: Tail, roles: &str) -> Result<Self, sqlx::Error> {
        let row = Arc::new(Row {
            id: Uuid::now_v7(),
            roles: roles.to_owned(),
            pool: pool.patient(GOOD_FOR),
            tail,
            callers: Callers::default(),
            begun: Instant::now(),
            good_until: AtomicI64::new(0),
            left: Mutex::new(false),
        });
        // What is reported was known a whole tick ago: whoever was opening something then has finished.
        let mut seen = row.tail.epoch();
        row.renew(seen).await?;
        let stop = CancellationToken::new();
        let member = Self { row: row.clone(), _renewer: Arc::new(stop.clone().drop_guard()) };
        tokio::spawn(async move {
            let mut ticks = tokio::time::interval(RENEW);
            ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
            while stop.run_until_cancelled(ticks.tick()).await.is_some() {
                if let Err(error) = row.renew(seen).await {
                    tracing::warn!(error = chain(&error), "this process could not say that it is running");
                    // What was heard of the others is old.
                    row.callers.hear(Vec::new());
                }
                seen = row.tail.epoch();
            }
        });
        Ok(member)
    }

    /// Who asks the house for something.
    pub(crate) fn callers(&self) -> &Callers {
        &self.row.callers
    }

    pub(crate) fn holds(&self) -> bool {
        (self.row.begun.elapsed().as_millis() as i64) < self.row.good_until.load(Ordering::SeqCst)
    }

    pub(crate) async fn all_have_seen(&self, epoch: i64) -> Result<(), StoreError> {
        let begun = Instant::now();
        loop {
            let behind: i64 = sqlx::query_scalar(
                // The rows of those who ran when the log went back may be lost with it: such a life is only trusted once
                // every row of the one before has run out.
                "SELECT (SELECT count(*) FROM running_processes WHERE epoch_seen < $1 AND expires_at > clock_timestamp())
                    + (SELECT count(*) FROM log_incarnations
                       WHERE id > 1 AND opened_at > clock_timestamp() - make_interval(secs => $2))",
            )
            .bind(epoch)
            .bind(GOOD_FOR.as_secs_f64())
            .fetch_one(&self.row.pool)
            .await?;
            if behind == 0 {
                return Ok(());
            }
            if begun.elapsed() > PATIENCE {
                return Err(StoreError::NotSeen { epoch, behind });
            }
            tokio::time::sleep(RENEW / 5).await;
        }
    }

    pub(crate) async fn leave(&self) {
        let mut left = self.row.left.lock().await;
        *left = true;
        self.row.good_until.store(0, Ordering::SeqCst);
        let _ = sqlx::query(
            "DELETE FROM running_processes WHERE id = $1 OR expires_at < clock_timestamp() - interval '1 hour'",
        )
        .bind(self.row.id)
        .execute(&self.row.pool)
        .await;
    }
}

impl Row {
    async fn renew(&self, epoch: i64) -> Result<(), sqlx::Error> {
        let left = self.left.lock().await;
        if *left {
            return Ok(());
        }
        let asked = self.begun.elapsed();
        sqlx::query(
            "INSERT INTO running_processes (id, roles, epoch_seen, expires_at, callers)
             VALUES ($1, $2, $3, clock_timestamp() + make_interval(secs => $4), $5)
             ON CONFLICT (id) DO UPDATE SET epoch_seen = excluded.epoch_seen, expires_at = excluded.expires_at,
                callers = excluded.callers",
        )
        .bind(self.id)
        .bind(&self.roles)
        .bind(epoch)
        .bind(GOOD_FOR.as_secs_f64())
        .bind(self.callers.recent())
        .execute(&self.pool)
        .await?;
        // A row that had run out let erasures go by: whoever opens from here on must know of them. In a statement of its
        // own, for the one above may have an older snapshot.
        let (epoch, elsewhere) = sqlx::query_as(
            "SELECT epoch, ARRAY(SELECT DISTINCT unnest(callers) FROM running_processes
                WHERE id <> $1 AND expires_at > clock_timestamp())
             FROM log_head",
        )
        .bind(self.id)
        .fetch_one(&self.pool)
        .await?;
        self.callers.hear(elsewhere);
        if !self.tail.learn_epoch(epoch) {
            self.tail.look().await?;
        }
        self.good_until.store((asked + GOOD_FOR - MARGIN).as_millis() as i64, Ordering::SeqCst);
        Ok(())
    }
}
