//! Advances the clock of a test tenant: what falls due on the way is attended to in order, each at its moment, and only
//! then does the clock arrive. A host that takes over goes on where the other came to.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::{Duration, Instant};

use chrono::{DateTime, TimeDelta, Utc};
use domain::names;
use domain::tenancy::{TestClock, TestClockCommand, TestClockStatus};
use eventstore::{DueWork, TenantClock};
use futures::future::BoxFuture;
use uuid::Uuid;

use super::kinds::kind_of;
use super::visit::{Next, Visit};
use super::{HostError, LATER};
use crate::clock;

/// How many moments are read at a time.
const MOMENTS: i64 = 5_000;
/// How long to wait for what another host has in its hands, or is just writing.
const PATIENCE: Duration = Duration::from_millis(20);
/// How many moments that have no order among them are attended to at a time.
const TOGETHER: usize = 32;
/// How often the tenant's time is shown on the way, and new moments are looked for.
const SHOW: Duration = Duration::from_millis(250);

/// Goes the whole way, or as far as it can.
pub(super) fn advance(visit: &Visit) -> BoxFuture<'_, Result<Next, HostError>> {
    Box::pin(async move {
        let id = TestClock::id(visit.tenant());
        let known = visit.executor().load::<TestClock>(visit.tenant(), id).await?;
        let Some(to) = known.state.advance_to.filter(|_| known.state.status == TestClockStatus::Advancing) else {
            return Ok(Next::Waits(None));
        };
        let mut way = Way { visit, to, at: visit.now().min(to), begun: clock::now(), shown: Instant::now() };
        if !way.go().await? {
            return Ok(Next::Later(LATER));
        }
        let mut cc = visit.command("tenancy.test_clock.arrive");
        cc.ctx = domain::Context::new(visit.tenant(), cc.ctx.actor, to);
        cc.clock = Some(TenantClock { ahead: ahead(to), advancing: false });
        let arrived = visit.executor().execute::<TestClock>(cc, id, TestClockCommand::Arrive { to }).await;
        arrived.map(|_| Next::Appended).map_err(|error| HostError::step(id, &error))
    })
}

/// How far a clock that shows `at` is ahead of ours; not at all where ours has overtaken it.
fn ahead(at: DateTime<Utc>) -> TimeDelta {
    (at - clock::now()).max(TimeDelta::zero())
}

/// The way of one advance.
struct Way<'a> {
    /// To the clock.
    visit: &'a Visit,
    /// When it ends.
    to: DateTime<Utc>,
    /// Where the tenant's time has come to.
    at: DateTime<Utc>,
    /// When this host set out, by our clock: runs that are requested after that wait until the clock has arrived, so that
    /// it does, however many come and however slow their agents are.
    begun: DateTime<Utc>,
    /// When that was last shown.
    shown: Instant,
}

/// A moment that lies ahead; the earliest first, and of one moment the stream that began first.
type Moment = Reverse<(DateTime<Utc>, Uuid, String)>;

/// Why a way ends before its time.
enum Stop {
    /// The moments must be read again: a while has passed, or others are at one of them.
    ReadAgain,
    /// Something can't be done yet, or the claim was lost.
    Later,
}

impl Way<'_> {
    /// Attends to everything up to the end of the way; false where something can't be done yet, or the claim was lost.
    async fn go(&mut self) -> Result<bool, HostError> {
        loop {
            let store = self.visit.executor().store();
            let (tenant, young) = (self.visit.work.tenant, (&[names::RUN.name][..], self.begun));
            let due = store.due_of_tenant(tenant, self.to, names::TEST_CLOCK.name, young, MOMENTS).await?;
            if due.is_empty() {
                return Ok(true);
            }
            // Beyond the last that was read there may be more: those are read again first.
            let horizon = if due.len() as i64 == MOMENTS { due.last().map(|last| last.due_at) } else { None };
            let horizon = horizon.unwrap_or(self.to);
            let moments = due.into_iter().map(|work| Reverse((work.due_at, work.stream_id, work.stream_type)));
            if let Some(Stop::Later) = self.pass(moments.collect(), horizon).await? {
                return Ok(false);
            }
        }
    }

    /// Attends to these moments in order, and to those that follow from them, for a while.
    async fn pass(
        &mut self,
        mut moments: BinaryHeap<Moment>,
        horizon: DateTime<Utc>,
    ) -> Result<Option<Stop>, HostError> {
        let begun = Instant::now();
        while let Some(Reverse((due_at, ..))) = moments.peek() {
            if self.visit.held.lost.is_cancelled() || self.visit.host.stop.is_cancelled() {
                return Ok(Some(Stop::Later));
            }
            if begun.elapsed() > SHOW {
                return Ok(Some(Stop::ReadAgain));
            }
            self.at = self.at.max(*due_at);
            self.show().await?;
            // What is due at one and the same time, or was before this way began, has no order among it.
            let mut together = Vec::new();
            while together.len() < TOGETHER
                && let Some(Reverse((due_at, ..))) = moments.peek()
                && *due_at <= self.at
            {
                together.extend(moments.pop().map(|Reverse(moment)| self.attend(moment)));
            }
            for attended in futures::future::join_all(together).await {
                match attended? {
                    Ok(next) => moments.extend(next.filter(|Reverse((due_at, ..))| *due_at <= horizon)),
                    Err(stop) => return Ok(Some(stop)),
                }
            }
        }
        Ok(None)
    }

    /// Attends to one moment; gives the next that the stream waits for.
    async fn attend(
        &self,
        (due_at, stream_id, stream_type): (DateTime<Utc>, Uuid, String),
    ) -> Result<Result<Option<Moment>, Stop>, HostError> {
        let Some(kind) = kind_of(&stream_type) else {
            tracing::error!(stream_type, "a stream of an unknown kind is due: a newer binary must advance this clock");
            return Ok(Err(Stop::Later));
        };
        let (host, tenant) = (&self.visit.host, self.visit.work.tenant);
        let work = DueWork { tenant, stream_id, stream_type, due_at, ahead: TimeDelta::zero() };
        let Some(there) = Visit::on_the_way(host, work, self.at, kind).await? else {
            // This host or another is at it: what comes of that belongs before all that comes later.
            tokio::time::sleep(PATIENCE).await;
            return Ok(Err(Stop::ReadAgain));
        };
        if !there.carry_out(kind).await {
            return Ok(Err(Stop::Later));
        }
        let next = host.executor.store().due_of_stream(tenant, stream_id).await?;
        Ok(Ok(next.map(|next| Reverse((next.due_at, next.stream_id, next.stream_type)))))
    }

    /// Lets requests of the tenant see how far its time has come.
    async fn show(&mut self) -> Result<(), HostError> {
        if self.shown.elapsed() > SHOW {
            self.visit.executor().store().move_clock(self.visit.work.tenant, ahead(self.at)).await?;
            self.shown = Instant::now();
        }
        Ok(())
    }
}
