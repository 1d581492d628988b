//! What a tenant's work is given to. Each configuration is a version of the agent; a run pins the one that it began with.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::RangeInclusive;

use chrono::TimeDelta;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::aggregate::{ClaimChange, external_id_claim};
use crate::personal::Support;
use crate::text::{ExternalId, Line, Prompt};
use crate::{AgentId, Aggregate, Context, Currency, Event, Personal, Secret, StreamType, TypedId, names};

/// How long an attempt may take, in seconds.
pub const TIMEOUT_SECONDS: RangeInclusive<i64> = 1..=600;
/// The most headers that a caller may add to a request.
pub const MAX_HEADERS: usize = 20;

/// All that the resource shows.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Agent {
    /// Where it stands.
    pub status: AgentStatus,
    /// What the caller calls this agent; unique in its tenant.
    pub external_id: Option<ExternalId>,
    /// What it is called.
    pub name: Option<Line>,
    /// What is behind it.
    pub kind: AgentKind,
    /// Where its work is sent, where it is of kind `http`.
    pub http: Option<Http>,
    /// Which model is asked, where it is of kind `llm`.
    pub llm: Option<Llm>,
    /// How long one attempt may take.
    pub timeout_seconds: i64,
    /// How often, and when, an attempt that failed is repeated.
    pub retry: Retry,
}

/// `none -> active`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum AgentStatus {
    /// Not there.
    #[default]
    None,
    /// It can be given work.
    Active,
}

/// What is behind an agent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum AgentKind {
    /// A program that takes JSON by POST and answers with JSON.
    #[default]
    Http,
    /// A language model behind an OpenAI-compatible chat endpoint.
    Llm,
}

/// Where the work of an agent of kind `http` is sent.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Http {
    /// Where that is: scheme, host and port of the address.
    pub origin: String,
    /// The address that takes the work. Sealed, for a path or a query may be secret.
    pub url: Personal<String, Support>,
    /// Headers that are sent with it; their values are never shown.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub headers: BTreeMap<String, Secret>,
}

/// Which model an agent of kind `llm` asks.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Llm {
    /// Where that is: scheme, host and port of the address.
    pub origin: String,
    /// The address below which `chat/completions` is. Sealed, for a path or a query may be secret.
    pub base_url: Personal<String, Support>,
    /// The model's name there.
    pub model: Line,
    /// What the model is told first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub system_prompt: Option<Personal<Prompt, Support>>,
    /// What the endpoint knows us by; never shown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub api_key: Option<Secret>,
    /// What its tokens cost.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prices: Option<Prices>,
}

/// What a million tokens cost, in minor units.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Prices {
    /// Currency code of ISO 4217.
    pub currency: Currency,
    /// A million tokens of what the model is told, in minor units.
    #[schemars(range(min = 0, max = 1_000_000_000))]
    pub prompt_per_million: i64,
    /// A million tokens of what the model answers, in minor units.
    #[schemars(range(min = 0, max = 1_000_000_000))]
    pub completion_per_million: i64,
}

/// How often, and when, an attempt that failed is repeated: after `initial_seconds`, then each time `factor` times longer,
/// at most an hour.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Retry {
    /// How many attempts there may be, the first among them.
    #[schemars(range(min = 1, max = 10))]
    pub attempts: i64,
    /// How long to wait before the second.
    #[schemars(range(min = 0.0, max = 3600.0))]
    pub initial_seconds: f64,
    /// How many times longer each further wait is.
    #[schemars(range(min = 1.0, max = 10.0))]
    pub factor: f64,
}

impl Default for Retry {
    fn default() -> Self {
        Self { attempts: 3, initial_seconds: 1.0, factor: 2.0 }
    }
}

/// What of a retry policy is out of bounds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RetryError {
    /// Fewer than one attempt, or more than ten.
    #[error("must be between 1 and 10")]
    Attempts,
    /// A wait that is negative or longer than an hour.
    #[error("must be between 0 and 3600 seconds")]
    InitialSeconds,
    /// Waits that get shorter, or longer than ten times.
    #[error("must be between 1 and 10")]
    Factor,
}

impl Retry {
    /// The longest wait between two attempts.
    pub const LONGEST: TimeDelta = TimeDelta::hours(1);

    /// Whether it is within its bounds.
    pub fn check(&self) -> Result<(), RetryError> {
        if !(1..=10).contains(&self.attempts) {
            return Err(RetryError::Attempts);
        }
        if !(0.0..=3_600.0).contains(&self.initial_seconds) {
            return Err(RetryError::InitialSeconds);
        }
        if (1.0..=10.0).contains(&self.factor) { Ok(()) } else { Err(RetryError::Factor) }
    }

    /// How long to wait after the attempt of that number, from 1, has failed; none where it was the last.
    pub fn wait_after(&self, attempt: i64) -> Option<TimeDelta> {
        if attempt >= self.attempts {
            return None;
        }
        let longest = Self::LONGEST.as_seconds_f64();
        let factor = (1..attempt).fold(self.initial_seconds, |wait, _| (wait * self.factor).min(longest));
        Some(TimeDelta::microseconds((factor * 1e6).round() as i64))
    }
}

