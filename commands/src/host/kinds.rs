//! The kinds of streams that are hosted, and the loop that claims what is due of one kind.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use domain::billing::Subscription;
use domain::process::ErasureProcess;
use domain::{StreamType, names};
use eventstore::{DueWork, chain};
use futures::future::BoxFuture;
use tokio::task::JoinSet;
use tokio::time::Instant;
use uuid::Uuid;

use super::visit::{Next, Visit, process, timed};
use super::{CLAIM, Host, HostError, PAUSE, clock, run};

/// The most that is claimed at a time.
const CLAIMS: usize = 250;
/// The least time between two looks for what other processes have scheduled, while the log moves on.
const PACE: Duration = Duration::from_millis(20);
/// How long calls that are under way may take when the host is stopped; then they are given to another host, which
/// repeats them under the same key.
const CALLS_END_WITHIN: Duration = Duration::from_secs(5);

/// Attends to one stream.
pub(super) type Attend = for<'a> fn(&'a Visit) -> BoxFuture<'a, Result<Next, HostError>>;

/// A kind of stream that is hosted.
pub(super) struct Kind {
    pub(super) stream: StreamType,
    pub(super) attend: Attend,
    /// How many are attended to at a time.
    room: usize,
    /// How many of them may be of one tenant, about: whoever waits for slow providers must not make others wait.
    room_of_tenant: usize,
    /// Whether a visit may take long, so that its claim must be held: it waits for others.
    pub(super) long: bool,
}

/// Every kind.
pub(super) const KINDS: &[Kind] = &[
    Kind { stream: names::ERASURE, attend: process::<ErasureProcess>, room: 16, room_of_tenant: 8, long: false },
    Kind { stream: names::SUBSCRIPTION, attend: timed::<Subscription>, room: 1_024, room_of_tenant: 512, long: false },
    Kind { stream: names::TEST_CLOCK, attend: clock::advance, room: 8, room_of_tenant: 1, long: true },
    Kind { stream: names::RUN, attend: run::attend, room: 512, room_of_tenant: 128, long: true },
];

/// The kind of a stream, if it is hosted.
pub(super) fn kind_of(stream_type: &str) -> Option<&'static Kind> {
    KINDS.iter().find(|kind| kind.stream.name == stream_type)
}

/// The visits of one kind that are under way.
#[derive(Default)]
struct Visits {
    tasks: JoinSet<()>,
    tenants: HashMap<tokio::task::Id, Uuid>,
    of_tenants: HashMap<Uuid, usize>,
    /// What was claimed, and when, while a visit there had not quite ended: its own append had made it due once more.
    again: Vec<(Instant, DueWork)>,
}

impl Visits {
    fn begin(&mut self, host: &Arc<Host>, kind: &'static Kind, claimed: Instant, due: Vec<DueWork>) {
        self.begin_claimed(host, kind, due.into_iter().map(|work| (claimed, work)).collect());
    }

    /// Begins what waited for a visit to end. Claims that have run out meanwhile are anybody's.
    fn begin_again(&mut self, host: &Arc<Host>, kind: &'static Kind) {
        let good = std::mem::take(&mut self.again).into_iter().filter(|(claimed, _)| claimed.elapsed() < CLAIM);
        self.begin_claimed(host, kind, good.collect());
    }

    fn begin_claimed(&mut self, host: &Arc<Host>, kind: &'static Kind, due: Vec<(Instant, DueWork)>) {
        for (claimed, work) in due {
            let tenant = work.tenant;
            let Some(visit) = Visit::claimed(host, work.clone()) else {
                self.again.push((claimed, work));
                continue;
            };
            let task = self.tasks.spawn(async move {
                visit.carry_out(kind).await;
            });
            self.tenants.insert(task.id(), tenant);
            *self.of_tenants.entry(tenant).or_default() += 1;
        }
    }

