//! One piece of work that an agent is given: `Pending -> Running -> Succeeded | Failed | TimedOut`, with `Pending` again
//! between two attempts, and `Cancelled` from either. Nothing that moves it is ever done twice: what answers an attempt
//! names it, and only the one that is running is answered.

use chrono::{DateTime, TimeDelta, Utc};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use uuid::Uuid;

use super::agent::Retry;
use crate::aggregate::{AT_ONCE, ClaimChange, external_id_claim};
use crate::personal::Support;
use crate::text::{ExternalId, Word};
use crate::{AgentId, Aggregate, Context, Currency, CustomerId, Event, Personal, RunId, StreamType, TypedId, names};

/// The most bytes that an input, or a result, may have as JSON.
pub const MAX_BYTES: usize = 128 * 1024;
/// The longest that a provider can have us wait before the next attempt.
pub const MAX_RETRY_AFTER: TimeDelta = TimeDelta::hours(1);

/// All that the resource shows.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Run {
    /// Where it stands.
    pub status: RunStatus,
    /// What the caller calls this run; unique in its tenant.
    pub external_id: Option<ExternalId>,
    /// Who does the work.
    pub agent: AgentId,
    /// The version of the agent that it is done by.
    pub agent_version: i64,
    /// Whom it is about.
    pub customer: Option<CustomerId>,
    /// What kind of work it is, by the caller's word.
    pub task_type: Option<Word>,
    /// What is to be worked on.
    pub input: Option<Personal<Map<String, Value>, Support>>,
    /// How many attempts have begun.
    pub attempts: i64,
    /// How long one attempt may take.
    pub timeout_seconds: i64,
    /// How often an attempt is repeated.
    pub retry: Retry,
    /// When the next attempt begins, while it waits for one.
    pub next_attempt_at: Option<DateTime<Utc>>,
    /// When the first attempt began.
    pub started_at: Option<DateTime<Utc>>,
    /// When it ended, however it did.
    pub ended_at: Option<DateTime<Utc>>,
    /// What came of it.
    pub result: Option<Personal<Value, Support>>,
    /// What went wrong, at the last attempt that failed.
    pub error: Option<Failure>,
    /// What the model counted.
    pub usage: Option<Usage>,
    /// What that cost, by the agent's prices.
    pub cost: Option<Cost>,
}

/// `none -> pending <-> running -> succeeded | failed | timed_out`, or `cancelled`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum RunStatus {
    /// Not there.
    #[default]
    None,
    /// It waits for an attempt.
    Pending,
    /// An attempt is under way.
    Running,
    /// It has a result.
    Succeeded,
    /// The last attempt failed, or one that need not be repeated.
    Failed,
    /// The last attempt took too long.
    TimedOut,
    /// It was called off.
    Cancelled,
}

impl RunStatus {
    /// Whether nothing more can happen.
    pub fn has_ended(self) -> bool {
        matches!(self, Self::Succeeded | Self::Failed | Self::TimedOut | Self::Cancelled)
    }
}

/// What went wrong with an attempt.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Failure {
    /// What kind of failure it was.
    pub code: FailureCode,
    /// The HTTP status that the provider answered with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub provider_status: Option<i64>,
    /// What there is to say about it; may have the provider's own words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<Personal<String, Support>>,
}

/// What kinds of failure there are; more may come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum FailureCode {
    /// The provider answered with a status that is no success.
    ProviderStatus,
    /// The provider has too much to do (429).
    ProviderBusy,
    /// The provider answered with a redirect, which is never followed.
    Redirected,
    /// The provider could not be reached, or broke off.
    Connection,
    /// The provider's certificate is not good for its name.
    Certificate,
    /// The provider did not answer in time.
    TimedOut,
    /// The provider's answer is not what it should be.
    InvalidResponse,
    /// The provider's answer, or its result, is larger than is taken.
    ResultTooLarge,
    /// The agent's address is not allowed.
    UrlForbidden,
    /// No request can be made of what is stored: a header or a key that can't be sent, or that can't be opened.
    Unsendable,
    /// The person whom the run is about was erased, and the input with them.
    SubjectErased,
}

