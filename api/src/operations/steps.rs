//! The last steps of a process: what made it go on, what it wanted done, and what came of that. Never what anybody said.

use chrono::{DateTime, Utc};
use domain::agents::{FailureCode, RunEvent};
use domain::process::{ErasureProcessEvent, Outcome};
use domain::{AnyId, TenantId, TypedId, names};
use eventstore::{EventStore, RecordedEvent, StoreError};
use projections::documents::word;
use schemars::JsonSchema;
use serde::Serialize;

use super::processes::{ProcessId, ProcessKind, sent};

/// How many steps are shown.
const SHOWN: i64 = 20;
/// How far back the effects of a command are looked for in the stream that it went to.
const LOOKED_THROUGH: i64 = 100;

/// An event of a process.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "ProcessStep")]
pub struct Step {
    /// The tenant's sequence of it.
    sequence: i64,
    /// Its number in the process's history.
    version: i64,
    /// What happened: `erasure.stepped`.
    #[serde(rename = "type")]
    event_type: String,
    /// When it happened in the business.
    occurred_at: DateTime<Utc>,
    /// When the log took it.
    recorded_at: DateTime<Utc>,
    /// Who is behind it.
    actor: String,
    /// The event, moment or command that caused it.
    cause: Option<String>,
    /// The command that it was decided by.
    command: Option<String>,
    /// Where the process stood after it, where the step says so.
    status: Option<String>,
    /// Until when it waits after it.
    waits_until: Option<DateTime<Utc>>,
    /// What went wrong, as a word.
    error: Option<String>,
    /// How the command went that the process had sent.
    outcome: Option<String>,
    /// The command that the process sends.
    sends: Option<Sent>,
}

/// A command that a process sends.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "ProcessCommand")]
pub struct Sent {
    /// What it asks for.
    command: &'static str,
    /// Of which resource.
    to: String,
    /// What happened there because of it.
    effects: Vec<Effect>,
}

/// What happened because of a command.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "ProcessEffect")]
pub struct Effect {
    /// The tenant's sequence of it.
    sequence: i64,
    /// What happened: `customer.erased`.
    #[serde(rename = "type")]
    event_type: String,
}

/// The newest first.
pub(super) async fn steps(store: &EventStore, tenant: TenantId, id: ProcessId) -> Result<Vec<Step>, StoreError> {
    let events = store.read_stream_back(tenant.uuid(), id.stream, i64::MAX, SHOWN).await?;
    let mut steps = Vec::with_capacity(events.len());
    for event in events {
        let mut step = Step::of(&event);
        match id.kind {
            ProcessKind::Erasure => step.of_erasure(store, tenant, &event).await?,
            ProcessKind::Run => step.of_run(&event)?,
            ProcessKind::Subscription | ProcessKind::TestClock => {}
        }
        steps.push(step);
    }
    Ok(steps)
}

impl Step {
    fn of(event: &RecordedEvent) -> Self {
        let metadata = event.metadata();
        Self {
            sequence: event.sequence,
            version: event.version,
            event_type: event.event_type.clone(),
            occurred_at: event.occurred_at,
            recorded_at: event.recorded_at,
            actor: event.actor.clone(),
            cause: metadata.causation_id,
            command: Some(metadata.command).filter(|command| !command.is_empty()),
            status: None,
            waits_until: None,
            error: None,
            outcome: None,
            sends: None,
        }
    }

    async fn of_erasure(
        &mut self,
        store: &EventStore,
        tenant: TenantId,
        event: &RecordedEvent,
    ) -> Result<(), StoreError> {
        match event.decode::<ErasureProcessEvent>()? {
            Some(ErasureProcessEvent::Stepped { phase, wait_until, send, .. }) => {
                (self.status, self.waits_until) = (word(&phase), wait_until);
                if let Some(send) = send {
                    let (command, to) = sent(&send);
                    // What the command caused names the step that sent it.
                    let cause = AnyId::new(names::ERASURE.prefix, event.stream_id);
                    let effects = effects(store, tenant, &to, &format!("{cause}:{}", event.version)).await?;
                    self.sends = Some(Sent { command, to: to.to_string(), effects });
                }
            }
            Some(ErasureProcessEvent::Settled { outcome }) => {
                (self.outcome, self.error) = match outcome {
                    Outcome::Done => (Some("done".to_owned()), None),
                    Outcome::KeysDestroyed { .. } => (Some("keys_destroyed".to_owned()), None),
                    Outcome::Refused { code } => (Some("refused".to_owned()), Some(code)),
                };
            }
            None => {}
        }
        Ok(())
    }

    fn of_run(&mut self, event: &RecordedEvent) -> Result<(), StoreError> {
        let code = |code: FailureCode| word(&code);
        match event.decode::<RunEvent>()? {
            Some(RunEvent::AttemptFailed { error, next_attempt_at, .. }) => {
                (self.error, self.waits_until) = (code(error.code), Some(next_attempt_at));
            }
            Some(RunEvent::Failed { error, .. } | RunEvent::TimedOut { error, .. }) => self.error = code(error.code),
            _ => {}
        }
        Ok(())
    }
}

async fn effects(store: &EventStore, tenant: TenantId, to: &AnyId, cause: &str) -> Result<Vec<Effect>, StoreError> {
    let events = store.read_stream_back(tenant.uuid(), to.uuid(), i64::MAX, LOOKED_THROUGH).await?;
    let caused = events.into_iter().rev().filter(|event| event.metadata().causation_id.as_deref() == Some(cause));
    Ok(caused.map(|event| Effect { sequence: event.sequence, event_type: event.event_type }).collect())
}