/// A secret that a caller gives, or the word that the one which is there stays.
#[derive(Clone, PartialEq, Eq)]
pub enum Given {
    /// A new one.
    New(String),
    /// The one that is there.
    Kept,
}

/// Never shows it.
impl fmt::Debug for Given {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::New(_) => "New(…)",
            Self::Kept => "Kept",
        })
    }
}

/// Which of its secrets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SecretName {
    /// The value of a header.
    Header(String),
    /// What the endpoint of a model knows us by.
    ApiKey,
}

/// What an agent begins with, or is changed to: all of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// Where the work goes.
    pub target: Target,
    /// How long one attempt may take.
    pub timeout_seconds: i64,
    /// How often an attempt is repeated.
    pub retry: Retry,
}

/// Where work goes, as a command brings it.
#[derive(Clone, Debug, PartialEq)]
pub enum Target {
    /// To a program.
    Http(NewHttp),
    /// To a language model.
    Llm(NewLlm),
}

/// See [`Http`].
#[derive(Clone, Debug, PartialEq)]
pub struct NewHttp {
    /// The address that takes the work.
    pub url: String,
    /// Headers, by their names in lower case.
    pub headers: BTreeMap<String, Given>,
}

/// See [`Llm`].
#[derive(Clone, Debug, PartialEq)]
pub struct NewLlm {
    /// The address below which `chat/completions` is.
    pub base_url: String,
    /// The model's name there.
    pub model: Line,
    /// What the model is told first.
    pub system_prompt: Option<Prompt>,
    /// What the endpoint knows us by.
    pub api_key: Option<Given>,
    /// What its tokens cost.
    pub prices: Option<Prices>,
}

/// What can be asked of an agent.
#[derive(Clone, Debug)]
pub enum AgentCommand {
    /// Make it known.
    Create {
        /// Its id.
        id: AgentId,
        /// What the caller calls it.
        external_id: Option<ExternalId>,
        /// What it is called.
        name: Line,
        /// How it works.
        settings: Settings,
    },
    /// Change how it works, from the next run on.
    Configure {
        /// Its id.
        id: AgentId,
        /// What it is called; as before if absent.
        name: Option<Line>,
        /// How it works.
        settings: Settings,
    },
}

/// What can have happened to an agent.
#[derive(Clone, Debug, PartialEq, Event)]
#[event(prefix = "agent")]
pub enum AgentEvent {
    /// The agent can be given work.
    Created {
        /// What the caller calls it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        external_id: Option<ExternalId>,
        /// What it is called.
        name: Line,
        /// What is behind it.
        kind: AgentKind,
        /// Where its work is sent.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        http: Option<Http>,
        /// Which model is asked.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        llm: Option<Llm>,
        /// How long one attempt may take.
        timeout_seconds: i64,
        /// How often an attempt is repeated.
        retry: Retry,
    },
    /// From the next run on it works like this.
    Configured {
        /// What it is called.
        name: Line,
        /// What is behind it.
        kind: AgentKind,
        /// Where its work is sent.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        http: Option<Http>,
        /// Which model is asked.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        llm: Option<Llm>,
        /// How long one attempt may take.
        timeout_seconds: i64,
        /// How often an attempt is repeated.
        retry: Retry,
    },
}

/// Why an agent refuses.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AgentError {
    /// No such agent.
    #[error("there is no such agent")]
    NotFound,
    /// It is there already.
    #[error("the agent exists already")]
    AlreadyExists,
    /// An attempt that may take too long, or no time at all.
    #[error("the time-out must be between 1 and 600 seconds")]
    Timeout,
    /// A retry policy out of bounds.
    #[error("the retry policy {source}")]
    Retry {
        /// What of it.
        source: RetryError,
    },
    /// Prices out of bounds.
    #[error("prices must be between 0 and 1000000000 minor units")]
    Prices,
    /// More headers than a request may have.
    #[error("at most {MAX_HEADERS} headers can be added")]
    Headers,
    /// A secret that is to be kept, and is not there for this host: one that was given for another never goes elsewhere.
    #[error("there is no such secret for this host that could be kept")]
    NothingKept {
        /// Which.
        name: SecretName,
    },
}

impl Agent {
    fn settle(&self, id: AgentId, settings: Settings) -> Result<(AgentKind, Option<Http>, Option<Llm>), AgentError> {
        if !TIMEOUT_SECONDS.contains(&settings.timeout_seconds) {
            return Err(AgentError::Timeout);
        }
        settings.retry.check().map_err(|source| AgentError::Retry { source })?;
        Ok(match settings.target {
            Target::Http(http) => (AgentKind::Http, Some(self.http(id.uuid(), http)?), None),
            Target::Llm(llm) => (AgentKind::Llm, None, Some(self.llm(id.uuid(), llm)?)),
        })
    }

