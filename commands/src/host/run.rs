//! Attends to the run of an agent: begins the attempt that is due, or goes on with one whose host is gone; calls the
//! provider; appends how it went. The provider knows the attempt by `<run>:<attempt>`, however often it is called.

use std::time::Duration;

use domain::Aggregate;
use domain::RunId;
use domain::agents::{Agent, AttemptOutcome, FailureCode, Run, RunCommand, RunStatus};
use eventstore::{Loaded, Until, chain};
use futures::future::BoxFuture;
use serde_json::Value;
use uuid::Uuid;

use super::HostError;
use super::visit::{Next, Visit};
use crate::adapters::agents::{Call, call};
use crate::context::CommandContext;
use crate::vault::VaultError;

pub(super) fn attend(visit: &Visit) -> BoxFuture<'_, Result<Next, HostError>> {
    Box::pin(async move {
        let id: RunId = visit.id::<Run>();
        // This host goes on with the run, so its claim stays.
        let begun = execute(visit, "agents.run.begin", Some(visit.host.id), RunCommand::Begin).await?;
        let run = begun.state;
        if run.status != RunStatus::Running {
            return Ok(Next::Waits(run.wakes_at()));
        }
        let outcome = tokio::select! {
            biased;
            // It was called off, or another host goes on with it: dropping the call closes its connection.
            () = visit.held.lost.cancelled() => return Ok(Next::Appended),
            outcome = ask(visit, id, &run) => outcome?,
        };
        let how = match &outcome {
            AttemptOutcome::Succeeded { .. } => "succeeded",
            AttemptOutcome::Failed { .. } => "failed",
        };
        metrics::counter!("annals_agent_attempts_total", "outcome" => how).increment(1);
        let answer = RunCommand::Answer { id, attempt: run.attempts, outcome };
        execute(visit, "agents.run.answer", None, answer).await?;
        Ok(Next::Appended)
    })
}

async fn execute(
    visit: &Visit,
    name: &'static str,
    holder: Option<Uuid>,
    command: RunCommand,
) -> Result<Loaded<Run>, HostError> {
    let id = visit.id::<Run>();
    let mut cc = CommandContext { holder, ..visit.command(name) };
    cc.metadata.causation_id = Some(match &command {
        RunCommand::Answer { attempt, .. } => format!("{id}:{attempt}"),
        _ => id.to_string(),
    });
    let receipt = visit.executor().execute::<Run>(cc, id, command).await;
    receipt.map(|receipt| receipt.loaded).map_err(|error| HostError::step(id, &error))
}

/// Calls the provider with the configuration that the run has pinned.
async fn ask(visit: &Visit, id: RunId, run: &Run) -> Result<AttemptOutcome, HostError> {
    let executor = visit.executor();
    let version = Until::Version(run.agent_version);
    let known = executor.load_known::<Agent>(visit.tenant(), run.agent).await?;
    let agent = match known.version == run.agent_version {
        true => known,
        false => executor.load_until::<Agent>(visit.tenant(), run.agent, version).await?,
    };
    let mut opened = serde_json::json!({ "agent": agent.state, "input": run.input });
    match executor.vault().open_value(visit.work.tenant, &mut opened).await {
        Ok(()) => {}
        // Waiting would not help: the attempt is spent, so that the run comes to an end.
        Err(error @ (VaultError::KeyMissing { .. } | VaultError::Seal(_))) => {
            tracing::error!(error = chain(&error), run = %id, "what a run needs can't be opened");
            return Ok(AttemptOutcome::failed(FailureCode::Unsendable, true));
        }
        Err(error) => return Err(error.into()),
    }
    // The customer was erased meanwhile: there is nothing left that could be worked on.
    let Value::Object(input) = opened["input"].take() else {
        return Ok(AttemptOutcome::failed(FailureCode::SubjectErased, false));
    };
    let timeout = Duration::from_secs(u64::try_from(run.timeout_seconds).unwrap_or(1));
    let agent = opened["agent"].take();
    Ok(call(&visit.host.egress, Call { run: id, attempt: run.attempts, agent, input, timeout }).await)
}
