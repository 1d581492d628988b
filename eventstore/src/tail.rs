//! What this process knows of the log's end: told at once by its own writer, polled for what others append.
//!
//! NOTIFY inside the append would cost most of its throughput, so nobody is notified.

use std::sync::Arc;
use std::time::{Duration, Instant};

use sqlx::postgres::PgPool;
use tokio::sync::watch;
use tokio_util::sync::{CancellationToken, DropGuard};

/// After how long without an append the head is looked at less often.
const QUIET: Duration = Duration::from_secs(2);
/// How many times less often.
const QUIET_POLLS: u32 = 5;

/// A handle; clones share what is known.
#[derive(Clone, Debug)]
pub struct Tail {
    position: Arc<watch::Sender<i64>>,
    epoch: Arc<watch::Sender<i64>>,
    _poller: Arc<DropGuard>,
}

impl Tail {
    /// Reads the head and goes on looking at it every `poll`, less often while nothing is appended.
    pub(crate) async fn start(pool: PgPool, poll: Duration) -> Result<Self, sqlx::Error> {
        let (position, epoch) = head(&pool).await?;
        let stop = CancellationToken::new();
        let tail = Self {
            position: Arc::new(watch::Sender::new(position)),
            epoch: Arc::new(watch::Sender::new(epoch)),
            _poller: Arc::new(stop.clone().drop_guard()),
        };
        let (positions, epochs) = (Arc::downgrade(&tail.position), Arc::downgrade(&tail.epoch));
        tokio::spawn(async move {
            let (mut seen, mut moved, mut pause) = (position, Instant::now(), poll);
            while stop.run_until_cancelled(tokio::time::sleep(pause)).await.is_some() {
                let Some((positions, epochs)) = positions.upgrade().zip(epochs.upgrade()) else { break };
                if let Ok((position, epoch)) = head(&pool).await {
                    epochs.send_if_modified(|known| raise(known, epoch));
                    positions.send_if_modified(|known| raise(known, position));
                }
                // Also what this process appended itself is a sign that others may.
                let end = *positions.borrow();
                if end > seen {
                    (seen, moved) = (end, Instant::now());
                }
                pause = if moved.elapsed() < QUIET { poll } else { poll * QUIET_POLLS };
            }
        });
        Ok(tail)
    }

    /// The last position that this process knows to be committed.
    pub fn position(&self) -> i64 {
        *self.position.borrow()
    }

    /// Waits until the log has gone past `position`, and gives its end.
    pub async fn past(&self, position: i64) -> i64 {
        beyond(&self.position, position).await
    }

    /// Waits until the epoch has risen above `epoch`, and gives it.
    pub async fn epoch_past(&self, epoch: i64) -> i64 {
        beyond(&self.epoch, epoch).await
    }

    pub(crate) fn epoch(&self) -> i64 {
        *self.epoch.borrow()
    }

    pub(crate) fn learn_position(&self, position: i64) {
        self.position.send_if_modified(|known| raise(known, position));
    }

    pub(crate) fn learn_epoch(&self, epoch: i64) {
        self.epoch.send_if_modified(|known| raise(known, epoch));
    }
}

async fn beyond(known: &watch::Sender<i64>, passed: i64) -> i64 {
    let mut watch = known.subscribe();
    // The guard that `wait_for` gives must not live across another await.
    let found = watch.wait_for(|now| *now > passed).await.map(|now| *now).ok();
    match found {
        Some(now) => now,
        None => std::future::pending().await,
    }
}

fn raise(known: &mut i64, position: i64) -> bool {
    let higher = position > *known;
    if higher {
        *known = position;
    }
    higher
}

async fn head(pool: &PgPool) -> Result<(i64, i64), sqlx::Error> {
    sqlx::query_as("SELECT position, epoch FROM log_head").fetch_one(pool).await
}
