//! `/agents`.

use std::collections::BTreeMap;

use commands::egress::may_be_set;
use domain::AgentId;
use domain::agents::{
    Agent, AgentCommand, AgentError, AgentKind, Given, MAX_HEADERS, NewHttp, NewLlm, Prices, Retry, RetryError,
    SecretName, Settings, TIMEOUT_SECONDS, Target, origin,
};
use domain::names::{AGENTS_READ, AGENTS_WRITE, Scope};
use domain::personal::HIDDEN;
use domain::text::{ExternalId, Line, Prompt};
use futures::future::BoxFuture;
use reqwest::header::HeaderName;
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::call::Call;
use crate::intent::Intent;
use crate::operation::Operation;
use crate::problem::{Problem, codes};
use crate::resource::{Filter, Resource, resource};
use crate::strict::escape;

/// How long an attempt may take where nothing is said, in seconds.
const TIMEOUT: i64 = 30;

impl Resource for Agent {
    const OBJECT: &'static str = "agent";
    const PATH: &'static str = "/agents";
    const READ: Scope = AGENTS_READ;
    const WRITE: Scope = AGENTS_WRITE;
    const FILTERS: &'static [Filter] = &[Filter::word::<AgentKind>("kind")];

    fn problem(error: AgentError) -> Problem {
        match error {
            AgentError::NotFound => Problem::not_found(),
            AgentError::AlreadyExists => Problem::of(codes::ALREADY_EXISTS),
            AgentError::Timeout => {
                let (least, most) = (TIMEOUT_SECONDS.start(), TIMEOUT_SECONDS.end());
                Problem::field("/timeout_seconds", format!("must be between {least} and {most}"))
            }
            AgentError::Retry { source } => Problem::field(retry_field(source), source.to_string()),
            AgentError::Prices => Problem::field("/llm/prices", "must be between 0 and 1000000000 minor units"),
            AgentError::Headers => Problem::field("/http/headers", format!("must be at most {MAX_HEADERS}")),
            AgentError::NothingKept { name } => {
                let pointer = match name {
                    SecretName::ApiKey => "/llm/api_key".to_owned(),
                    SecretName::Header(name) => format!("/http/headers/{}", escape(&name)),
                };
                let detail =
                    format!("is `{HIDDEN}`, which keeps what is there; for this host there is nothing: send it anew");
                Problem::field(pointer, detail)
            }
        }
    }
}

fn retry_field(error: RetryError) -> &'static str {
    match error {
        RetryError::Attempts => "/retry/attempts",
        RetryError::InitialSeconds => "/retry/initial_seconds",
        RetryError::Factor => "/retry/factor",
    }
}

/// Its operations.
pub(super) fn operations() -> Vec<Operation> {
    let agents = resource::<Agent>();
    vec![
        agents
            .create::<CreateAgent>(
                "Create an agent",
                "Of kind `http`: the input is sent by POST as it is, and JSON is expected. Of kind `llm`: an \
                 OpenAI-compatible chat endpoint is asked. Secrets are kept sealed and never shown again.",
            )
            .refuses(&[codes::WEBHOOK_URL_FORBIDDEN]),
        agents.get(),
        agents.list(),
        agents.history(),
        agents
            .act::<ConfigureAgent>(
                "configure",
                "Configure an agent",
                "All of it: what is left out is as when an agent is created, and a secret that is sent back as `********` \
                 stays. Runs go on in the version that they began with.",
            )
            .body_required()
            .refuses(&[codes::WEBHOOK_URL_FORBIDDEN]),
    ]
}

/// Where work is sent.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct HttpBody {
    /// As it was shown: it follows from the URL.
    origin: Option<String>,
    /// Where the work is sent: `https://…`.
    #[schemars(length(min = 1, max = 2048), url)]
    url: String,
    /// Headers that are sent with it. Their values are never shown again.
    #[serde(default)]
    #[schemars(length(max = 20))]
    headers: BTreeMap<String, String>,
}

/// How a model is asked.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct LlmBody {
    /// As it was shown: it follows from the URL.
    origin: Option<String>,
    /// The address below which `chat/completions` is: `https://…/v1`.
    #[schemars(length(min = 1, max = 2048), url)]
    base_url: String,
    /// The model's name there.
    model: Line,
    /// What the model is told first.
    system_prompt: Option<Prompt>,
    /// What the endpoint knows you by. Never shown again.
    #[schemars(length(min = 1, max = 4096))]
    api_key: Option<String>,
    /// What its tokens cost.
    prices: Option<Prices>,
}

/// A new agent.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct CreateAgent {
    /// What you call this agent; unique in the tenant.
    external_id: Option<ExternalId>,
    /// What it is called.
    name: Line,
    /// What is behind it.
    kind: AgentKind,
    /// Where its work is sent, where it is of kind `http`.
    http: Option<HttpBody>,
    /// Which model is asked, where it is of kind `llm`.
    llm: Option<LlmBody>,
    /// How long one attempt may take; 30 if absent.
    #[schemars(range(min = 1, max = 600))]
    timeout_seconds: Option<i64>,
    /// How often an attempt is repeated; three attempts, after 1 and 2 seconds, if absent.
    retry: Option<Retry>,
}

/// How an agent works from now on.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct ConfigureAgent {
    /// What it is called; as before if absent.
    name: Option<Line>,
    /// What is behind it.
    kind: AgentKind,
    /// Where its work is sent, where it is of kind `http`.
    http: Option<HttpBody>,
    /// Which model is asked, where it is of kind `llm`.
    llm: Option<LlmBody>,
    /// How long one attempt may take; 30 if absent.
    #[schemars(range(min = 1, max = 600))]
    timeout_seconds: Option<i64>,
    /// How often an attempt is repeated; three attempts, after 1 and 2 seconds, if absent.
    retry: Option<Retry>,
}