/// What a language model counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Usage {
    /// Tokens that it was told.
    pub prompt_tokens: i64,
    /// Tokens that it answered.
    pub completion_tokens: i64,
}

/// What tokens cost. One token costs less than a minor unit, so this counts in millionths of one and is exact.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Cost {
    /// In millionths of a minor unit of the currency.
    pub amount_micros: i64,
    /// Currency code of ISO 4217.
    pub currency: Currency,
}

/// What a run begins with.
#[derive(Clone, Debug)]
pub struct Request {
    /// Its id.
    pub id: RunId,
    /// What the caller calls it.
    pub external_id: Option<ExternalId>,
    /// Who does the work.
    pub agent: AgentId,
    /// In which version.
    pub agent_version: i64,
    /// Whom it is about.
    pub customer: Option<CustomerId>,
    /// What kind of work it is.
    pub task_type: Option<Word>,
    /// What is to be worked on.
    pub input: Map<String, Value>,
    /// How long one attempt may take.
    pub timeout_seconds: i64,
    /// How often an attempt is repeated.
    pub retry: Retry,
}

/// How an attempt went.
#[derive(Clone, Debug, PartialEq)]
pub enum AttemptOutcome {
    /// It has a result.
    Succeeded {
        /// What came of it.
        result: Value,
        /// What the model counted.
        usage: Option<Usage>,
        /// What that cost.
        cost: Option<Cost>,
    },
    /// It failed.
    Failed {
        /// What kind of failure it was.
        code: FailureCode,
        /// The HTTP status of the provider.
        provider_status: Option<i64>,
        /// What there is to say about it.
        detail: Option<String>,
        /// Whether another attempt may go better.
        retryable: bool,
        /// How long the provider wants to be left alone.
        retry_after: Option<TimeDelta>,
    },
}

impl AttemptOutcome {
    /// A failure of which there is no more to say.
    pub fn failed(code: FailureCode, retryable: bool) -> Self {
        Self::Failed { code, provider_status: None, detail: None, retryable, retry_after: None }
    }
}

/// What can be asked of a run.
#[derive(Clone, Debug)]
pub enum RunCommand {
    /// Take the work.
    Request(Box<Request>),
    /// Begin the attempt that is due. Where one is running already, it goes on.
    Begin,
    /// Take the outcome of an attempt.
    Answer {
        /// The run's id.
        id: RunId,
        /// Which attempt, from 1.
        attempt: i64,
        /// How it went.
        outcome: AttemptOutcome,
    },
    /// Call it off.
    Cancel,
}

/// What can have happened to a run.
#[derive(Clone, Debug, PartialEq, Event)]
#[event(prefix = "run")]
pub enum RunEvent {
    /// The work was taken.
    Requested {
        /// What the caller calls it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        external_id: Option<ExternalId>,
        /// Who does the work.
        agent: AgentId,
        /// In which version.
        agent_version: i64,
        /// Whom it is about.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        customer: Option<CustomerId>,
        /// What kind of work it is.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        task_type: Option<Word>,
        /// What is to be worked on.
        input: Personal<Map<String, Value>, Support>,
        /// How long one attempt may take.
        timeout_seconds: i64,
        /// How often an attempt is repeated.
        retry: Retry,
        /// When the first attempt may begin.
        at: DateTime<Utc>,
    },
    /// An attempt began; the provider is called with `<run>:<attempt>` as its idempotency key.
    AttemptStarted {
        /// Which, from 1.
        attempt: i64,
        /// When.
        at: DateTime<Utc>,
    },
    /// An attempt failed, and another will follow.
    AttemptFailed {
        /// Which.
        attempt: i64,
        /// What went wrong.
        error: Failure,
        /// When the next begins.
        next_attempt_at: DateTime<Utc>,
    },
    /// It has a result.
    Succeeded {
        /// Of which attempt.
        attempt: i64,
        /// When.
        at: DateTime<Utc>,
        /// What came of it.
        result: Personal<Value, Support>,
        /// What the model counted.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        usage: Option<Usage>,
        /// What that cost.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        cost: Option<Cost>,
    },
    /// It failed for good.
    Failed {
        /// With which attempt.
        attempt: i64,
        /// When.
        at: DateTime<Utc>,
        /// What went wrong.
        error: Failure,
    },
    /// The last attempt took too long.
    TimedOut {
        /// Which.
        attempt: i64,
        /// When.
        at: DateTime<Utc>,
        /// What went wrong.
        error: Failure,
    },
    /// It was called off.
    Cancelled {
        /// When.
        at: DateTime<Utc>,
    },
}

