//! What a host has in its hands: the claims that it renews, and how it learns that one is no longer its own.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use eventstore::chain;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::{CLAIM, Host};

/// How often claims are renewed: often enough that a call that is called off ends soon, too.
const BEAT: Duration = Duration::from_millis(500);

type Stream = (Uuid, Uuid);

#[derive(Clone, Default)]
pub(super) struct Hands(Arc<Mutex<HashMap<Stream, CancellationToken>>>);

/// A stream in the hands of this host, until this is dropped.
pub(super) struct Held {
    hands: Hands,
    stream: Stream,
    /// Cancelled when the claim is lost: the stream was moved by others, or this process was too slow.
    pub(super) lost: CancellationToken,
}

impl Hands {
    fn held(&self) -> MutexGuard<'_, HashMap<Stream, CancellationToken>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a stream, unless this host has it in its hands already.
    pub(super) fn take(&self, tenant: Uuid, stream: Uuid) -> Option<Held> {
        let stream = (tenant, stream);
        match self.held().entry(stream) {
            Entry::Occupied(_) => None,
            Entry::Vacant(free) => {
                let lost = free.insert(CancellationToken::new()).clone();
                Some(Held { hands: self.clone(), stream, lost })
            }
        }
    }

    /// What is in hand.
    pub(super) fn streams(&self) -> Vec<Stream> {
        self.held().keys().copied().collect()
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.hands.held().remove(&self.stream);
    }
}

/// Renews the claims of a host until it rests.
pub(super) async fn beat(host: Arc<Host>, resting: CancellationToken) {
    let mut renewed = Instant::now();
    while resting.run_until_cancelled(tokio::time::sleep(BEAT)).await.is_some() {
        let held = host.hands.streams();
        if held.is_empty() {
            renewed = Instant::now();
            continue;
        }
        let asked = Instant::now();
        match host.executor.store().renew_claims(host.id, CLAIM, &held).await {
            Ok(lost) => {
                renewed = asked;
                let hands = host.hands.held();
                lost.iter().filter_map(|stream| hands.get(stream)).for_each(CancellationToken::cancel);
            }
            Err(error) => tracing::warn!(error = chain(&error), "claims could not be renewed"),
        }
        // Whoever could not renew for that long has lost all of them.
        if renewed.elapsed() > CLAIM {
            host.hands.held().values().for_each(CancellationToken::cancel);
        }
    }
}
