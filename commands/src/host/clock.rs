//! Advances the clock of a test tenant: what falls due on the way is attended to in order, each at its moment, and only
//! then does the clock arrive. A host that takes over goes on where the other came to.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
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
/// How often the tenant's time is shown on the way, and new moments are looked for.
const SHOW: Duration = Duration::from_millis(250);

/// Goes the whole way, or as far as it can.
pub(super) fn advance(visit: Visit) -> BoxFuture<'static, Result<Next, HostError>> {
    Box::pin(async move {
        let id = TestClock::id(visit.tenant());
        let known = visit.executor().load::<TestClock>(visit.tenant(), id).await?;
        let Some(to) = known.state.advance_to.filter(|_| known.state.status == TestClockStatus::Advancing) else {
            return Ok(Next::Waits(None));
        };
        let mut way = Way { visit: &visit, to, at: visit.now(), shown: Instant::now() };
        if !way.go().await? {
            return Ok(Next::Later(LATER));
        }
        let mut cc = visit.command("tenancy.test_clock.arrive");
        cc.ctx = domain::Context::new(visit.tenant(), cc.ctx.actor, to);
        cc.clock = Some(TenantClock { ahead: to - clock::now(), advancing: false });
        let arrived = visit.executor().execute::<TestClock>(cc, id, TestClockCommand::Arrive { to }).await;
        arrived.map(|_| Next::Appended).map_err(|error| HostError::step(id, &error))
    })
}

/// The way of one advance.
struct Way<'a> {
    visit: &'a Visit,
    to: DateTime<Utc>,
    /// Where the tenant's time has come to.
    at: DateTime<Utc>,
    shown: Instant,
}

/// A moment that lies ahead; the earliest first, and of one moment the stream that began first.
type Moment = Reverse<(DateTime<Utc>, Uuid, String)>;

impl Way<'_> {
    /// Attends to everything up to the end of the way; false where something can't be done yet, or the claim was lost.
    async fn go(&mut self) -> Result<bool, HostError> {
        loop {
            let store = self.visit.executor().store();
            let due = store.due_of_tenant(self.visit.work.tenant, self.to, names::TEST_CLOCK.name, MOMENTS).await?;
            if due.is_empty() {
                return Ok(true);
            }
            // Beyond the last that was read there may be more: those are read again first.
            let horizon = if due.len() as i64 == MOMENTS { due.last().map(|last| last.due_at) } else { None };
            let horizon = horizon.unwrap_or(self.to);
            let moments = due.into_iter().map(|work| Reverse((work.due_at, work.stream_id, work.stream_type)));
            if !self.pass(moments.collect(), horizon).await? {
                return Ok(false);
            }
        }
    }

    /// Attends to these moments in order, and to those that follow from them, for a while.
    async fn pass(&mut self, mut moments: BinaryHeap<Moment>, horizon: DateTime<Utc>) -> Result<bool, HostError> {
        let begun = Instant::now();
        while let Some(Reverse((due_at, stream_id, stream_type))) = moments.pop() {
            if self.visit.lost.is_cancelled() || self.visit.host.stop.is_cancelled() {
                return Ok(false);
            }
            if begun.elapsed() > SHOW {
                return Ok(true);
            }
            self.at = self.at.max(due_at);
            self.show().await?;
            let Some(kind) = kind_of(&stream_type) else {
                tracing::error!(
                    stream_type,
                    "a stream of an unknown kind is due: a newer binary must advance this clock"
                );
                return Ok(false);
            };
            let tenant = self.visit.work.tenant;
            let work = DueWork { tenant, stream_id, stream_type, due_at, ahead: Default::default() };
            let there = Visit::on_the_way(&self.visit.host, work, self.at);
            if kind.calls && !there.hold().await? {
                // Another host is at it: what it does belongs before all that comes later.
                self.visit.host.hands.put_down(tenant, stream_id);
                tokio::time::sleep(PATIENCE).await;
                return Ok(true);
            }
            if !there.carry_out(kind).await {
                return Ok(false);
            }
            let next = self.visit.executor().store().due_of_stream(tenant, stream_id).await?;
            if let Some(next) = next.filter(|next| next.due_at <= horizon) {
                moments.push(Reverse((next.due_at, next.stream_id, next.stream_type)));
            }
        }
        Ok(true)
    }

    /// Lets requests of the tenant see how far its time has come.
    async fn show(&mut self) -> Result<(), HostError> {
        if self.shown.elapsed() > SHOW {
            let ahead = self.at - clock::now();
            self.visit.executor().store().move_clock(self.visit.work.tenant, ahead.max(Default::default())).await?;
            self.shown = Instant::now();
        }
        Ok(())
    }
}