/// Why a run refuses.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RunError {
    /// No such run.
    #[error("there is no such run")]
    NotFound,
    /// It is there already.
    #[error("the run exists already")]
    AlreadyExists,
    /// It has ended, and can't be called off any more.
    #[error("the run has ended")]
    Ended,
    /// More input than is taken.
    #[error("the input has {bytes} bytes, more than {MAX_BYTES}")]
    InputTooLarge {
        /// How many.
        bytes: usize,
    },
}

/// How many bytes a value has as JSON.
fn size(value: &impl Serialize) -> usize {
    serde_json::to_vec(value).map_or(usize::MAX, |bytes| bytes.len())
}

impl Run {
    /// The person that input and output are about: the customer, else the run itself.
    fn subject(&self, id: RunId) -> Uuid {
        self.customer.map_or(id.uuid(), |customer| customer.uuid())
    }

    fn answer(&self, id: RunId, attempt: i64, outcome: AttemptOutcome, now: DateTime<Utc>) -> RunEvent {
        let subject = self.subject(id);
        let (code, provider_status, detail, retryable, retry_after) = match outcome {
            AttemptOutcome::Succeeded { result, usage, cost } => {
                let bytes = size(&result);
                if bytes <= MAX_BYTES {
                    let result = Personal::open(subject, result);
                    return RunEvent::Succeeded { attempt, at: now, result, usage, cost };
                }
                let detail = format!("the result has {bytes} bytes, more than {MAX_BYTES}");
                (FailureCode::ResultTooLarge, None, Some(detail), false, None)
            }
            AttemptOutcome::Failed { code, provider_status, detail, retryable, retry_after } => {
                (code, provider_status, detail, retryable, retry_after)
            }
        };
        let error = Failure { code, provider_status, detail: detail.map(|detail| Personal::open(subject, detail)) };
        let wait = if retryable { self.retry.wait_after(attempt) } else { None };
        match (wait, code) {
            (Some(wait), _) => {
                let asked = retry_after.unwrap_or_default().min(MAX_RETRY_AFTER);
                RunEvent::AttemptFailed { attempt, error, next_attempt_at: now + wait.max(asked) }
            }
            (None, FailureCode::TimedOut) => RunEvent::TimedOut { attempt, at: now, error },
            (None, _) => RunEvent::Failed { attempt, at: now, error },
        }
    }

    fn end(&mut self, status: RunStatus, at: DateTime<Utc>) {
        self.status = status;
        self.next_attempt_at = None;
        self.ended_at = Some(at);
    }
}

fn request(request: Request, ctx: &Context) -> Result<RunEvent, RunError> {
    let bytes = size(&request.input);
    if bytes > MAX_BYTES {
        return Err(RunError::InputTooLarge { bytes });
    }
    let subject = request.customer.map_or(request.id.uuid(), |customer| customer.uuid());
    Ok(RunEvent::Requested {
        external_id: request.external_id,
        agent: request.agent,
        agent_version: request.agent_version,
        customer: request.customer,
        task_type: request.task_type,
        input: Personal::open(subject, request.input),
        timeout_seconds: request.timeout_seconds,
        retry: request.retry,
        at: ctx.now,
    })
}

