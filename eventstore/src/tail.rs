//! What this process knows of the log's end: told at once by its own writer, polled for what others append.
//!
//! NOTIFY inside the append would cost most of its throughput, so nobody is notified. A log that went back is noticed
//! here, too: the end is then where the log ends now, in another incarnation.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio_util::sync::{CancellationToken, DropGuard};

use crate::bounded::Bounded;
use crate::chain;
use crate::guard::{Guard, Known};
use crate::incarnation::{Evidence, Incarnation, Incarnations};

/// After how long without an append the head is looked at less often.
const QUIET: Duration = Duration::from_secs(2);
/// How long a look at the head may take: after that the connection is given up and another one asked.
const ANSWERS: Duration = Duration::from_secs(5);
/// How many times less often.
const QUIET_POLLS: u32 = 5;

/// A handle; clones share what is known.
#[derive(Clone, Debug)]
pub struct Tail {
    eye: Eye,
    _poller: Arc<DropGuard>,
}

/// What looks at the head.
#[derive(Clone, Debug)]
struct Eye {
    guard: Guard,
    /// With less patience than others have.
    reading: Bounded,
    writing: Bounded,
}

impl Tail {
    /// Goes on looking at the head every `poll`, less often while nothing is appended.
    pub(crate) fn start(guard: Guard, reading: &Bounded, writing: Bounded, poll: Duration) -> Self {
        let stop = CancellationToken::new();
        let eye = Eye { guard, reading: reading.patient(ANSWERS), writing };
        let tail = Self { eye: eye.clone(), _poller: Arc::new(stop.clone().drop_guard()) };
        tokio::spawn(async move {
            let (mut seen, mut moved, mut pause) = (tail_end(&eye), Instant::now(), poll);
            while stop.run_until_cancelled(tokio::time::sleep(pause)).await.is_some() {
                if let Err(error) = eye.look().await {
                    tracing::debug!(error = chain(&error), "the head can't be looked at");
                }
                // Also what this process appended itself is a sign that others may.
                let end = tail_end(&eye);
                if end != seen {
                    (seen, moved) = (end, Instant::now());
                }
                pause = if moved.elapsed() < QUIET { poll } else { poll * QUIET_POLLS };
            }
        });
        tail
    }

    /// The last position that this process knows to be committed.
    pub fn position(&self) -> i64 {
        self.eye.guard.known().position
    }

    /// The lives of the log.
    pub fn incarnations(&self) -> Incarnations {
        self.eye.guard.known().incarnations.clone()
    }

    /// The number of the life that is being written.
    pub fn incarnation(&self) -> i64 {
        self.eye.guard.known().incarnations.newest().id
    }

    /// Waits until the log has gone past `position`, and gives its end. In a log that went back that may be never: whoever
    /// has a place in the log of its own also listens to [`incarnation_past`](Self::incarnation_past).
    pub async fn past(&self, position: i64) -> i64 {
        self.once(|known| (known.position > position).then_some(known.position)).await
    }

    /// Waits until the epoch has risen above `epoch`, and gives it.
    pub async fn epoch_past(&self, epoch: i64) -> i64 {
        self.once(|known| (known.epoch > epoch).then_some(known.epoch)).await
    }

    /// Waits until the log lives in a later incarnation than that, and gives it: what was known of the log's end before
    /// may be untrue, and cursors may lie beyond it.
    pub async fn incarnation_past(&self, id: i64) -> i64 {
        self.once(|known| Some(known.incarnations.newest().id).filter(|newest| *newest > id)).await
    }

    /// The life that is being written, and the last position that is known to be committed in it.
    pub(crate) fn newest(&self) -> (Incarnation, i64) {
        let known = self.eye.guard.known();
        (known.incarnations.newest(), known.position)
    }

    /// Waits until the log has gone past `position` or lives in another incarnation, and gives its end.
    pub(crate) async fn moved(&self, incarnation: i64, position: i64) -> i64 {
        let moved = |known: &Known| known.position > position || known.incarnations.newest().id != incarnation;
        self.once(|known| moved(known).then_some(known.position)).await
    }

    async fn once(&self, wanted: impl Fn(&Known) -> Option<i64>) -> i64 {
        let mut watch = self.eye.guard.subscribe();
        // The guard that `wait_for` gives must not live across another await.
        let found = watch.wait_for(|known| wanted(known).is_some()).await.ok().and_then(|known| wanted(&known));
        match found {
            Some(number) => number,
            None => std::future::pending().await,
        }
    }

    pub(crate) fn epoch(&self) -> i64 {
        self.eye.guard.known().epoch
    }

    /// Notes what was committed or read under an epoch.
    pub(crate) fn learn(&self, position: i64, epoch: i64) {
        self.eye.guard.learn(position, epoch);
    }

    /// The same of an epoch alone; false where it is of an incarnation that this process does not know yet.
    pub(crate) fn learn_epoch(&self, epoch: i64) -> bool {
        self.eye.guard.learn(0, epoch)
    }

    /// Looks at the head now: what this process believes afterwards is not older than the call.
    pub(crate) async fn look(&self) -> Result<(), sqlx::Error> {
        self.eye.look().await
    }

    /// Puts what somebody has seen of the log before the log itself.
    pub(crate) async fn settle(&self, evidence: &[Evidence]) -> Result<(), sqlx::Error> {
        let (guard, evidence) = (self.eye.guard.clone(), evidence.to_vec());
        self.eye.writing.run(|conn| Box::pin(async move { guard.settle(conn, &evidence).await })).await
    }
}

impl Eye {
    async fn look(&self) -> Result<(), sqlx::Error> {
        // Read before the head is: what comes to be known meanwhile proves nothing.
        let (before, lowest) = {
            let known = self.guard.known();
            (known.position, known.epoch)
        };
        let head = sqlx::query_as("SELECT position, epoch FROM log_head");
        let (position, epoch): (i64, i64) = head.fetch_one(&self.reading).await?;
        if self.guard.learn(position, epoch) && position >= before && epoch >= lowest {
            return Ok(());
        }
        let guard = self.guard.clone();
        self.writing.run(|conn| Box::pin(async move { guard.verify(conn).await })).await
    }
}

fn tail_end(eye: &Eye) -> i64 {
    eye.guard.known().position
}
