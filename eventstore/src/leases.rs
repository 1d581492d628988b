//! Tasks that one process of the house has at a time. A lease runs out unless it is renewed, so that a holder that hangs
//! is as good as dead some seconds later; whatever it does then is fenced by what it writes, never by the lease.

use std::time::{Duration, Instant};

use uuid::Uuid;

use crate::bounded::Bounded;
use crate::chain;
use crate::store::{EventStore, StoreError};

/// How long a lease is good for, unless its task wants another.
const GOOD_FOR: Duration = Duration::from_secs(3);

/// Proof that this process alone has a task, as long as it confirms it.
#[derive(Debug)]
pub struct Leadership {
    pool: Bounded,
    task: String,
    holder: Uuid,
    good_for: Duration,
    /// Before this moment the lease is surely good.
    until: Instant,
}

impl EventStore {
    /// Tries to become the only process of the house with that task; `None` where another process has it. The lease is
    /// good for three seconds and must be confirmed about once a second.
    pub async fn lead(&self, task: &str) -> Result<Option<Leadership>, StoreError> {
        self.lead_for(task, GOOD_FOR).await
    }

    /// The same with a lease that is good for another time, of which it must be confirmed about three times.
    pub async fn lead_for(&self, task: &str, good_for: Duration) -> Result<Option<Leadership>, StoreError> {
        let (pool, task) = (self.inner.writing.patient(good_for), task.to_owned());
        let mut leadership = Leadership { pool, task, holder: Uuid::now_v7(), good_for, until: Instant::now() };
        Ok(leadership.take().await?.then_some(leadership))
    }
}

impl Leadership {
    /// Renews the lease; an error where it ran out and another process may have the task.
    pub async fn confirm(&mut self) -> Result<(), StoreError> {
        if self.until > Instant::now() && self.take().await? { Ok(()) } else { Err(StoreError::LeaseLost) }
    }

    /// Gives the task up, so that another process has it at once.
    pub async fn resign(self) {
        let given =
            sqlx::query("DELETE FROM leases WHERE task = $1 AND holder = $2").bind(&self.task).bind(self.holder);
        if let Err(error) = given.execute(&self.pool).await {
            tracing::debug!(error = chain(&error), task = self.task, "a lease runs out by itself");
        }
    }

    async fn take(&mut self) -> Result<bool, StoreError> {
        let asked = Instant::now();
        let taken = sqlx::query(
            "INSERT INTO leases AS known (task, holder, expires_at)
             VALUES ($1, $2, clock_timestamp() + make_interval(secs => $3))
             ON CONFLICT (task) DO UPDATE SET holder = excluded.holder, expires_at = excluded.expires_at
             WHERE known.holder = excluded.holder OR known.expires_at < clock_timestamp()",
        )
        .bind(&self.task)
        .bind(self.holder)
        .bind(self.good_for.as_secs_f64())
        .execute(&self.pool)
        .await?;
        let ours = taken.rows_affected() == 1;
        if ours {
            self.until = asked + self.good_for;
        }
        Ok(ours)
    }
}
