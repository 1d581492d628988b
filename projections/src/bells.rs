//! How the projectors of this process tell its readers that they have come further: a reader that waits for its own
//! write need not ask the database again and again.

use std::collections::HashMap;
use std::sync::Arc;

use tokio::sync::{Notify, watch};
use uuid::Uuid;

use crate::projector::Projector;

/// What the last batch of a projector brought: the last sequence of each tenant in it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Seen {
    /// The life of the log that the rows are made of.
    incarnation: i64,
    /// Whether the projector has parked any stream.
    parked: bool,
    sequences: Arc<[(Uuid, i64)]>,
}

/// One bell a projector.
#[derive(Clone, Debug, Default)]
pub(crate) struct Bells {
    by_projector: Arc<HashMap<&'static str, Bell>>,
}

#[derive(Debug, Default)]
struct Bell {
    seen: watch::Sender<Seen>,
    /// That somebody has begun to listen.
    asked: Notify,
}

/// A reader's ear at one bell; deaf where the projector does not run in this process.
pub(crate) struct Ear {
    bell: Option<watch::Receiver<Seen>>,
}

impl Bells {
    /// A bell for each of these projectors.
    pub(crate) fn of(projectors: &[Arc<dyn Projector>]) -> Self {
        let bells = projectors.iter().map(|projector| (projector.name(), Bell::default()));
        Self { by_projector: Arc::new(bells.collect()) }
    }

    /// Says what was committed.
    pub(crate) fn ring(
        &self,
        projector: &str,
        incarnation: i64,
        parked: bool,
        seen: impl IntoIterator<Item = (Uuid, i64)>,
    ) {
        if let Some(bell) = self.by_projector.get(projector).filter(|_| self.awaited(projector)) {
            bell.seen.send_replace(Seen { incarnation, parked, sequences: seen.into_iter().collect() });
        }
    }

    /// Listens from now on.
    pub(crate) fn listen(&self, projector: &str) -> Ear {
        let bell = self.by_projector.get(projector).map(|bell| {
            let ear = bell.seen.subscribe();
            bell.asked.notify_one();
            ear
        });
        Ear { bell }
    }

    /// Whether anybody listens.
    pub(crate) fn awaited(&self, projector: &str) -> bool {
        self.by_projector.get(projector).is_some_and(|bell| bell.seen.receiver_count() > 0)
    }

    /// Waits until somebody begins to listen, or has since the last time; the projector itself asks, and nobody else.
    pub(crate) async fn asked(&self, projector: &str) {
        match self.by_projector.get(projector) {
            Some(bell) => bell.asked.notified().await,
            None => std::future::pending().await,
        }
    }
}

impl Ear {
    /// Whether the projector runs in this process.
    pub(crate) fn hears(&self) -> bool {
        self.bell.is_some()
    }

    /// Waits until the tenant's sequence was heard of in that incarnation or a later one, and gives the last one; none
    /// where only the table can say what the rows lack. It may miss a batch, so its silence says nothing: whoever waits
    /// looks at the table from time to time.
    pub(crate) async fn heard(&mut self, incarnation: i64, tenant: Uuid, sequence: i64) -> Option<i64> {
        while let Some(bell) = &mut self.bell {
            if bell.changed().await.is_err() {
                self.bell = None;
                break;
            }
            let seen = bell.borrow_and_update();
            let wanted = |(of, last): &&(Uuid, i64)| *of == tenant && *last >= sequence;
            if seen.incarnation >= incarnation
                && let Some((_, last)) = seen.sequences.iter().find(wanted)
            {
                return Some(*last).filter(|_| !seen.parked);
            }
        }
        std::future::pending().await
    }
}