impl Aggregate for Run {
    const STREAM: StreamType = names::RUN;
    const REVISION: i32 = 1;
    const WAKES: bool = true;
    type Id = RunId;
    type Command = RunCommand;
    type Event = RunEvent;
    type Error = RunError;

    fn claims(command: &RunCommand) -> Vec<ClaimChange> {
        match command {
            RunCommand::Request(request) => external_id_claim(request.external_id.as_ref()),
            RunCommand::Begin | RunCommand::Answer { .. } | RunCommand::Cancel => Vec::new(),
        }
    }

    fn about(command: &RunCommand) -> Vec<Uuid> {
        match command {
            RunCommand::Request(request) => request.customer.iter().map(TypedId::uuid).collect(),
            RunCommand::Begin | RunCommand::Answer { .. } | RunCommand::Cancel => Vec::new(),
        }
    }

    fn decide(&self, command: RunCommand, ctx: &Context) -> Result<Vec<RunEvent>, RunError> {
        use {RunCommand as C, RunError as Error, RunEvent as E, RunStatus as S};
        Ok(match (self.status, command) {
            (S::None, C::Request(new)) => vec![request(*new, ctx)?],
            (_, C::Request(_)) => return Err(Error::AlreadyExists),
            (S::None, _) => return Err(Error::NotFound),
            (S::Pending, C::Begin) if self.next_attempt_at.is_some_and(|at| at <= ctx.now) => {
                vec![E::AttemptStarted { attempt: self.attempts + 1, at: ctx.now }]
            }
            (_, C::Begin) => vec![],
            (S::Running, C::Answer { id, attempt, outcome }) if attempt == self.attempts => {
                vec![self.answer(id, attempt, outcome, ctx.now)]
            }
            (_, C::Answer { .. }) => vec![],
            (S::Pending | S::Running, C::Cancel) => vec![E::Cancelled { at: ctx.now }],
            (S::Succeeded | S::Failed | S::TimedOut | S::Cancelled, C::Cancel) => return Err(Error::Ended),
        })
    }

    fn apply(&mut self, event: RunEvent) {
        match event {
            RunEvent::Requested {
                external_id,
                agent,
                agent_version,
                customer,
                task_type,
                input,
                timeout_seconds,
                retry,
                at,
            } => {
                let (status, input, next_attempt_at) = (RunStatus::Pending, Some(input), Some(at));
                *self =
                    Self { status, external_id, agent, agent_version, customer, task_type, input, ..Self::default() };
                (self.timeout_seconds, self.retry, self.next_attempt_at) = (timeout_seconds, retry, next_attempt_at);
            }
            RunEvent::AttemptStarted { attempt, at } => {
                self.status = RunStatus::Running;
                self.attempts = attempt;
                self.next_attempt_at = None;
                self.started_at = self.started_at.or(Some(at));
            }
            RunEvent::AttemptFailed { error, next_attempt_at, .. } => {
                self.status = RunStatus::Pending;
                self.error = Some(error);
                self.next_attempt_at = Some(next_attempt_at);
            }
            RunEvent::Succeeded { at, result, usage, cost, .. } => {
                self.end(RunStatus::Succeeded, at);
                (self.result, self.error, self.usage, self.cost) = (Some(result), None, usage, cost);
            }
            RunEvent::Failed { at, error, .. } => {
                self.end(RunStatus::Failed, at);
                self.error = Some(error);
            }
            RunEvent::TimedOut { at, error, .. } => {
                self.end(RunStatus::TimedOut, at);
                self.error = Some(error);
            }
            RunEvent::Cancelled { at } => self.end(RunStatus::Cancelled, at),
        }
    }

    fn wakes_at(&self) -> Option<DateTime<Utc>> {
        match self.status {
            RunStatus::Pending => self.next_attempt_at,
            // Whoever is at it holds a claim; when that runs out, another goes on with the same attempt.
            RunStatus::Running => Some(AT_ONCE),
            _ => None,
        }
    }
}

#[cfg(test)]
#[path = "run_tests.rs"]
mod tests;
