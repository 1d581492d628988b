//! A visit to one stream that is due, and how the two plain kinds are attended to: timers and process managers.

use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use domain::aggregate::is_at_once;
use domain::process::{Input, Process};
use domain::{Aggregate, Context, TenantId, Timed};
use eventstore::{DueWork, bytes, chain};
use futures::future::BoxFuture;
use uuid::Uuid;

use super::hands::Held;
use super::kinds::Kind;
use super::{CLAIM, Host, HostError, LATER, actor};
use crate::clock;
use crate::context::{CommandContext, ExecuteError};
use crate::executor::Executor;

/// One stream that is due, in the hands of this host.
pub(super) struct Visit {
    pub(super) host: Arc<Host>,
    pub(super) work: DueWork,
    pub(super) held: Held,
    /// Whose claim the stream has, if any.
    holder: Option<Uuid>,
    /// How far the tenant's clock is ahead of ours.
    ahead: TimeDelta,
}

/// What becomes of the stream's row.
pub(super) enum Next {
    /// The visit's append has said when it is due next.
    Appended,
    /// There was nothing to do; the state waits for this.
    Waits(Option<DateTime<Utc>>),
    /// What it wants can't be done yet.
    Later(Duration),
}

impl Visit {
    /// To a stream that this host has just claimed; none where it is there already.
    pub(super) fn claimed(host: &Arc<Host>, work: DueWork) -> Option<Self> {
        let held = host.hands.take(work.tenant, work.stream_id)?;
        let ahead = work.ahead;
        Some(Self { host: host.clone(), work, held, holder: Some(host.id), ahead })
    }

    /// To a stream whose moment comes while the clock of its tenant is on its way, at `at`; none where this host, or
    /// another, is there already. Nobody else claims there, so that only a long visit needs a claim.
    pub(super) async fn on_the_way(
        host: &Arc<Host>,
        work: DueWork,
        at: DateTime<Utc>,
        kind: &Kind,
    ) -> Result<Option<Self>, HostError> {
        let Some(mut visit) = Self::claimed(host, work) else { return Ok(None) };
        visit.ahead = at - clock::now();
        if !kind.long {
            visit.holder = None;
        } else if !host.executor.store().claim_one(&visit.work, host.id, CLAIM).await? {
            return Ok(None);
        }
        Ok(Some(visit))
    }

    pub(super) fn executor(&self) -> &Executor {
        &self.host.executor
    }

    pub(super) fn tenant(&self) -> TenantId {
        TenantId::from(self.work.tenant)
    }

    /// The stream, as the aggregate names it.
    pub(super) fn id<A: Aggregate>(&self) -> A::Id {
        A::Id::from(self.work.stream_id)
    }

    /// Now, by the tenant's clock. The store has said that the moment has come, so it is never before that.
    pub(super) fn now(&self) -> DateTime<Utc> {
        (clock::now() + self.ahead).max(self.work.due_at)
    }

    /// A command of the house on the way of this visit.
    pub(super) fn command(&self, name: &'static str) -> CommandContext {
        CommandContext::new(Context::new(self.tenant(), actor(), self.now()), name)
    }

    /// Attends to the stream and says what becomes of its row; whether it went on.
    pub(super) async fn carry_out(self, kind: &Kind) -> bool {
        if !is_at_once(self.work.due_at) {
            let late = (self.now() - self.work.due_at).as_seconds_f64();
            metrics::histogram!("annals_host_late_seconds", "kind" => kind.stream.name).record(late);
        }
        let next = (kind.attend)(&self).await.unwrap_or_else(|error| {
            tracing::warn!(error = chain(&error), kind = kind.stream.name, "a stream waits");
            Next::Later(LATER)
        });
        let outcome = match next {
            Next::Appended => "appended",
            Next::Waits(_) => "waits",
            Next::Later(_) => "later",
        };
        metrics::counter!("annals_host_visits_total", "kind" => kind.stream.name, "outcome" => outcome).increment(1);
        let store = self.host.executor.store();
        let told = match &next {
            Next::Appended => Ok(()),
            Next::Waits(due_at) => store.correct_work(&self.work, self.holder, *due_at).await,
            Next::Later(pause) => store.postpone_work(&self.work, self.host.id, *pause).await,
        };
        if let Err(error) = told {
            tracing::warn!(error = chain(&error), "a claim runs out by itself");
        }
        !matches!(next, Next::Later(_))
    }
}

/// Tells an aggregate that its moment has come. It happens at that moment, however late it is told.
pub(super) fn timed<A: Timed>(visit: &Visit) -> BoxFuture<'_, Result<Next, HostError>> {
    Box::pin(async move {
        let (id, due) = (visit.id::<A>(), visit.work.due_at);
        let mut cc = visit.command("process.timer");
        cc.ctx = cc.ctx.at(due);
        cc.metadata.causation_id = Some(format!("{id}@{}", due.to_rfc3339()));
        match visit.executor().execute::<A>(cc, id, A::due(due)).await {
            Ok(receipt) if receipt.changed => Ok(Next::Appended),
            Ok(receipt) => Ok(Next::Waits(receipt.loaded.state.wakes_at())),
            Err(error) => Err(HostError::step(id, &error)),
        }
    })
}

/// Sends the pending command of a process, or tells it that its moment has come. Each step follows the version that it was
/// decided on: a host that lost its claim meanwhile changes nothing.
pub(super) fn process<P: Process>(visit: &Visit) -> BoxFuture<'_, Result<Next, HostError>> {
    Box::pin(async move {
        let (executor, id) = (visit.executor(), visit.id::<P>());
        let known = executor.load::<P>(visit.tenant(), id).await?;
        let following = |name| CommandContext { if_match: Some(known.version), ..visit.command(name) };
        let Some(send) = known.state.pending().cloned() else {
            let went_on = step::<P>(executor, following("process.wake"), id, Input::Due).await?;
            return Ok(if went_on { Next::Appended } else { Next::Waits(known.state.wakes_at()) });
        };
        let command = bytes::command_id(visit.work.stream_id, known.version, 0);
        let mut cc = visit.command("process.send");
        cc.process_command = Some(command);
        cc.metadata.causation_id = Some(format!("{id}:{}", known.version));
        let Ok(outcome) = executor.settle(cc, send).await else { return Ok(Next::Later(LATER)) };
        let settled = CommandContext { settled_command: Some(command), ..following("process.settle") };
        let went_on = step::<P>(executor, settled, id, Input::Settled(outcome)).await?;
        Ok(if went_on { Next::Appended } else { Next::Waits(known.state.wakes_at()) })
    })
}

/// One step of a process: an append to its own stream. Whether it went on, by this host or another.
pub(super) async fn step<P: Process>(
    executor: &Executor,
    cc: CommandContext,
    id: P::Id,
    input: P::Command,
) -> Result<bool, HostError> {
    match executor.execute::<P>(cc, id, input).await {
        Ok(receipt) => {
            if receipt.changed && receipt.loaded.state.failed() {
                metrics::counter!("annals_processes_failed_total").increment(1);
                tracing::error!(process = %id, "ALARM: a process can't go on by itself; somebody must look");
            }
            Ok(receipt.changed)
        }
        // Another host has taken this step: its outcome counts.
        Err(ExecuteError::VersionConflict { .. }) => Ok(true),
        Err(error) => Err(HostError::step(id, &error)),
    }
}
