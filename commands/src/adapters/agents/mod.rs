//! The port of agents: a call with an input, an outcome. Its providers are a program behind a URL (`http`) and a language
//! model behind an OpenAI-compatible chat endpoint (`llm`).
//!
//! Architecture Invariant: nothing that is sent or answered here reaches a log; it may be about a person.

mod http;
mod llm;

use std::time::Duration;

use chrono::TimeDelta;
use domain::RunId;
use domain::agents::{AttemptOutcome, FailureCode};
use hyper::header::{HeaderName, HeaderValue};
use serde_json::{Map, Value};

use crate::clock;
use crate::egress::{Egress, EgressError, Incoming, Outgoing};

/// How much of the provider's own words a failure keeps, in characters.
const WORDS: usize = 1_000;
/// The header that carries `<run>:<attempt>`.
const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");

/// One attempt.
pub(crate) struct Call {
    /// Which run.
    pub(crate) run: RunId,
    /// Which attempt of it, from 1.
    pub(crate) attempt: i64,
    /// The agent's state, its secrets opened.
    pub(crate) agent: Value,
    /// What is to be worked on.
    pub(crate) input: Map<String, Value>,
    /// How long it may take.
    pub(crate) timeout: Duration,
}

/// Calls the provider. Whatever happens is an outcome.
pub(crate) async fn call(egress: &Egress, call: Call) -> AttemptOutcome {
    let answered = match call.agent["kind"].as_str() {
        Some("llm") => llm::call(egress, call).await,
        _ => http::call(egress, call).await,
    };
    answered.unwrap_or_else(|failure| failure.into())
}

/// An attempt that failed.
struct Failed {
    code: FailureCode,
    provider_status: Option<u16>,
    detail: String,
    retryable: bool,
    retry_after: Option<Duration>,
}

impl Failed {
    /// A failure of that kind, whose repetition would fail again.
    fn for_good(code: FailureCode, detail: impl Into<String>) -> Self {
        Self { code, provider_status: None, detail: detail.into(), retryable: false, retry_after: None }
    }
}

impl From<Failed> for AttemptOutcome {
    fn from(failed: Failed) -> Self {
        Self::Failed {
            code: failed.code,
            provider_status: failed.provider_status.map(i64::from),
            detail: Some(failed.detail).filter(|detail| !detail.is_empty()),
            retryable: failed.retryable,
            retry_after: failed.retry_after.and_then(|wait| TimeDelta::from_std(wait).ok()),
        }
    }
}

impl From<EgressError> for Failed {
    fn from(error: EgressError) -> Self {
        use {EgressError as E, FailureCode as C};
        let (code, retryable) = match error {
            E::Forbidden(_) => (C::UrlForbidden, false),
            E::Invalid(_) => (C::Unsendable, false),
            E::Unresolved | E::Connect | E::NoAnswer | E::BodyIncomplete => (C::Connection, true),
            E::Certificate(_) => (C::Certificate, false),
            E::Timeout => (C::TimedOut, true),
            E::HeadersTooLarge => (C::InvalidResponse, false),
            E::BodyTooLarge(_) => (C::ResultTooLarge, false),
        };
        Self { retryable, ..Self::for_good(code, error.to_string()) }
    }
}

/// Posts a body under the attempt's key, and gives the JSON of a success. 408, 429 and 5xx may go better another time.
async fn post(
    egress: &Egress,
    call: &Call,
    url: String,
    mut headers: Vec<(HeaderName, HeaderValue)>,
    body: &Value,
    max_body: usize,
) -> Result<Value, Failed> {
    let unsendable = |_| Failed::for_good(FailureCode::Unsendable, "the request has no form that can be sent");
    let key = format!("{}:{}", call.run, call.attempt);
    headers.push((IDEMPOTENCY_KEY, HeaderValue::from_str(&key).map_err(|_| unsendable(()))?));
    let body = serde_json::to_vec(body).map_err(|_| unsendable(()))?;
    let outgoing = Outgoing { url, headers, body, timeout: call.timeout, max_body, now: clock::now() };
    let incoming = egress.post_json(outgoing).await?;
    if (200..300).contains(&incoming.status) {
        return serde_json::from_slice(&incoming.body).map_err(|_| {
            let detail = format!("the provider answered {} with a body that is no JSON", incoming.status);
            Failed { provider_status: Some(incoming.status), ..Failed::for_good(FailureCode::InvalidResponse, detail) }
        });
    }
    Err(refused(&incoming))
}

fn refused(incoming: &Incoming) -> Failed {
    let (code, retryable) = match incoming.status {
        429 => (FailureCode::ProviderBusy, true),
        408 | 500..=599 => (FailureCode::ProviderStatus, true),
        300..=399 => (FailureCode::Redirected, false),
        _ => (FailureCode::ProviderStatus, false),
    };
    let words: String = String::from_utf8_lossy(&incoming.body).chars().filter(|c| *c != '\0').take(WORDS).collect();
    let (provider_status, retry_after) = (Some(incoming.status), incoming.retry_after);
    Failed { code, provider_status, detail: words, retryable, retry_after }
}
