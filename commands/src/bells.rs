//! What this process's own appends tell to whoever waits in it: that there is work of a kind, that a stream has changed.
//! Nobody depends on hearing it: work and streams are also looked at every now and then.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use tokio::sync::{Notify, watch};
use uuid::Uuid;

/// How many streams may be listened to before those that nobody listens to any more are cleared away.
const CLEAR_AT: usize = 1_024;

type Stream = (Uuid, Uuid);

/// The bells of one process; clones are the same.
#[derive(Clone, Default)]
pub(crate) struct Bells {
    kinds: Arc<Mutex<HashMap<&'static str, watch::Sender<()>>>>,
    streams: Arc<Mutex<HashMap<Stream, Weak<Notify>>>>,
}

impl Bells {
    /// Rings whenever a stream of that kind was given a moment to wait for.
    pub(crate) fn kind(&self, kind: &'static str) -> watch::Receiver<()> {
        locked(&self.kinds).entry(kind).or_insert_with(|| watch::Sender::new(())).subscribe()
    }

    pub(crate) fn ring_kind(&self, kind: &'static str) {
        if let Some(bell) = locked(&self.kinds).get(kind) {
            bell.send_replace(());
        }
    }

    /// Rings whenever the stream was appended to.
    pub(crate) fn stream(&self, tenant: Uuid, stream: Uuid) -> Arc<Notify> {
        let mut streams = locked(&self.streams);
        if streams.len() >= CLEAR_AT {
            streams.retain(|_, bell| bell.strong_count() > 0);
        }
        let known = streams.get(&(tenant, stream)).and_then(Weak::upgrade);
        known.unwrap_or_else(|| {
            let bell = Arc::new(Notify::new());
            streams.insert((tenant, stream), Arc::downgrade(&bell));
            bell
        })
    }

    pub(crate) fn ring_stream(&self, tenant: Uuid, stream: Uuid) {
        let bell = locked(&self.streams).get(&(tenant, stream)).and_then(Weak::upgrade);
        if let Some(bell) = bell {
            bell.notify_waiters();
        }
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
