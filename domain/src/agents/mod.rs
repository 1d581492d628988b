//! Agents: programs and language models behind a URL, and the runs that they are given.

mod agent;
mod run;

pub use agent::{
    Agent, AgentCommand, AgentError, AgentEvent, AgentKind, AgentStatus, Given, Http, Llm, MAX_HEADERS, NewHttp,
    NewLlm, Prices, Retry, RetryError, SecretName, Settings, TIMEOUT_SECONDS, Target, origin,
};
pub use run::{
    AttemptOutcome, Cost, Failure, FailureCode, MAX_BYTES, MAX_RETRY_AFTER, Request, Run, RunCommand, RunError,
    RunEvent, RunStatus, Usage,
};
