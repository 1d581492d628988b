//! Runs process managers: tails the log, wakes who is due, sends their commands. It needs the log alone, so money and
//! erasure go on without a request and without Kafka. One process of the house hosts at a time; another takes over.

use std::time::{Duration, Instant};

use domain::process::{ErasureProcess, Input, Process};
use domain::{AnyId, Context, Event, SystemId, TenantId};
use eventstore::{DueProcess, RecordedEvent, StoreError, bytes};
use futures::StreamExt;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::clock;
use crate::context::{CommandContext, ExecuteError};
use crate::executor::Executor;
use crate::vault::{HighWater, VaultError};

/// The host's name among the tasks that one process leads, and of its cursor.
const TASK: &str = "processes";
/// The kinds of process that are hosted.
const KINDS: &[&str] = &[domain::names::ERASURE.name];
/// How many positions are looked through at a time.
const RANGE: i64 = 10_000;
/// How long to wait before asking again for the lead, for what failed, and for due processes that others scheduled.
const PAUSE: Duration = Duration::from_millis(500);
/// The least time between two looks at the log: processes wait for moments and people, not for milliseconds.
const PACE: Duration = Duration::from_millis(25);
/// How often this process makes sure that it still leads, and its cursor is saved: a lost cursor means old news, which
/// processes ignore.
const LEASE: Duration = Duration::from_secs(1);
/// How many processes do something at a time.
const AT_A_TIME: usize = 16;
/// How long a process waits when what it wants done can't be done yet, or when a step of it failed.
const LATER_SECONDS: f64 = 2.0;
/// How often the log's end is noted beside the keys.
const HIGH_WATER: Duration = Duration::from_secs(5);

/// Hosts the process managers of the house.
#[derive(Debug)]
pub struct ProcessHost;

impl ProcessHost {
    /// Starts hosting, as soon as no other process does; ends after the step in hand once `stop` is cancelled.
    pub fn start(executor: Executor, stop: CancellationToken) -> JoinHandle<()> {
        tokio::spawn(async move {
            while !stop.is_cancelled() {
                if let Err(error) = lead(&executor, &stop).await {
                    tracing::warn!(error = &error as &dyn std::error::Error, "the process host begins again");
                }
                stop.run_until_cancelled(tokio::time::sleep(PAUSE)).await;
            }
        })
    }
}

