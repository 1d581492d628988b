//! Lets process managers hear the log. One process of the house does so at a time; what is heard twice is old news.

use std::time::{Duration, Instant};

use domain::process::{ErasureProcess, Input, Process};
use domain::{Event, TenantId};
use eventstore::{Leadership, RecordedEvent, chain};

use super::visit::step;
use super::{Host, HostError, PAUSE, actor};
use crate::context::CommandContext;

/// The task that one process leads, and its cursor.
const TASK: &str = "processes";
/// How many positions are looked through at a time.
const RANGE: i64 = 10_000;
/// The least time between two looks at the log: processes wait for moments and people, not for milliseconds.
const PACE: Duration = Duration::from_millis(25);
/// How often this process makes sure that it still leads, and its cursor is saved: a lost cursor means old news.
const LEASE: Duration = Duration::from_secs(1);

/// Hears for as long as this process leads, again and again until it is stopped.
pub(super) async fn run(host: &Host) {
    while !host.stop.is_cancelled() {
        match host.executor.store().lead(TASK).await {
            Ok(Some(mut leadership)) => {
                if let Err(error) = lead(host, &mut leadership).await {
                    tracing::warn!(error = chain(&error), "the process host begins again");
                }
                leadership.resign().await;
            }
            Ok(None) => {}
            Err(error) => tracing::warn!(error = chain(&error), "can't ask for the processes' lead"),
        }
        host.stop.run_until_cancelled(tokio::time::sleep(PAUSE)).await;
    }
}

async fn lead(host: &Host, leadership: &mut Leadership) -> Result<(), HostError> {
    let (store, stop) = (host.executor.store(), &host.stop);
    store.look().await?;
    let incarnation = store.tail().incarnation();
    let mut heard = store.process_cursor(TASK).await?;
    let (mut confirmed, mut saved) = (Instant::now(), heard);
    while !stop.is_cancelled() {
        if confirmed.elapsed() > LEASE {
            // First what was heard, which is true whoever leads: a long past is got through whatever happens.
            if heard > saved {
                store.save_process_cursor(TASK, heard, incarnation).await?;
                saved = heard;
            }
            leadership.confirm().await?;
            confirmed = Instant::now();
        }
        if store.tail().incarnation() != incarnation {
            return Err(HostError::LogRestored);
        }
        if heard < store.tail().position() {
            match hear(host, heard).await {
                Ok(position) => heard = position,
                Err(error) => {
                    tracing::error!(error = chain(&error), heard, "processes can't hear the log");
                    stop.run_until_cancelled(tokio::time::sleep(PAUSE)).await;
                }
            }
        }
        if heard >= store.tail().position() {
            stop.run_until_cancelled(tokio::time::sleep(PACE)).await;
            tokio::select! {
                () = stop.cancelled() => {}
                _ = store.tail().past(heard) => {}
                () = tokio::time::sleep(PAUSE) => {}
            }
        }
    }
    Ok(())
}

/// Lets the processes hear one more range of the log, or as much of it as goes before the lease must be confirmed; gives
/// the last position heard.
async fn hear(host: &Host, heard: i64) -> Result<i64, HostError> {
    let (store, begun) = (host.executor.store(), Instant::now());
    let until = store.tail().position().min(heard + RANGE);
    for event in store.read_log_of(heard, until, &interesting()).await? {
        if let Err(error) = tell::<ErasureProcess>(host, &event).await {
            // What stands before it was heard. An event that can't be read is stood before until somebody can.
            let before = event.position - 1;
            return if before > heard { Ok(before) } else { Err(error) };
        }
        if begun.elapsed() > LEASE {
            return Ok(event.position);
        }
    }
    Ok(until)
}

/// The types of events that any process listens to.
fn interesting() -> Vec<&'static str> {
    <ErasureProcess as Process>::Hears::TYPES.iter().map(|kind| kind.name).collect()
}

/// Tells one kind of process of an event that it is interested in.
async fn tell<P: Process>(host: &Host, event: &RecordedEvent) -> Result<(), HostError> {
    let interesting = P::Hears::TYPES.iter().any(|kind| kind.name == event.event_type);
    // A type that nobody here knows may well be one that the process of a newer version hears: it is not passed over.
    let unknown = domain::event_type(&event.event_type).is_none();
    let told = (interesting || unknown).then(|| event.decode::<P::Hears>()).transpose()?;
    let Some(decoded) = told.flatten() else { return Ok(()) };
    let Some(id) = P::concerned(&decoded, event.stream_id) else { return Ok(()) };
    let tenant = TenantId::from(event.tenant_id);
    let now = host.executor.now(tenant).await?;
    let mut cc = CommandContext::new(domain::Context::new(tenant, actor(), now), "process.hear");
    cc.metadata.causation_id = Some(event.event_id.to_string());
    cc.metadata.correlation_id = event.metadata().correlation_id;
    let input = Input::Heard { sequence: event.sequence, stream: event.stream_id, event: decoded };
    step::<P>(&host.executor, cc, id, input).await.map(|_| ())
}