/// Checks the address and puts its normal form in the body.
async fn check(call: &Call, http: Option<&mut HttpBody>, llm: Option<&mut LlmBody>) -> Result<(), Problem> {
    let urls = http.map(|http| ("/http/url", &mut http.url, &http.origin)).into_iter();
    for (pointer, url, given) in urls.chain(llm.map(|llm| ("/llm/base_url", &mut llm.base_url, &llm.origin))) {
        let checked = call
            .state
            .egress
            .check(url)
            .await
            .map_err(|why| Problem::of_field(codes::WEBHOOK_URL_FORBIDDEN, pointer.to_owned(), why.to_string()))?;
        *url = checked.into_string();
        if given.as_ref().is_some_and(|given| given != origin(url)) {
            let at = pointer.rsplit_once('/').map_or("", |(parent, _)| parent);
            return Err(Problem::field(format!("{at}/origin"), "follows from the URL: leave it out"));
        }
    }
    Ok(())
}

fn settings(
    kind: AgentKind,
    http: Option<HttpBody>,
    llm: Option<LlmBody>,
    timeout_seconds: Option<i64>,
    retry: Option<Retry>,
) -> Result<Settings, Problem> {
    let target = match (kind, http, llm) {
        (AgentKind::Http, Some(http), None) => Target::Http(new_http(http)?),
        (AgentKind::Llm, None, Some(llm)) => Target::Llm(new_llm(llm)?),
        (AgentKind::Http, None, _) => return Err(Problem::field("/http", "is required for an agent of kind `http`")),
        (AgentKind::Llm, _, None) => return Err(Problem::field("/llm", "is required for an agent of kind `llm`")),
        (AgentKind::Http, _, Some(_)) => return Err(Problem::field("/llm", "is not for an agent of kind `http`")),
        (AgentKind::Llm, Some(_), _) => return Err(Problem::field("/http", "is not for an agent of kind `llm`")),
    };
    Ok(Settings { target, timeout_seconds: timeout_seconds.unwrap_or(TIMEOUT), retry: retry.unwrap_or_default() })
}

fn given(secret: String) -> Given {
    if secret == HIDDEN { Given::Kept } else { Given::New(secret) }
}

/// Whether it can be the value of a header, wherever it is read.
fn sendable(secret: &str) -> bool {
    (1..=4_096).contains(&secret.len()) && secret.bytes().all(|b| (b' '..=b'~').contains(&b))
}

fn new_http(http: HttpBody) -> Result<NewHttp, Problem> {
    let mut headers = BTreeMap::new();
    for (name, value) in http.headers {
        let pointer = format!("/http/headers/{}", escape(&name));
        let parsed = name.parse::<HeaderName>().ok().filter(may_be_set);
        let Some(parsed) = parsed else {
            return Err(Problem::field(pointer, "is no header that can be added to a request; leave it out"));
        };
        if !sendable(&value) {
            return Err(Problem::field(pointer, "must be 1 to 4096 visible characters of ASCII"));
        }
        if headers.insert(parsed.as_str().to_owned(), given(value)).is_some() {
            return Err(Problem::field(pointer, "stands twice, in two spellings; name it once"));
        }
    }
    Ok(NewHttp { url: http.url, headers })
}

fn new_llm(llm: LlmBody) -> Result<NewLlm, Problem> {
    if llm.api_key.as_ref().is_some_and(|key| !sendable(key)) {
        return Err(Problem::field("/llm/api_key", "must be 1 to 4096 visible characters of ASCII"));
    }
    let LlmBody { base_url, model, system_prompt, api_key, prices, .. } = llm;
    Ok(NewLlm { base_url, model, system_prompt, api_key: api_key.map(given), prices })
}

impl Intent<Agent> for CreateAgent {
    fn example() -> Value {
        json!({
            "external_id": "writer",
            "name": "Writer",
            "kind": "http",
            "http": { "url": "https://example.com/work", "headers": { "authorization": "Bearer token" } },
            "timeout_seconds": 30,
            "retry": { "attempts": 3, "initial_seconds": 1.0, "factor": 2.0 },
        })
    }

    fn external_id(&self) -> Option<&str> {
        self.external_id.as_ref().map(ExternalId::as_str)
    }

    fn complete<'a>(&'a mut self, call: &'a Call) -> BoxFuture<'a, Result<(), Problem>> {
        Box::pin(check(call, self.http.as_mut(), self.llm.as_mut()))
    }

    fn command(self, id: AgentId, _: &Call) -> Result<AgentCommand, Problem> {
        let settings = settings(self.kind, self.http, self.llm, self.timeout_seconds, self.retry)?;
        Ok(AgentCommand::Create { id, external_id: self.external_id, name: self.name, settings })
    }
}

impl Intent<Agent> for ConfigureAgent {
    fn example() -> Value {
        json!({
            "kind": "llm",
            "llm": {
                "base_url": "https://example.com/v1",
                "model": "small-1",
                "system_prompt": "Answer in one sentence.",
                "api_key": "sk-1",
                "prices": { "currency": "USD", "prompt_per_million": 15, "completion_per_million": 60 },
            },
        })
    }

    fn complete<'a>(&'a mut self, call: &'a Call) -> BoxFuture<'a, Result<(), Problem>> {
        Box::pin(check(call, self.http.as_mut(), self.llm.as_mut()))
    }

    fn command(self, id: AgentId, _: &Call) -> Result<AgentCommand, Problem> {
        let settings = settings(self.kind, self.http, self.llm, self.timeout_seconds, self.retry)?;
        Ok(AgentCommand::Configure { id, name: self.name, settings })
    }
}