/// Why the host begins again from its cursor.
#[derive(Debug, thiserror::Error)]
enum HostError {
    /// The log does not answer, or holds what this binary can't read.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// An event that this binary can't read: a newer one wrote it.
    #[error(transparent)]
    Decode(#[from] domain::DecodeError),
    /// The key store does not answer.
    #[error(transparent)]
    Vault(#[from] VaultError),
    /// A step could not be appended.
    #[error("process {process} could not go on: {why}")]
    Step {
        /// Which.
        process: String,
        /// What the executor said.
        why: String,
    },
}

/// The actor of the house's processes.
fn actor() -> AnyId {
    SystemId::from(Uuid::from_u128(2)).into()
}

/// Hosts for as long as this process leads.
async fn lead(executor: &Executor, stop: &CancellationToken) -> Result<(), HostError> {
    let store = executor.store();
    let Some(mut leadership) = store.lead(TASK).await? else { return Ok(()) };
    let mut heard = store.process_cursor(TASK).await?;
    let (incarnation, _) = store.incarnation().await?;
    let (mut leased, mut saved) = (Instant::now(), heard);
    let mut noted: Option<Instant> = None;
    while !stop.is_cancelled() {
        if leased.elapsed() > LEASE {
            leadership.confirm().await?;
            if heard > saved {
                store.save_process_cursor(TASK, heard).await?;
                saved = heard;
            }
            leased = Instant::now();
        }
        // What can't be heard holds up no process that is under way.
        match hear(executor, heard, stop).await {
            Ok(position) => heard = position,
            Err(error) => {
                tracing::error!(error = &error as &dyn std::error::Error, heard, "processes can't hear the log")
            }
        }
        let busy = work(executor).await?;
        if noted.is_none_or(|at| at.elapsed() > HIGH_WATER) {
            let mark = HighWater { incarnation, position: heard };
            executor.vault().note_high_water(mark).await?;
            noted = Some(Instant::now());
        }
        if !busy {
            stop.run_until_cancelled(tokio::time::sleep(PACE)).await;
            tokio::select! {
                () = stop.cancelled() => {}
                _ = store.tail().past(heard) => {}
                () = tokio::time::sleep(until_due(executor).await?) => {}
            }
        }
    }
    Ok(())
}

/// How long until somebody is due, at most one pause.
async fn until_due(executor: &Executor) -> Result<Duration, HostError> {
    let next = executor.store().next_due(KINDS).await?;
    let wait = next.map(|due| (due - clock::now()).to_std().unwrap_or_default());
    Ok(wait.unwrap_or(PAUSE).clamp(PAUSE / 20, PAUSE))
}

/// Lets the processes hear what was appended since; gives the last position heard.
async fn hear(executor: &Executor, mut heard: i64, stop: &CancellationToken) -> Result<i64, HostError> {
    let store = executor.store();
    while heard < store.tail().position() && !stop.is_cancelled() {
        let until = store.tail().position().min(heard + RANGE);
        for event in store.read_log_of(heard, until, &interesting()).await? {
            tell::<ErasureProcess>(executor, &event).await?;
        }
        heard = until;
    }
    Ok(heard)
}

/// The types of events that any process listens to.
fn interesting() -> Vec<&'static str> {
    <ErasureProcess as Process>::Hears::TYPES.iter().map(|kind| kind.name).collect()
}

/// Tells one kind of process of an event that it is interested in.
async fn tell<P: Process>(executor: &Executor, event: &RecordedEvent) -> Result<(), HostError> {
    let interesting = P::Hears::TYPES.iter().any(|kind| kind.name == event.event_type);
    let Some(decoded) = interesting.then(|| event.decode::<P::Hears>()).transpose()?.flatten() else { return Ok(()) };
    let Some(id) = P::concerned(&decoded, event.stream_id) else { return Ok(()) };
    let mut cc = command(TenantId::from(event.tenant_id), "process.hear");
    cc.metadata.causation_id = Some(event.event_id.to_string());
    cc.metadata.correlation_id = event.metadata().correlation_id;
    let input = Input::Heard { sequence: event.sequence, stream: event.stream_id, event: decoded };
    step::<P>(executor, cc, id, input).await.map(|_| ())
}

fn command(tenant: TenantId, name: &'static str) -> CommandContext {
    CommandContext::new(Context::new(tenant, actor(), clock::now()), name)
}

/// One step of a process: an append to its own stream, which also says when it is due next. Whether it went on.
async fn step<P: Process>(
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
        Err(error) => Err(HostError::Step { process: id.to_string(), why: error.to_string() }),
    }
}

/// Lets everybody who is due do one thing; whether anybody did. One that can't waits, and holds nobody up.
async fn work(executor: &Executor) -> Result<bool, HostError> {
    let due = executor.store().due_processes(KINDS, 100).await?;
    let steps = due.into_iter().map(|process| attend(executor.clone(), process));
    let went_on: Vec<_> = futures::stream::iter(steps).buffer_unordered(AT_A_TIME).collect().await;
    Ok(went_on.into_iter().collect::<Result<Vec<_>, _>>()?.contains(&true))
}

/// Lets one process do one thing; whether it did.
async fn attend(executor: Executor, process: DueProcess) -> Result<bool, HostError> {
    let went_on = wake_up::<ErasureProcess>(&executor, &process).await.unwrap_or_else(|error| {
        tracing::warn!(error = &error as &dyn std::error::Error, "a process waits");
        false
    });
    if !went_on {
        executor.store().postpone(&process, LATER_SECONDS).await?;
    }
    Ok(went_on)
}

/// Sends the pending command of a process, or tells it that its moment has come. Each step follows the version that it was
/// decided on: a host that lost the lead meanwhile changes nothing.
async fn wake_up<P: Process>(executor: &Executor, due: &DueProcess) -> Result<bool, HostError> {
    let tenant = TenantId::from(due.tenant);
    let id = P::Id::from(due.stream_id);
    let known = executor.load::<P>(tenant, id).await?;
    let following = |name| CommandContext { if_match: Some(known.version), ..command(tenant, name) };
    let Some(send) = known.state.pending().cloned() else {
        return step::<P>(executor, following("process.wake"), id, Input::Due).await;
    };
    let mut cc = command(tenant, "process.send");
    cc.process_command = Some(bytes::command_id(due.stream_id, known.version, 0));
    cc.metadata.causation_id = Some(format!("{id}:{}", known.version));
    match executor.settle(cc, send).await {
        Ok(outcome) => step::<P>(executor, following("process.settle"), id, Input::Settled(outcome)).await,
        Err(_later) => Ok(false),
    }
}