    fn http(&self, owner: Uuid, new: NewHttp) -> Result<Http, AgentError> {
        if new.headers.len() > MAX_HEADERS {
            return Err(AgentError::Headers);
        }
        let origin = origin(&new.url).to_owned();
        let known = self.http.as_ref().filter(|http| http.origin == origin).map(|http| &http.headers);
        let headers = new.headers.into_iter().map(|(name, given)| {
            let kept = known.and_then(|headers| headers.get(&name));
            Ok((name.clone(), secret(owner, given, kept, || SecretName::Header(name))?))
        });
        let headers = headers.collect::<Result<_, AgentError>>()?;
        Ok(Http { origin, url: Personal::open(owner, new.url), headers })
    }

    fn llm(&self, owner: Uuid, new: NewLlm) -> Result<Llm, AgentError> {
        let prices = |price: i64| (0..=1_000_000_000).contains(&price);
        if new.prices.is_some_and(|p| !prices(p.prompt_per_million) || !prices(p.completion_per_million)) {
            return Err(AgentError::Prices);
        }
        let origin = origin(&new.base_url).to_owned();
        let known = self.llm.as_ref().filter(|llm| llm.origin == origin).and_then(|llm| llm.api_key.as_ref());
        let api_key = new.api_key.map(|given| secret(owner, given, known, || SecretName::ApiKey)).transpose()?;
        let system_prompt = new.system_prompt.map(|prompt| Personal::open(owner, prompt));
        let base_url = Personal::open(owner, new.base_url);
        Ok(Llm { origin, base_url, model: new.model, system_prompt, api_key, prices: new.prices })
    }
}

fn secret(
    owner: Uuid,
    given: Given,
    known: Option<&Secret>,
    name: impl FnOnce() -> SecretName,
) -> Result<Secret, AgentError> {
    match given {
        Given::New(value) => Ok(Secret::open(owner, value)),
        Given::Kept => known.cloned().ok_or_else(|| AgentError::NothingKept { name: name() }),
    }
}

/// Scheme, host and port of a URL in its normal form.
pub fn origin(url: &str) -> &str {
    let host = url.find("://").map_or(0, |scheme| scheme + 3);
    let end = url[host..].find(['/', '?', '#']).map_or(url.len(), |end| host + end);
    &url[..end]
}

impl Aggregate for Agent {
    const STREAM: StreamType = names::AGENT;
    const REVISION: i32 = 1;
    type Id = AgentId;
    type Command = AgentCommand;
    type Event = AgentEvent;
    type Error = AgentError;

    fn claims(command: &AgentCommand) -> Vec<ClaimChange> {
        match command {
            AgentCommand::Create { external_id, .. } => external_id_claim(external_id.as_ref()),
            AgentCommand::Configure { .. } => Vec::new(),
        }
    }

    fn about(command: &AgentCommand) -> Vec<Uuid> {
        match command {
            AgentCommand::Create { .. } => Vec::new(),
            // What is kept stays sealed under the agent's key, also where nothing new is.
            AgentCommand::Configure { id, .. } => vec![id.uuid()],
        }
    }

    fn decide(&self, command: AgentCommand, _ctx: &Context) -> Result<Vec<AgentEvent>, AgentError> {
        use {AgentCommand as C, AgentError as Error, AgentEvent as E, AgentStatus as S};
        Ok(match (self.status, command) {
            (S::None, C::Create { id, external_id, name, settings }) => {
                let (timeout_seconds, retry) = (settings.timeout_seconds, settings.retry);
                let (kind, http, llm) = self.settle(id, settings)?;
                vec![E::Created { external_id, name, kind, http, llm, timeout_seconds, retry }]
            }
            (S::Active, C::Create { .. }) => return Err(Error::AlreadyExists),
            (S::None, C::Configure { .. }) => return Err(Error::NotFound),
            (S::Active, C::Configure { id, name, settings }) => {
                let (timeout_seconds, retry) = (settings.timeout_seconds, settings.retry);
                let (kind, http, llm) = self.settle(id, settings)?;
                let name = name.or_else(|| self.name.clone()).ok_or(Error::NotFound)?;
                vec![E::Configured { name, kind, http, llm, timeout_seconds, retry }]
            }
        })
    }

    fn apply(&mut self, event: AgentEvent) {
        match event {
            AgentEvent::Created { external_id, name, kind, http, llm, timeout_seconds, retry } => {
                let (status, name) = (AgentStatus::Active, Some(name));
                *self = Self { status, external_id, name, kind, http, llm, timeout_seconds, retry };
            }
            AgentEvent::Configured { name, kind, http, llm, timeout_seconds, retry } => {
                let (status, external_id, name) = (self.status, self.external_id.take(), Some(name));
                *self = Self { status, external_id, name, kind, http, llm, timeout_seconds, retry };
            }
        }
    }
}

#[cfg(test)]
#[path = "agent_tests.rs"]
mod tests;
