//! What bounds the streams that a process has open (of events as they come, of replays), and ends them with it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use domain::TenantId;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;

use crate::problem::{Problem, codes};

/// How many streams of a kind there may be.
#[derive(Debug)]
pub struct Bounds {
    /// How many may be open at a time.
    at_a_time: usize,
    /// How many of them one tenant may have.
    of_a_tenant: usize,
    /// How many of them may read the log at the same moment: most of the readers' connections are for requests.
    reading: usize,
    /// The figure that says how many are open.
    gauge: &'static str,
    /// What a tenant has too many of, and what to do.
    told: (&'static str, &'static str),
}

/// Of events as they come: half of the connections, for all others must still get in.
pub const LIVE: Bounds = Bounds {
    at_a_time: 2_000,
    of_a_tenant: 100,
    reading: 4,
    gauge: "annals_event_streams",
    told: ("streams", "Close those that nobody reads: one stream without filters has every event."),
};
/// Of replays: a table on its way takes some ten megabytes, and whatever is encoded takes a processor.
pub const REPLAYS: Bounds = Bounds {
    at_a_time: 16,
    of_a_tenant: 4,
    reading: 2,
    gauge: "annals_replay_streams",
    told: ("files or manifests of replays", "Read them to their end, or close them; then come back."),
};

/// The streams of a kind that are open in a process.
#[derive(Debug)]
pub struct Streams {
    bounds: Bounds,
    open: Mutex<Open>,
    reading: Arc<Semaphore>,
    stop: CancellationToken,
}

#[derive(Debug, Default)]
struct Open {
    all: usize,
    of: HashMap<TenantId, usize>,
}

/// The place of one stream.
#[derive(Debug)]
pub(super) struct Seat {
    streams: Arc<Streams>,
    tenant: TenantId,
}

impl Streams {
    /// In a process that ends its streams once `stop` is cancelled.
    pub fn until(stop: CancellationToken, bounds: Bounds) -> Self {
        Self { open: Mutex::default(), reading: Arc::new(Semaphore::new(bounds.reading)), stop, bounds }
    }

    /// Takes a place, if there is one.
    pub(super) fn take(self: &Arc<Self>, tenant: TenantId) -> Result<Seat, Problem> {
        let mut open = self.open();
        if open.all >= self.bounds.at_a_time {
            return Err(Problem::unavailable());
        }
        let of_tenant = open.of.get(&tenant).copied().unwrap_or_default();
        if of_tenant >= self.bounds.of_a_tenant {
            let (what, advice) = self.bounds.told;
            let detail = format!(
                "The tenant has {of_tenant} {what} open in this process, which is as many as one may have. {advice}"
            );
            return Err(Problem::new(codes::RATE_LIMITED, detail).retry_after(5));
        }
        open.of.insert(tenant, of_tenant + 1);
        open.all += 1;
        metrics::gauge!(self.bounds.gauge).set(open.all as f64);
        Ok(Seat { streams: self.clone(), tenant })
    }

    /// Is cancelled when the process shall end.
    pub(super) fn stop(&self) -> &CancellationToken {
        &self.stop
    }

    /// Waits for a turn to read the log.
    pub(super) async fn turn(&self) -> Option<OwnedSemaphorePermit> {
        self.reading.clone().acquire_owned().await.ok()
    }

    fn open(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut open = self.streams.open();
        open.all -= 1;
        metrics::gauge!(self.streams.bounds.gauge).set(open.all as f64);
        if let Some(of_tenant) = open.of.get_mut(&self.tenant) {
            *of_tenant -= 1;
            if *of_tenant == 0 {
                open.of.remove(&self.tenant);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    #[test]
    fn a_tenant_and_a_process_have_so_many_places_and_each_is_given_back() {
        let streams = Arc::new(Streams::until(CancellationToken::new(), LIVE));
        let tenant = |number: usize| TenantId::from(Uuid::from_u128(number as u128));
        let code = |number| streams.take(tenant(number)).map_err(|problem| problem.code()).err();
        let mut seats: Vec<_> = (0..LIVE.of_a_tenant).map(|_| streams.take(tenant(0)).unwrap()).collect();
        assert_eq!((code(0), code(1)), (Some(codes::RATE_LIMITED), None));
        seats.pop();
        assert_eq!(code(0), None);
        seats.extend((seats.len()..LIVE.at_a_time).map(|number| streams.take(tenant(number)).unwrap()));
        assert_eq!(code(1), Some(codes::UNAVAILABLE));
        seats.clear();
        assert!(streams.open().of.is_empty() && streams.open().all == 0);
    }
}
