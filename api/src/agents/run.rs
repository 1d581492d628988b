//! `/agents/{id}/execute` and `/runs`.

use std::time::Duration;

use axum::http::Method;
use domain::agents::{Agent, MAX_BYTES, Request, Retry, Run, RunCommand, RunError};
use domain::commerce::Customer;
use domain::names::{AGENTS_READ, AGENTS_WRITE, Scope};
use domain::text::{ExternalId, Word};
use domain::{AgentId, RunId};
use futures::future::BoxFuture;
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::call::Call;
use crate::extract::ids::{Ref, Referent};
use crate::intent::Intent;
use crate::operation::{Answer, Operation};
use crate::problem::{Code, Problem, codes};
use crate::resource::{Resource, create, receipt_of, resource};
use crate::schema;

const ENDED: Code =
    Code::rule("run-ended", "The run has ended", "What has ended can't be called off. GET it to see how.");

impl Resource for Run {
    const OBJECT: &'static str = "run";
    const PATH: &'static str = "/runs";
    const READ: Scope = AGENTS_READ;
    const WRITE: Scope = AGENTS_WRITE;

    fn problem(error: RunError) -> Problem {
        match error {
            RunError::NotFound => Problem::not_found(),
            RunError::AlreadyExists => Problem::of(codes::ALREADY_EXISTS),
            RunError::Ended => Problem::of(ENDED),
            RunError::InputTooLarge { bytes } => {
                Problem::field("/input", format!("must have at most {MAX_BYTES} bytes as JSON; it has {bytes}"))
            }
        }
    }
}

/// Its operations.
pub(super) fn operations() -> Vec<Operation> {
    let runs = resource::<Run>();
    vec![
        Operation::command(Method::POST, "/agents/{id}/execute", "agents.run.request", AGENTS_WRITE)
            .about(
                "Give an agent work",
                "The run is done in the agent's present version; `GET /runs/{id}` tells how it goes. Each attempt reaches \
                 the provider with `<run>:<attempt>` as its `Idempotency-Key`.",
            )
            .body::<Execute>(Execute::example)
            .answers(schema::shown::<Run>)
            .refuses(&[codes::ALREADY_EXISTS, codes::SUBJECT_ERASED])
            .tagged()
            .waits()
            .handled(execute),
        runs.get(),
        runs.history(),
        runs.verb(
            "cancel",
            "Call a run off",
            "Possible until it ends. A call that is under way is broken off; what the provider did by then is done.",
            |_| RunCommand::Cancel,
        )
        .refuses(&[ENDED]),
    ]
}

async fn execute(call: Call) -> Result<Answer, Problem> {
    let agent = call.target::<Agent>().await?;
    if !call.state.executor.load_known::<Agent>(call.tenant(), agent).await?.exists() {
        return Err(Problem::not_found());
    }
    let (made, answer) = create::<Run, Execute>(&call).await?;
    let Some(wait) = call.headers.wait else { return Ok(answer) };
    let (executor, tenant) = (call.state.executor.clone(), call.tenant());
    // Whoever repeats a request and waits wants the end, too.
    Ok(answer.later(wait, async move {
        let patience = Duration::from_secs(wait);
        let loaded = executor.until::<Run>(tenant, made.id, patience, |run| run.status.has_ended()).await?;
        receipt_of::<Run>(&commands::Receipt { sequence: loaded.sequence.max(made.sequence), loaded, ..made })
    }))
}

/// What an agent shall work on.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Execute {
    /// What you call this run; unique in the tenant.
    external_id: Option<ExternalId>,
    /// What is to be worked on, at most 128 KiB. Personal. An agent of kind `llm` takes `prompt` or `messages`.
    input: Map<String, Value>,
    /// Whom it is about: `cus_…` or `ext:…`. Input, result and errors go with an erasure of that person.
    customer: Option<Ref<Customer>>,
    /// What kind of work it is, in a word of yours.
    task_type: Option<Word>,
    #[serde(skip)]
    agent: Option<Pinned>,
}

/// The agent in its present version.
#[derive(Debug)]
struct Pinned {
    agent: AgentId,
    version: i64,
    timeout_seconds: i64,
    retry: Retry,
}

impl Intent<Run> for Execute {
    fn example() -> Value {
        json!({ "input": { "question": "What should Ada read next?" }, "customer": "ext:crm-1815", "task_type": "advice" })
    }

    fn references(&mut self) -> Vec<(&'static str, &mut dyn Referent)> {
        self.customer.iter_mut().map(|customer| ("/customer", customer as &mut dyn Referent)).collect()
    }

    fn external_id(&self) -> Option<&str> {
        self.external_id.as_ref().map(ExternalId::as_str)
    }

    fn complete<'a>(&'a mut self, call: &'a Call) -> BoxFuture<'a, Result<(), Problem>> {
        Box::pin(async {
            let id = call.target::<Agent>().await?;
            let agent = call.state.executor.load::<Agent>(call.tenant(), id).await?;
            if !agent.exists() {
                return Err(Problem::not_found());
            }
            let (timeout_seconds, retry) = (agent.state.timeout_seconds, agent.state.retry);
            self.agent = Some(Pinned { agent: id, version: agent.version, timeout_seconds, retry });
            Ok(())
        })
    }

    fn command(self, id: RunId, _: &Call) -> Result<RunCommand, Problem> {
        let Pinned { agent, version, timeout_seconds, retry } = self.agent.ok_or_else(Problem::not_found)?;
        let customer = self.customer.map(|customer| customer.id()).transpose()?;
        Ok(RunCommand::Request(Box::new(Request {
            id,
            external_id: self.external_id,
            agent,
            agent_version: version,
            customer,
            task_type: self.task_type,
            input: self.input,
            timeout_seconds,
            retry,
        })))
    }
}
