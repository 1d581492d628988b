//! What bounds the streams of events that a process has open, and ends them with it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use domain::TenantId;
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio_util::sync::CancellationToken;

use crate::problem::{Problem, codes};

/// How many streams may be open at a time: half of the connections, for all others must still get in.
const AT_A_TIME: usize = 2_000;
/// How many of them one tenant may have.
const OF_A_TENANT: usize = 100;
/// How many of them may read the log at the same moment: most of the readers' connections are for requests.
const READING: usize = 4;

/// The streams that are open in a process.
#[derive(Debug)]
pub struct Streams {
    open: Mutex<Open>,
    reading: Semaphore,
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
    pub fn until(stop: CancellationToken) -> Self {
        Self { open: Mutex::default(), reading: Semaphore::new(READING), stop }
    }

    /// Takes a place, if there is one.
    pub(super) fn take(self: &Arc<Self>, tenant: TenantId) -> Result<Seat, Problem> {
        let mut open = self.open();
        if open.all >= AT_A_TIME {
            return Err(Problem::unavailable());
        }
        let of_tenant = open.of.get(&tenant).copied().unwrap_or_default();
        if of_tenant >= OF_A_TENANT {
            let detail = format!(
                "The tenant has {OF_A_TENANT} streams open in this process, which is as many as one may have. Close those \
                 that nobody reads: one stream without filters has every event."
            );
            return Err(Problem::new(codes::RATE_LIMITED, detail).retry_after(5));
        }
        open.of.insert(tenant, of_tenant + 1);
        open.all += 1;
        metrics::gauge!("annals_event_streams").set(open.all as f64);
        Ok(Seat { streams: self.clone(), tenant })
    }

    /// Is cancelled when the process shall end.
    pub(super) fn stop(&self) -> &CancellationToken {
        &self.stop
    }

    /// Waits for a turn to read the log.
    pub(super) async fn turn(&self) -> Option<SemaphorePermit<'_>> {
        self.reading.acquire().await.ok()
    }

    fn open(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut open = self.streams.open();
        open.all -= 1;
        metrics::gauge!("annals_event_streams").set(open.all as f64);
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
        let streams = Arc::new(Streams::until(CancellationToken::new()));
        let tenant = |number: usize| TenantId::from(Uuid::from_u128(number as u128));
        let code = |number| streams.take(tenant(number)).map_err(|problem| problem.code()).err();
        let mut seats: Vec<_> = (0..OF_A_TENANT).map(|_| streams.take(tenant(0)).unwrap()).collect();
        assert_eq!((code(0), code(1)), (Some(codes::RATE_LIMITED), None));
        seats.pop();
        assert_eq!(code(0), None);
        seats.extend((seats.len()..AT_A_TIME).map(|number| streams.take(tenant(number)).unwrap()));
        assert_eq!(code(1), Some(codes::UNAVAILABLE));
        seats.clear();
        assert!(streams.open().of.is_empty() && streams.open().all == 0);
    }
}