    fn ended(&mut self, ended: Result<(tokio::task::Id, ()), tokio::task::JoinError>) {
        let id = match ended {
            Ok((id, ())) => id,
            Err(error) => {
                // Its claim runs out, and somebody looks again. A panic's message may hold a value.
                tracing::error!(panicked = error.is_panic(), "a visit broke off");
                error.id()
            }
        };
        let Some(tenant) = self.tenants.remove(&id) else { return };
        if let Some(count) = self.of_tenants.get_mut(&tenant) {
            *count -= 1;
        }
        self.of_tenants.retain(|_, count| *count > 0);
    }

    fn busy(&self, room: usize) -> Vec<Uuid> {
        self.of_tenants.iter().filter(|(_, count)| **count >= room).map(|(tenant, _)| *tenant).collect()
    }
}

/// Hosts one kind until it is told to stop.
pub(super) async fn host(host: Arc<Host>, kind: &'static Kind) {
    let (store, stop) = (host.executor.store().clone(), host.stop.clone());
    let mut bell = host.executor.bells.kind(kind.stream.name);
    let mut visits = Visits::default();
    while !stop.is_cancelled() {
        bell.mark_unchanged();
        visits.begin_again(&host, kind);
        let (seen, looked) = (store.tail().position(), Instant::now());
        let limit = CLAIMS.min(kind.room.saturating_sub(visits.tasks.len() + visits.again.len()));
        let mut more = limit == 0;
        let mut rest = PAUSE;
        if limit > 0 {
            match claim(&host, kind, limit, &visits).await {
                Ok((due, next)) => {
                    more = due.len() == limit;
                    rest = next;
                    visits.begin(&host, kind, looked, due);
                }
                Err(error) => tracing::warn!(error = chain(&error), "what is due can't be claimed"),
            }
        }
        loop {
            tokio::select! {
                () = stop.cancelled() => break,
                Some(ended) = visits.tasks.join_next_with_id() => {
                    visits.ended(ended);
                    while let Some(ended) = visits.tasks.try_join_next_with_id() {
                        visits.ended(ended);
                    }
                    visits.begin_again(&host, kind);
                    if more { break }
                }
                _ = bell.changed() => break,
                () = async {
                    store.tail().past(seen).await;
                    tokio::time::sleep_until(looked + PACE).await;
                } => break,
                () = tokio::time::sleep_until(looked + rest) => break,
            }
        }
    }
    finish(&host, kind, visits).await;
}

/// What is due now, and how long until more is.
async fn claim(
    host: &Host,
    kind: &Kind,
    limit: usize,
    visits: &Visits,
) -> Result<(Vec<DueWork>, Duration), eventstore::StoreError> {
    let (store, busy) = (host.executor.store(), visits.busy(kind.room_of_tenant));
    let (name, clock) = (kind.stream.name, names::TEST_CLOCK.name);
    let due = store.claim_work(name, clock, host.id, CLAIM, limit as i64, &busy).await?;
    let next = if due.is_empty() { store.next_due(name).await? } else { None };
    let until = next.map_or(PAUSE, |at| (at - crate::clock::now()).to_std().unwrap_or_default());
    Ok((due, until.clamp(Duration::from_millis(1), PAUSE)))
}

/// Steps are finished; calls are given a while, and then given back.
async fn finish(host: &Host, kind: &Kind, mut visits: Visits) {
    let mut held: Vec<(Uuid, Uuid)> = visits.again.iter().map(|(_, work)| (work.tenant, work.stream_id)).collect();
    let within = if kind.long { CALLS_END_WITHIN } else { Duration::MAX };
    let all = async { while visits.tasks.join_next().await.is_some() {} };
    if tokio::time::timeout(within, all).await.is_err() {
        held.extend(host.hands.streams());
        visits.tasks.shutdown().await;
    }
    if held.is_empty() {
        return;
    }
    if let Err(error) = host.executor.store().release_work(host.id, &held).await {
        tracing::debug!(error = chain(&error), "claims run out by themselves");
    }
}
